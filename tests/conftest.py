"""What holds for all tests."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

# A suite that a script starts in the background inherits SIGINT as ignored, and so would the
# demos that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where a test was skipped and the environment promised that nothing is missing."""
    if not os.environ.get("FEDFSTQ_NO_SKIP") or session.exitstatus != pytest.ExitCode.OK:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("FEDFSTQ_NO_SKIP is set, and tests were skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class Authority:
    """An authority of certificates; all that it signs is the same for the same arguments.

    The keys are made of names, so that golden files can hold what they sign: nobody else may.
    """

    # 2026-01-01 00:00 UTC
    BEGINS_S = 1_767_225_600

    def __init__(self, folder: Path, *, name: str = "test authority") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.key = self.key_of(f"authority {name}")
        self._subject = self._name_of(name)
        public = self.key.public_key()
        self.certificate = (
            self._builder(self._subject, public, serial=1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.key, None)
        )
        self.ca_file = self._write("ca.crt", self.certificate)

    def key_of(self, name: str) -> Any:
        """Return the Ed25519 key of a name."""
        seed = hashlib.sha256(name.encode()).digest()
        return ed25519.Ed25519PrivateKey.from_private_bytes(seed)

    def certify(
        self,
        name: str,
        *,
        kind: str = "ed25519",
        server: bool = False,
        serial: int = 2,
        begins_s: int = BEGINS_S,
        days: int = 36_500,
    ) -> Login:
        """Return a certificate with its key, and write both as PEM."""
        key = (
            self.key_of(f"{self.name} {name}")
            if kind == "ed25519"
            else ec.generate_private_key(ec.SECP256R1())
        )
        use = x509.oid.ExtendedKeyUsageOID
        purpose = use.SERVER_AUTH if server else use.CLIENT_AUTH
        builder = self._builder(
            self._name_of(name), key.public_key(), serial=serial, begins_s=begins_s, days=days
        )
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (
                x509.KeyUsage(True, *[False] * 8),  # noqa: FBT003 - nine flags of the library's
                True,
            ),
            (x509.ExtendedKeyUsage([purpose]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(self.key, None)
        key_file = self.folder / f"{name}.key"
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Login(
            name=name,
            key=key,
            der=certificate.public_bytes(serialization.Encoding.DER),
            cert_file=self._write(f"{name}.crt", certificate),
            key_file=key_file,
            ca_file=self.ca_file,
        )

    def revoke(self, *serials: int, path: Path | None = None) -> Path:
        """Write a list of what is revoked."""
        begins = self._moment(self.BEGINS_S)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._subject)
            .last_update(begins)
            .next_update(begins + timedelta(days=1))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begins)
            builder = builder.add_revoked_certificate(entry.build())
        path = path or self.folder / "crl.pem"
        fresh = path.with_suffix(".new")
        signed = builder.sign(self.key, None)
        fresh.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return fresh.replace(path)

    def _builder(
        self, subject: Any, key: Any, *, serial: int, begins_s: int = BEGINS_S, days: int = 36_500
    ) -> Any:
        begins = self._moment(begins_s)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(begins)
            .not_valid_after(begins + timedelta(days=days))
        )

    def _name_of(self, name: str) -> Any:
        common_name = x509.oid.NameOID.COMMON_NAME
        return x509.Name([x509.NameAttribute(common_name, name)])

    @staticmethod
    def _moment(seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, timezone.utc)

    def _write(self, file: str, certificate: Any) -> Path:
        path = self.folder / file
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


@dataclass(frozen=True)
class Login:
    """A service's key and certificate."""

    name: str
    key: Any
    der: bytes
    cert_file: Path
    key_file: Path
    ca_file: Path

    def signing(self, mode: str = "required", **changes: Any) -> dict[str, Any]:
        """Return the configuration that signs with it."""
        files = {name: str(getattr(self, name)) for name in ("cert_file", "key_file", "ca_file")}
        return {"mode": mode, **files, **changes}


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[..., Authority]:
    """Makes authorities, each with a folder of its own."""

    def make(name: str = "test authority") -> Authority:
        return Authority(tmp_path / "authorities" / name.replace(" ", "-"), name=name)

    return make


@pytest.fixture
def authority(make_authority: Callable[..., Authority]) -> Authority:
    return make_authority()
