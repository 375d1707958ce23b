"""Who may be named what, and how certificates follow one another."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.init.errors import InitRefused
from tools.init.fleet import (
    RESERVED,
    Fleet,
    Issued,
    Role,
    admitted,
    host_name,
    new_name,
    renewed,
    revoked,
    with_hosts,
    written,
)
from tools.settings import load


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=70))
def test_only_identifiers_are_names(name: str) -> None:
    """A slash in a certificate's name would let one device write another's topics."""
    is_identifier = re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", name) is not None
    if is_identifier and name not in RESERVED:
        assert new_name(name) == name
    else:
        with pytest.raises(InitRefused):
            new_name(name)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_the_fleets_own_names_are_not_given_away(name: str) -> None:
    with pytest.raises(InitRefused, match="taken"):
        new_name(name)


@pytest.mark.parametrize(
    "host", ["mqtt.example.org", "localhost", "broker-1", "10.0.0.5", "fd00::5", "2.0.0.10.lan"]
)
def test_names_and_addresses_are_hosts(host: str) -> None:
    assert host_name(host) == host


@pytest.mark.parametrize(
    "host",
    ["", "mqtt://x", "x:8883", "10.0.0.256", "10.0.0", "a..b", "-a.b", "a b", "a" * 300, "*.x.org"],
)
def test_anything_else_is_none(host: str) -> None:
    with pytest.raises(InitRefused, match="is no host"):
        host_name(host)


def test_a_record_is_read_as_it_was_written(make_record: Any, tmp_path: Path) -> None:
    fleet = make_record(revoked=("nano-01",), signing=True)
    path = tmp_path / "fleet.yaml"
    path.write_text(written(fleet))
    assert load(Fleet, path) == fleet


def test_a_name_is_admitted_once_and_for_one_role(make_record: Any) -> None:
    fleet = make_record(revoked=("nano-02",))
    assert admitted(fleet, "nano-01", Role.DEVICE)
    assert not admitted(fleet, "nano-03", Role.DEVICE)
    with pytest.raises(InitRefused, match="this fleet's device already"):
        admitted(fleet, "nano-01", Role.VIEWER)
    with pytest.raises(InitRefused, match="fedfstq init renew nano-02"):
        admitted(fleet, "nano-02", Role.DEVICE)
    with pytest.raises(InitRefused, match="this fleet's aggregator"):
        admitted(fleet, "coord", Role.DEVICE)


def test_revoking_takes_every_certificate_of_a_name_and_keeps_the_first_moment(
    make_record: Any, now: datetime
) -> None:
    second = Issued(serial="ff", begins=now, ends=now)
    once = revoked(renewed(make_record(), "nano-01", second), "nano-01", now=now)
    again = revoked(once, "nano-01", now=now + timedelta(days=1))
    assert again == once
    assert {one.serial for one in revoked_certificates(again)} == {0x14, 0xFF}
    assert again.shut_out() == ("nano-01",)
    assert [name for name, _ in again.having(Role.DEVICE)] == ["nano-02"]


def revoked_certificates(fleet: Fleet) -> tuple[Any, ...]:
    return fleet.revoked()


def test_renewing_lets_a_revoked_name_in_with_its_new_certificate_alone(
    make_record: Any, now: datetime
) -> None:
    fleet = renewed(
        make_record(revoked=("nano-01",)), "nano-01", Issued(serial="ff", begins=now, ends=now)
    )
    assert fleet.shut_out() == ()
    assert [one.serial for one in fleet.revoked()] == [0x14]


def test_the_broker_cannot_be_revoked_and_strangers_neither(
    make_record: Any, now: datetime
) -> None:
    with pytest.raises(InitRefused, match="new fleet"):
        revoked(make_record(), "broker", now=now)
    with pytest.raises(InitRefused, match="nobody here"):
        revoked(make_record(), "nano-09", now=now)


def test_hosts_are_added_once_and_the_first_stays_first(make_record: Any) -> None:
    fleet = with_hosts(make_record(), ("10.0.0.5", "mqtt.example.org", "10.0.0.5"))
    assert fleet.hosts == ("mqtt.example.org", "10.0.0.5")
