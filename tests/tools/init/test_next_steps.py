"""What is printed names files that are there and commands that exist."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from tools.init.fleet import Role
from tools.init.folder import FleetFolder
from tools.init.next_steps import (
    after_devices,
    after_fleet,
    after_person,
    after_renewal,
    after_revocation,
)
from tools.init.operations import FleetWish, add_person, make_fleet, record, renew, revoke


def _files(text: str, fleet: Path) -> list[Path]:
    return [Path(file) for file in re.findall(rf"{fleet}/[\w./-]+\.(?:tar|crt|key|yaml)", text)]


def test_a_new_fleet_leads_to_broker_aggregator_and_devices(fleet: Path) -> None:
    text = after_fleet(FleetFolder(fleet), record(fleet))
    for line in (
        "ssh mqtt.example.org sudo bash install.sh broker --bundle broker.tar",
        "sudo bash install.sh aggregator --bundle aggregator.tar",
        f"fedfstq init device nano-01 --fleet {fleet}",
    ):
        assert line in text
    files = _files(text, fleet)
    assert fleet / "bundles" / "broker.tar" in files
    assert all(file.is_file() for file in files)


def test_a_device_is_one_file_and_one_line(fleet: Path) -> None:
    text = after_devices(FleetFolder(fleet), ("nano-01",), record(fleet))
    assert f"scp {fleet}/bundles/nano-01.tar nano-01:" in text
    assert "sudo bash install.sh agent --bundle nano-01.tar" in text
    assert all(file.is_file() for file in _files(text, fleet))


def test_a_new_person_needs_the_broker_and_a_known_one_does_not(fleet: Path, now: datetime) -> None:
    outcome = add_person(fleet, "alice", Role.VIEWER, now=now)
    folder = FleetFolder(fleet)
    text = after_person(folder, "alice", outcome.fleet, outcome.bundles)
    assert "install.sh broker" in text
    assert all(file.is_file() for file in _files(text, fleet))
    again = add_person(fleet, "alice", Role.VIEWER, now=now)
    assert "install.sh" not in after_person(folder, "alice", again.fleet, again.bundles)


def test_a_revocation_goes_to_the_broker_and_with_signatures_to_the_aggregator(
    tmp_path: Path, now: datetime
) -> None:
    for signing in (False, True):
        place = tmp_path / f"{signing}"
        wish = FleetWish(federation="f", hosts=("b",), signing=signing)
        make_fleet(place, wish, now=now)
        folder = FleetFolder(place)
        outcome = revoke(place, "viewer", now=now)
        text = after_revocation(folder, "viewer", outcome.fleet, outcome.bundles)
        assert "install.sh broker" in text
        assert ("install.sh aggregator" in text) is signing
        again = revoke(place, "viewer", now=now)
        assert "have it already" in after_revocation(folder, "viewer", again.fleet, again.bundles)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nano-01", "install.sh agent --bundle nano-01.tar"),
        ("coord", "install.sh aggregator --bundle aggregator.tar"),
        ("broker", "install.sh broker --bundle broker.tar"),
        ("viewer", "people/viewer.key"),
    ],
)
def test_a_renewal_says_where_the_new_key_goes_and_how_long_the_old_one_holds(
    fleet: Path, now: datetime, name: str, said: str
) -> None:
    outcome = renew(fleet, name, hosts=(), now=now)
    text = after_renewal(FleetFolder(fleet), name, outcome.fleet, outcome.bundles)
    assert said in text
    assert "stays good until 2028-11-22" in text
