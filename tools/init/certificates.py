"""Keys, certificates and the revocation list of a fleet, as PEM.

Source: RFC 5280 for what a certificate and a revocation list must hold; RFC 8410 for Ed25519 in
them. Python 3.13 verifies with OpenSSL's strict flag, which wants all of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Replacing the authority means visiting every device.
AUTHORITY_VALIDITY = timedelta(days=3650)
# Long enough for devices that are visited rarely; `fedfstq init list` says when it ends.
LEAF_VALIDITY = timedelta(days=730)
# A board without a battery for its clock is behind until it has reached a time server.
BACKDATED = timedelta(days=1)

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


class KeyKind(str, Enum):
    """What keys a fleet has."""

    ED25519 = "ed25519"
    P256 = "p256"  # for brokers and clients whose TLS library knows no Ed25519


class BadPem(Exception):
    """A file holds no key, certificate or list that this fleet can use; the text says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its certificate, both PEM."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate is good, in UTC and whole seconds."""

    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Revoked:
    """One certificate that is good no more."""

    serial: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Login:
    """What a service's or a person's certificate says: its name, for clients."""

    name: str


@dataclass(frozen=True, slots=True)
class Server:
    """What the broker's certificate says: every name and address that clients use for it."""

    hosts: tuple[str, ...]


def new_serial() -> int:
    """Return a random serial number of 159 bits, as RFC 5280 allows at the most."""
    return x509.random_serial_number()


def leaf_validity(now: datetime, *, authority_ends: datetime) -> Validity:
    """Return the validity of a certificate made now, which never outlives its authority."""
    moment = now.replace(microsecond=0)
    return Validity(moment - BACKDATED, min(moment + LEAF_VALIDITY, authority_ends))


def new_key(kind: KeyKind) -> bytes:
    """Return a new private key as unencrypted PKCS#8 PEM."""
    key: PrivateKey
    match kind:
        case KeyKind.ED25519:
            key = ed25519.Ed25519PrivateKey.generate()
        case KeyKind.P256:
            key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_authority(federation: str, key_pem: bytes, *, now: datetime) -> bytes:
    """Return the certificate of a new authority, signed by its own key."""
    key = _key(key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} authority"[:64])])
    moment = now.replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(new_serial())
        .not_valid_before(moment - BACKDATED)
        .not_valid_after(moment + AUTHORITY_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, _digest(key)).public_bytes(serialization.Encoding.PEM)


def sign(
    subject: Login | Server, key_pem: bytes, *, authority: Pair, serial: int, validity: Validity
) -> bytes:
    """Return a certificate for a key: for one login as a client, or for the broker as a server.

    Raises:
        BadPem: The key, or one of the authority's files, is none.
    """
    issuer, issuer_key, key = read_certificate(authority.certificate), *_keys(authority, key_pem)
    name = subject.name if isinstance(subject, Login) else "broker"
    purpose = (
        ExtendedKeyUsageOID.CLIENT_AUTH
        if isinstance(subject, Login)
        else ExtendedKeyUsageOID.SERVER_AUTH
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(validity.begins)
        .not_valid_after(validity.ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
    )
    if isinstance(subject, Server):
        names = x509.SubjectAlternativeName([general_name(host) for host in subject.hosts])
        builder = builder.add_extension(names, critical=False)
    signed = builder.sign(issuer_key, _digest(issuer_key))
    return signed.public_bytes(serialization.Encoding.PEM)


def revocation_list(revoked: Sequence[Revoked], *, authority: Pair, since: datetime) -> bytes:
    """Return the list of what is revoked, good for as long as the authority.

    A list that ended earlier would refuse the whole fleet on that day, for a broker takes nobody
    in without a valid one. Its number is how many it names: it only ever grows.

    Args:
        revoked: Every revoked certificate.
        authority: Who signs.
        since: When the fleet was made: the date of a list that names nobody.
    """
    issuer, issuer_key = read_certificate(authority.certificate), _key(authority.key)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(max((one.since for one in revoked), default=since))
        .next_update(issuer.not_valid_after_utc)
        .add_extension(x509.CRLNumber(len(revoked) + 1), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
    )
    for one in sorted(revoked, key=lambda one: one.serial):
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial)
        builder = builder.add_revoked_certificate(entry.revocation_date(one.since).build())
    signed = builder.sign(issuer_key, _digest(issuer_key))
    return signed.public_bytes(serialization.Encoding.PEM)


def lists_exactly(pem: bytes, serials: Sequence[int], *, authority: bytes) -> bool:
    """Return whether these bytes are this authority's list of exactly these serial numbers."""
    try:
        listed = x509.load_pem_x509_crl(pem)
    except ValueError:
        return False
    # What it was signed with is of the three kinds that this file makes keys of.
    signer = read_certificate(authority).public_key()
    if not isinstance(signer, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        return False
    return listed.is_signature_valid(signer) and {one.serial_number for one in listed} == set(
        serials
    )


def read_certificate(pem: bytes) -> x509.Certificate:
    """Return the certificate in a PEM file.

    Raises:
        BadPem: There is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise BadPem("holds no certificate") from error


def belongs(key_pem: bytes, certificate_pem: bytes) -> bool:
    """Return whether a certificate is for this key.

    Raises:
        BadPem: One of them is none.
    """
    return _key(key_pem).public_key() == read_certificate(certificate_pem).public_key()


def is_signed_by(certificate_pem: bytes, authority_pem: bytes) -> bool:
    """Return whether this authority has signed the certificate."""
    try:
        read_certificate(certificate_pem).verify_directly_issued_by(read_certificate(authority_pem))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def ends(certificate_pem: bytes) -> datetime:
    """Return when a certificate ends, in UTC."""
    return read_certificate(certificate_pem).not_valid_after_utc


def utc_now() -> datetime:
    """Return the wall clock's time in UTC: what certificates are dated by."""
    return datetime.now(timezone.utc)


def general_name(host: str) -> x509.GeneralName:
    """Return a host's name or address as a certificate holds it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _keys(authority: Pair, key_pem: bytes) -> tuple[PrivateKey, PrivateKey]:
    return _key(authority.key), _key(key_pem)


def _key(pem: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise BadPem("holds no private key without a passphrase") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise BadPem("holds a key that is neither Ed25519 nor P-256")
    return key


def _digest(key: PrivateKey) -> hashes.SHA256 | None:
    """Return the digest to sign with: Ed25519 has its own."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
