"""The service's certificate: whose it is, who signed it, until when, and that the key fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.doctor.context import Context
from tools.doctor.finding import Finding, fail, ok, skip, warn
from transport.credentials import credential

# [s] A visit to a device takes planning.
SOON_S: Final = 30 * 86_400
NAMES: Final = (
    "certificate-valid",
    "certificate-name",
    "certificate-chain",
    "certificate-key",
    "authority-valid",
    "revocations",
)

_CRL_FILE: Final = "crl.pem"


class _Unreadable(Exception):
    """A file is missing or holds something else; the text is one line."""


def examine_certificates(context: Context) -> Iterator[Finding]:
    """Yield one finding for each of `NAMES`."""
    tls = context.broker.tls
    if tls is None or tls.cert_file is None:
        yield from _without(has_tls=tls is not None, has_password=_has_password(context))
        return
    name = context.service.client_id
    again = f"fedfstq init renew {name} in the fleet's folder, then install its bundle here"
    try:
        chain = _read_chain(tls.cert_file)
        authorities = _read_chain(tls.ca_file)
    except _Unreadable as error:
        yield fail(NAMES[0], str(error), again)
        return
    now = context.now()
    yield judge_valid(NAMES[0], *_validity(chain[0]), now=now, mend=again)
    yield judge_name(_common_name(chain[0]), name, is_client=_is_for_clients(chain[0]), mend=again)
    yield judge_chain(chain, authorities, mend=again)
    yield _key(chain[0], tls.key_file or tls.cert_file, mend=again)
    yield judge_valid(
        NAMES[4],
        *_validity(authorities[0]),
        now=now,
        mend="fedfstq init fleet makes a new authority; every device then needs a new bundle",
    )
    yield _revocations(chain[0], authorities, _crl_file(context, tls.ca_file), now=now, mend=again)


def _crl_file(context: Context, ca_file: Path) -> Path:
    """Return the list that the service itself looks at, or the one beside its authority."""
    return context.service.signing.crl_file or ca_file.parent / _CRL_FILE


def _has_password(context: Context) -> bool:
    return context.broker.username is not None


def _without(*, has_tls: bool, has_password: bool) -> Iterator[Finding]:
    if has_tls and has_password:
        yield ok(NAMES[0], "none: the login is a user name and a password, in TLS")
    elif has_tls:
        mend = "set broker.tls.cert_file and key_file, or broker.username and password_file"
        yield warn(NAMES[0], "none, and no user name: the broker cannot know this service", mend)
    else:
        mend = "set broker.tls: fedfstq init fleet makes what it needs"
        yield warn(NAMES[0], "no TLS: updates and logins travel in clear", mend)
    for name in NAMES[1:]:
        yield skip(name, "there is no certificate")


def _read_chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise _Unreadable(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _Unreadable(f"{path} holds no PEM certificate") from error


def _validity(certificate: x509.Certificate) -> tuple[float, float]:
    # The properties that end in _utc came with cryptography 42, which is the least that we take.
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begins.timestamp(), ends.timestamp()


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage.value


def judge_valid(check: str, begins: float, ends: float, *, now: float, mend: str) -> Finding:
    """Tell whether a certificate holds now and for some time to come; all in seconds since 1970."""
    if now < begins:
        return fail(
            check,
            f"valid only from {_day(begins)}, and the clock here says {_day(now)}",
            "set the clock: timedatectl set-ntp true",
        )
    if now >= ends:
        return fail(check, f"ended on {_day(ends)}", mend)
    days = int((ends - now) // 86_400)
    if ends - now < SOON_S:
        return warn(check, f"ends on {_day(ends)}, in {days} days", mend)
    return ok(check, f"until {_day(ends)}, {days} days")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, tz=timezone.utc).strftime("%Y-%m-%d")  # 3.10


def judge_name(common_name: str, client_id: str, *, is_client: bool, mend: str) -> Finding:
    """Tell whether the certificate says the name that the service goes by."""
    if common_name != client_id:
        return fail(
            "certificate-name",
            f"it names {common_name!r}, the configuration client_id {client_id!r}: the broker "
            "knows only the first",
            f"set client_id: {common_name}, or: {mend}",
        )
    if not is_client:
        return fail("certificate-name", "it is not made for clients (extended key usage)", mend)
    return ok("certificate-name", f"{common_name}, as client_id")


def judge_chain(
    chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], *, mend: str
) -> Finding:
    """Tell whether one of the authorities signed the certificate, over those that came with it."""
    current = chain[0]
    for _ in range(len(chain) + 1):
        if any(_signed(current, by=one) for one in authorities):
            return ok("certificate-chain", f"signed by {current.issuer.rfc4514_string()}")
        above = next((one for one in chain[1:] if _signed(current, by=one)), None)
        if above is None or above == current:
            break
        current = above
    return fail("certificate-chain", "broker.tls.ca_file did not sign the certificate", mend)


def _signed(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key(certificate: x509.Certificate, path: Path, *, mend: str) -> Finding:
    try:
        key = load_pem_private_key(credential(path).read_bytes(), password=None)
    except PermissionError:
        return fail("certificate-key", f"{path} may not be read", "run the doctor as root")
    except OSError as error:
        return fail("certificate-key", f"{path} cannot be read: {error.strerror}", mend)
    except (ValueError, TypeError):
        return fail("certificate-key", f"{path} holds no unencrypted PEM key", mend)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        return fail("certificate-key", f"{path} is not the certificate's key", mend)
    return ok("certificate-key", "fits the certificate")


def _revocations(
    certificate: x509.Certificate,
    authorities: Sequence[x509.Certificate],
    path: Path,
    *,
    now: float,
    mend: str,
) -> Finding:
    try:
        crl = x509.load_pem_x509_crl(path.read_bytes())
    except FileNotFoundError:
        return ok("revocations", f"no {path.name} beside ca_file here; the broker has its own")
    except (OSError, ValueError):
        return fail("revocations", f"{path} is no list of revocations", f"rm {path}, or: {mend}")
    if not any(crl.is_signature_valid(one.public_key()) for one in authorities):  # type: ignore[arg-type]  # keys that cannot sign lists are not in authorities
        return fail("revocations", f"{path} was not signed by ca_file", "copy the fleet's crl.pem")
    if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        return fail("revocations", "this certificate is revoked", mend)
    following = crl.next_update_utc
    if following is not None and following.timestamp() < now:
        return warn(
            "revocations",
            f"{path} should have been renewed on {_day(following.timestamp())}",
            "copy the fleet's newest broker/crl.pem here; `fedfstq init list` there renews it",
        )
    return ok("revocations", f"{path.name} does not name this certificate")
