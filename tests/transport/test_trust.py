from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transport import limits
from transport.errors import BadLinkConfig, BadSignature
from transport.trust import (
    CLOCK_TOLERANCE_S,
    Trust,
    load_authorities,
    load_certificate,
    load_key,
    read_signer,
)

DAY_S = 86_400


def trust_of(authority: Any, crl_file: Path | None = None) -> Trust:
    return Trust(load_authorities(authority.ca_file), crl_file)


def test_a_certificate_of_the_authority_counts_for_its_own_name(authority: Any) -> None:
    login = authority.certify("dev-1")
    signer = trust_of(authority).signer(login.der, name="dev-1", now_s=authority.BEGINS_S)
    assert (signer.name, signer.serial) == ("dev-1", 2)
    assert signer.key == login.key.public_key()
    assert len(login.der) < limits.MAX_CERTIFICATE_BYTES / 8


def test_it_counts_for_no_other_name(authority: Any) -> None:
    login, trust = authority.certify("dev-1"), trust_of(authority)
    for name in ("dev-2", "coord", "dev-10"):
        with pytest.raises(BadSignature, match=f"of 'dev-1', not of {name}"):
            trust.signer(login.der, name=name, now_s=authority.BEGINS_S)


def test_a_foreign_authority_counts_for_nothing(
    authority: Any, make_authority: Callable[..., Any]
) -> None:
    foreign = make_authority("another authority").certify("dev-1")
    with pytest.raises(BadSignature, match="not trusted here"):
        trust_of(authority).signer(foreign.der, name="dev-1", now_s=authority.BEGINS_S)


def test_an_authority_of_the_same_name_with_another_key_counts_for_nothing(
    authority: Any, make_authority: Callable[..., Any]
) -> None:
    impostor = make_authority("impostor")
    impostor._subject = authority._subject
    forged = impostor.certify("dev-1")
    with pytest.raises(BadSignature, match="not trusted here"):
        trust_of(authority).signer(forged.der, name="dev-1", now_s=authority.BEGINS_S)


def test_a_device_s_certificate_makes_no_other(authority: Any) -> None:
    """It is signed by a key that the authority has certified, and that is not enough."""
    device = authority.certify("dev-1")
    authority.key, root = device.key, authority.key
    authority._subject = authority._name_of("dev-1")
    forged = authority.certify("coord")
    authority.key = root
    with pytest.raises(BadSignature, match="not trusted here"):
        trust_of(authority).signer(forged.der, name="coord", now_s=authority.BEGINS_S)


def test_one_of_several_authorities_is_enough(
    authority: Any, make_authority: Callable[..., Any]
) -> None:
    new = make_authority("the next authority")
    both = authority.folder / "both.crt"
    both.write_bytes(authority.ca_file.read_bytes() + new.ca_file.read_bytes())
    trust = Trust(load_authorities(both), None)
    for one in (authority, new):
        login = one.certify("dev-1")
        assert trust.signer(login.der, name="dev-1", now_s=one.BEGINS_S).name == "dev-1"


def test_the_broker_s_own_certificate_signs_nothing(authority: Any) -> None:
    """Even where it has the aggregator's name: whoever broke in has its key."""
    broker = authority.certify("coord", server=True)
    with pytest.raises(BadSignature, match="not for a client"):
        trust_of(authority).signer(broker.der, name="coord", now_s=authority.BEGINS_S)


def test_other_keys_than_ed25519_sign_nothing(authority: Any) -> None:
    login = authority.certify("dev-1", kind="p256")
    with pytest.raises(BadSignature, match="no Ed25519 key"):
        trust_of(authority).signer(login.der, name="dev-1", now_s=authority.BEGINS_S)


