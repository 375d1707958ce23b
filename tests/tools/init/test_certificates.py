"""What is signed passes strict checks, serves one purpose, and is revoked by number."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tools.init.certificates import (
    AUTHORITY_VALIDITY,
    LEAF_VALIDITY,
    BadPem,
    KeyKind,
    Login,
    Pair,
    Revoked,
    Server,
    belongs,
    ends,
    is_signed_by,
    leaf_validity,
    lists_exactly,
    new_authority,
    new_key,
    new_serial,
    read_certificate,
    revocation_list,
    sign,
    utc_now,
)


@dataclass
class Made:
    kind: KeyKind
    authority: Pair
    now: datetime

    def signed(self, subject: Login | Server, *, serial: int = 7) -> Pair:
        key = new_key(self.kind)
        validity = leaf_validity(self.now, authority_ends=ends(self.authority.certificate))
        certificate = sign(subject, key, authority=self.authority, serial=serial, validity=validity)
        return Pair(key, certificate)


@pytest.fixture(params=list(KeyKind))
def made(request: pytest.FixtureRequest) -> Made:
    now = utc_now()
    key = new_key(request.param)
    return Made(request.param, Pair(key, new_authority("clinics", key, now=now)), now)


def _verifies(folder: Path, made: Made, leaf: bytes, *arguments: str, crl: bytes = b"") -> bool:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    (folder / "ca.crt").write_bytes(made.authority.certificate + crl)
    (folder / "leaf.crt").write_bytes(leaf)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", *arguments, "leaf.crt"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("subject", "purpose", "other"),
    [
        (Login("nano-01"), "sslclient", "sslserver"),
        (Server(("mqtt.example.org",)), "sslserver", "sslclient"),
    ],
)
def test_a_certificate_serves_one_purpose_and_passes_strict_checks(
    made: Made, tmp_path: Path, subject: Login | Server, purpose: str, other: str
) -> None:
    """A device must not pose as the broker."""
    leaf = made.signed(subject).certificate
    assert _verifies(tmp_path, made, leaf, "-purpose", purpose)
    assert not _verifies(tmp_path, made, leaf, "-purpose", other)


def test_a_revoked_certificate_no_longer_verifies(made: Made, tmp_path: Path) -> None:
    good, lost = (made.signed(Login("nano-01"), serial=number) for number in (7, 8))
    revoked = [Revoked(8, made.now)]
    crl = revocation_list(revoked, authority=made.authority, since=made.now)
    assert _verifies(tmp_path, made, good.certificate, "-crl_check", crl=crl)
    assert not _verifies(tmp_path, made, lost.certificate, "-crl_check", crl=crl)


def test_a_revocation_list_holds_as_long_as_its_authority_and_its_number_grows(
    made: Made,
) -> None:
    """One that ended earlier would refuse the whole fleet on that day."""
    lists = [
        x509.load_pem_x509_crl(
            revocation_list(
                [Revoked(serial, made.now) for serial in range(1, count + 1)],
                authority=made.authority,
                since=made.now,
            )
        )
        for count in (0, 1, 2)
    ]
    numbers = [
        one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in lists
    ]
    assert numbers == [1, 2, 3]
    assert {one.next_update_utc for one in lists} == {ends(made.authority.certificate)}


def test_a_list_is_known_by_what_it_names_and_who_signed_it(made: Made) -> None:
    revoked = [Revoked(8, made.now)]
    crl = revocation_list(revoked, authority=made.authority, since=made.now)
    key = new_key(made.kind)
    foreign = new_authority("clinics", key, now=made.now)
    assert lists_exactly(crl, [8], authority=made.authority.certificate)
    assert not lists_exactly(crl, [], authority=made.authority.certificate)
    assert not lists_exactly(crl, [8, 9], authority=made.authority.certificate)
    assert not lists_exactly(crl, [8], authority=foreign)
    assert not lists_exactly(b"garbage", [8], authority=made.authority.certificate)


def test_the_broker_is_named_by_hosts_and_addresses(made: Made) -> None:
    pair = made.signed(Server(("mqtt.example.org", "10.0.0.5", "fd00::5")))
    names = read_certificate(pair.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["mqtt.example.org"]
    addresses = names.value.get_values_for_type(x509.IPAddress)
    assert [str(address) for address in addresses] == ["10.0.0.5", "fd00::5"]


def test_a_certificate_belongs_to_its_key_and_its_authority_alone(made: Made) -> None:
    pair, other = made.signed(Login("nano-01")), new_key(made.kind)
    assert belongs(pair.key, pair.certificate)
    assert not belongs(other, pair.certificate)
    assert is_signed_by(pair.certificate, made.authority.certificate)
    foreign = new_authority("clinics", other, now=made.now)
    assert not is_signed_by(pair.certificate, foreign)


def test_no_certificate_outlives_its_authority() -> None:
    now = utc_now()
    last = now + timedelta(days=30)
    assert leaf_validity(now, authority_ends=last).ends == last
    moment = now.replace(microsecond=0)
    far = moment + AUTHORITY_VALIDITY
    assert leaf_validity(now, authority_ends=far).ends == moment + LEAF_VALIDITY


def test_what_is_no_key_or_certificate_is_refused(made: Made) -> None:
    pair = made.signed(Login("nano-01"))
    with pytest.raises(BadPem):
        belongs(pair.key, b"garbage")
    with pytest.raises(BadPem):
        belongs(b"garbage", pair.certificate)


def test_a_key_of_another_kind_is_refused(made: Made) -> None:
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(BadPem, match="neither"):
        belongs(pem, made.authority.certificate)


def test_serial_numbers_are_random_and_of_the_length_that_is_allowed() -> None:
    serials = {new_serial() for _ in range(100)}
    assert len(serials) == 100
    assert all(0 < serial < 1 << 159 for serial in serials)
