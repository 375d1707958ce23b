"""Certificates: whose signature counts. The only file of the services that reads X.509.

A certificate from elsewhere meets as little code as possible: its length is checked before it comes
here, and nothing but its outline is read before the authority's signature on it is found good. What
it says after that is what the fleet's own authority has written.

Imported only where signing is on: the library takes some 10 MB.

Source: RFC 5280 for certificates and revocation lists, RFC 8032 and RFC 8410 for Ed25519.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transport.errors import BadLinkConfig, BadSignature

log = logging.getLogger(__name__)

Key: TypeAlias = Ed25519PrivateKey

# [s] What a clock may be off. Of a board whose clock is further off nothing is lost: it keeps what
# it cannot check, and asks again.
CLOCK_TOLERANCE_S: Final = 86_400.0
# Certificates that were found good, so that each is read once: some 2 KB each, and only the
# authority can make one.
_KEPT: Final = 8_192
# What the library raises for bytes that are no certificate, or one that it cannot judge.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    Warning,  # of what a later release will refuse, where warnings are errors
)


@dataclass(frozen=True, slots=True)
class Signer:
    """What an authority says of one key.

    Attributes:
        name: The subject's common name.
        issuer: The authority's name, DER.
        begins_s: Unix seconds from which it holds.
        ends_s: Unix seconds up to which it holds.
    """

    name: str
    key: Ed25519PublicKey
    issuer: bytes
    serial: int
    begins_s: float
    ends_s: float

    def verify(self, signature: bytes, signed: bytes) -> None:
        """Raise `BadSignature` where this key has not signed these bytes."""
        try:
            self.key.verify(signature, signed)
        except InvalidSignature:
            raise BadSignature(f"{self.name} has not signed this") from None


class Revocations:
    """The certificates that are revoked, by a list that may be replaced while this runs.

    A list is used for as long as no other is there, whatever date it says it ends on: what is
    revoked stays so.
    """

    def __init__(self, path: Path, authorities: tuple[x509.Certificate, ...]) -> None:
        """Read the list.

        Raises:
            BadLinkConfig: It is missing, no list, or not signed by one of the authorities.
        """
        self._path = path
        self._authorities = authorities
        self._mark = self._stamp()
        self._revoked = self._read()

    def __contains__(self, signer: Signer) -> bool:
        self._follow()
        return (signer.issuer, signer.serial) in self._revoked

    def _follow(self) -> None:
        """Take a new list; while there is none that can be read, the last one counts."""
        mark = self._stamp()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._revoked = self._read()
        except BadLinkConfig as error:
            log.error("%s; the list that was read last still counts", error)  # noqa: TRY400 - one clear line
        else:
            log.info("signing.crl_file %s names %d certificates", self._path, len(self._revoked))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None  # reading it says why
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> frozenset[tuple[bytes, int]]:
        try:
            listed = x509.load_pem_x509_crl(self._path.read_bytes())
            is_ours = any(_has_signed(authority, listed) for authority in self._authorities)
            issuer = listed.issuer.public_bytes()
            revoked = frozenset((issuer, one.serial_number) for one in listed)
        except OSError as error:
            raise BadLinkConfig(
                f"signing.crl_file {self._path} cannot be read: {error.strerror or error}"
            ) from error
        except _UNREADABLE as error:
            raise BadLinkConfig(
                f"signing.crl_file {self._path} holds no PEM revocation list ({error})"
            ) from error
        if not is_ours:
            raise BadLinkConfig(
                f"signing.crl_file {self._path} is not signed by the authority in signing.ca_file"
            )
        return revoked


class Trust:
    """Knows whose certificates count."""

    def __init__(self, authorities: tuple[x509.Certificate, ...], crl_file: Path | None) -> None:
        """Trust what these authorities have issued, unless the list revokes it.

        Raises:
            BadLinkConfig: The list cannot be used.
        """
        self._authorities = authorities
        self._revocations = Revocations(crl_file, authorities) if crl_file else None
        self._signers: OrderedDict[bytes, Signer] = OrderedDict()

    def signer(self, certificate: bytes, *, name: str, now_s: float) -> Signer:
        """Return the key of a certificate that counts for this name at this moment.

        Args:
            certificate: DER from elsewhere, of a length that was checked.
            name: Whose it must be.
            now_s: Unix seconds.

        Raises:
            BadSignature: It does not count; the text says why.
        """
        fingerprint = hashlib.sha256(certificate).digest()
        signer = self._signers.get(fingerprint)
        if signer is None:
            signer = self._signers[fingerprint] = read_signer(certificate, self._authorities)
            if len(self._signers) > _KEPT:
                self._signers.popitem(last=False)
        self._signers.move_to_end(fingerprint)
        if signer.name != name:
            raise BadSignature(f"the certificate is of {signer.name[:64]!r}, not of {name}")
        if now_s < signer.begins_s - CLOCK_TOLERANCE_S:
            raise BadSignature(
                f"the certificate of {name} begins on {date_of(signer.begins_s)}, "
                f"and here it is {date_of(now_s)}: is a clock wrong?"
            )
        if now_s > signer.ends_s + CLOCK_TOLERANCE_S:
            raise BadSignature(
                f"the certificate of {name} ended on {date_of(signer.ends_s)}, "
                f"and here it is {date_of(now_s)}"
            )
        if self._revocations is not None and signer in self._revocations:
            raise BadSignature(f"the certificate of {name} is revoked")
        return signer


def read_signer(certificate: bytes, authorities: tuple[x509.Certificate, ...]) -> Signer:
    """Return what one of these authorities says in a certificate of its own.

    Raises:
        BadSignature: It is no certificate, of a foreign authority, or not for a client's Ed25519
            key.
    """
    try:
        read = x509.load_der_x509_certificate(certificate)
        if not any(_has_issued(authority, read) for authority in authorities):
            raise BadSignature("the certificate is of an authority that is not trusted here")
        key = read.public_key()
        names = read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        purposes = read.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except _UNREADABLE as error:
        raise BadSignature(f"no certificate that can be judged ({type(error).__name__})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadSignature("the certificate is of no Ed25519 key")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise BadSignature("the certificate is not for a client (extended key usage clientAuth)")
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise BadSignature("the certificate's subject has not one common name")
    return Signer(
        name=names[0].value,
        key=key,
        issuer=read.issuer.public_bytes(),
        serial=read.serial_number,
        begins_s=read.not_valid_before_utc.timestamp(),
        ends_s=read.not_valid_after_utc.timestamp(),
    )


def load_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM file.

    Raises:
        BadLinkConfig: There are none.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(_read(path, "ca_file")))
    except ValueError as error:
        raise BadLinkConfig(f"signing.ca_file {path} holds no PEM certificate ({error})") from error


def load_certificate(path: Path) -> bytes:
    """Return the first certificate of a PEM file, in DER.

    Raises:
        BadLinkConfig: There is none.
    """
    try:
        first = x509.load_pem_x509_certificate(_read(path, "cert_file"))
    except ValueError as error:
        raise BadLinkConfig(
            f"signing.cert_file {path} holds no PEM certificate ({error})"
        ) from error
    return first.public_bytes(Encoding.DER)


def load_key(path: Path) -> Key:
    """Return the key of a PEM file.

    Raises:
        BadLinkConfig: There is none, it is encrypted, or it is not an Ed25519 key.
    """
    text = _read(path, "key_file")
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's text could quote the file.
        raise BadLinkConfig(
            f"signing.key_file {path} holds no unencrypted PEM private key"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadLinkConfig(
            f"signing.key_file {path} holds no Ed25519 key, and no other kind signs: make it with "
            "`fedfstq init` without --key p256, or set signing: off"
        )
    return key


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _has_signed(authority: x509.Certificate, listed: x509.CertificateRevocationList) -> bool:
    if listed.issuer != authority.subject:
        return False
    # mypy: keys that sign nothing are among those that a certificate may have.
    return listed.is_signature_valid(authority.public_key())  # type: ignore[arg-type]


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadLinkConfig(
            f"signing.{field} {path} cannot be read: {error.strerror or error}"
        ) from error


def date_of(seconds: float) -> str:
    """Return a moment in Unix seconds as people read it."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "no date"
    return moment.strftime("%Y-%m-%d %H:%M UTC")