def test_a_certificate_has_one_name(authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = authority._name_of("dev-1"), authority._name_of("coord")
    both = type(one)([*one.rdns, *other.rdns])
    monkeypatch.setattr(authority, "_name_of", lambda _: both)
    login = authority.certify("dev-1")
    for name in ("dev-1", "coord"):
        with pytest.raises(BadSignature, match="not one common name"):
            trust_of(authority).signer(login.der, name=name, now_s=authority.BEGINS_S)


def test_validity_is_checked_with_a_day_for_clocks_that_are_off(authority: Any) -> None:
    login, trust = authority.certify("dev-1", days=10), trust_of(authority)
    begins_s, ends_s = authority.BEGINS_S, authority.BEGINS_S + 10 * DAY_S
    for now_s in (begins_s - CLOCK_TOLERANCE_S, ends_s + CLOCK_TOLERANCE_S):
        trust.signer(login.der, name="dev-1", now_s=now_s)
    with pytest.raises(BadSignature, match=r"begins on 2026-01-01 00:00 UTC.*1970-01-01"):
        trust.signer(login.der, name="dev-1", now_s=0.0)
    with pytest.raises(BadSignature, match="ended on 2026-01-11 00:00 UTC"):
        trust.signer(login.der, name="dev-1", now_s=ends_s + CLOCK_TOLERANCE_S + 1)
    with pytest.raises(BadSignature, match="no date"):
        trust.signer(login.der, name="dev-1", now_s=1e300)


def test_what_is_revoked_counts_no_more_from_the_next_message_on(authority: Any) -> None:
    """The list is replaced while the service runs, and the certificate is known to it already."""
    login, other = authority.certify("dev-1", serial=7), authority.certify("dev-2", serial=8)
    trust = trust_of(authority, authority.revoke())
    now_s = authority.BEGINS_S + 400 * DAY_S  # long after the list says that it ends
    trust.signer(login.der, name="dev-1", now_s=now_s)
    authority.revoke(7)
    with pytest.raises(BadSignature, match="dev-1 is revoked"):
        trust.signer(login.der, name="dev-1", now_s=now_s)
    trust.signer(other.der, name="dev-2", now_s=now_s)


def test_a_list_that_is_spoiled_or_gone_takes_nothing_back(
    authority: Any, make_authority: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    login = authority.certify("dev-1", serial=7)
    path = authority.revoke(7)
    trust = trust_of(authority, path)

    def is_revoked() -> bool:
        try:
            trust.signer(login.der, name="dev-1", now_s=authority.BEGINS_S)
        except BadSignature as error:
            return "revoked" in str(error)
        return False

    with caplog.at_level(logging.INFO):
        for spoil in (
            lambda: path.write_text("no list"),
            lambda: make_authority("another authority").revoke(path=path),
            path.unlink,
        ):
            caplog.clear()
            spoil()
            assert is_revoked()
            assert is_revoked()
            assert ["still counts" in record.getMessage() for record in caplog.records] == [True]
        authority.revoke()
        assert not is_revoked()
    assert "names 0 certificates" in caplog.text


def test_a_list_that_cannot_be_used_at_the_start_is_a_configuration_error(
    authority: Any, make_authority: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(BadLinkConfig, match="cannot be read"):
        trust_of(authority, tmp_path / "missing.pem")
    path = tmp_path / "spoiled.pem"
    path.write_text("no list")
    with pytest.raises(BadLinkConfig, match="no PEM revocation list"):
        trust_of(authority, path)
    foreign = make_authority("another authority").revoke()
    with pytest.raises(BadLinkConfig, match="not signed by the authority"):
        trust_of(authority, foreign)


def test_only_so_many_certificates_are_kept(
    authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.trust._KEPT", 2)
    trust = trust_of(authority)
    logins = [authority.certify(f"dev-{number}") for number in range(5)]
    for login in (*logins, *logins):
        trust.signer(login.der, name=login.name, now_s=authority.BEGINS_S)
        assert len(trust._signers) <= 2


def test_every_prefix_of_a_certificate_is_refused(authority: Any) -> None:
    login, authorities = authority.certify("dev-1"), load_authorities(authority.ca_file)
    for length in range(len(login.der)):
        with pytest.raises(BadSignature):
            read_signer(login.der[:length], authorities)


def test_no_flipped_bit_of_a_certificate_makes_another_of_it(authority: Any) -> None:
    """One is of how the signature is packed, which nobody signs, and changes nothing."""
    login, authorities = authority.certify("dev-1"), load_authorities(authority.ca_file)
    true, refused = read_signer(login.der, authorities), 0
    for place in range(8 * len(login.der)):
        spoiled = bytearray(login.der)
        spoiled[place // 8] ^= 1 << place % 8
        try:
            assert read_signer(bytes(spoiled), authorities) == true
        except BadSignature:
            refused += 1
    assert refused >= 8 * len(login.der) - 1
    with pytest.raises(BadSignature):
        read_signer(login.der + b"x", authorities)


@given(raw=st.binary(max_size=300))
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_refused_by_a_typed_error(authority: Any, raw: bytes) -> None:
    with pytest.raises(BadSignature):
        read_signer(raw, load_authorities(authority.ca_file))


def test_files_that_cannot_be_used_are_named_and_not_quoted(authority: Any, tmp_path: Path) -> None:
    missing, spoiled = tmp_path / "missing", tmp_path / "spoiled"
    spoiled.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    for load in (load_authorities, load_certificate, load_key):
        with pytest.raises(BadLinkConfig, match=f"{missing} cannot be read: No such file"):
            load(missing)
        with pytest.raises(BadLinkConfig, match=f"{spoiled} holds no") as caught:
            load(spoiled)
        assert "c2VjcmV0" not in str(caught.value)
    other = authority.certify("dev-1", kind="p256")
    with pytest.raises(BadLinkConfig, match=r"no Ed25519 key.*signing: off"):
        load_key(other.key_file)
    if os.geteuid():
        spoiled.chmod(0)
        with pytest.raises(BadLinkConfig, match="Permission denied"):
            load_key(spoiled)


def test_what_is_on_the_disk_is_what_is_loaded(authority: Any) -> None:
    login = authority.certify("dev-1")
    assert load_certificate(login.cert_file) == login.der
    assert load_key(login.key_file).public_key() == login.key.public_key()
