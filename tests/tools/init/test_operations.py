"""A fleet folder from nothing to revoked: what is written, what is kept, what is refused."""

from __future__ import annotations

import shutil
import tarfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from tools.init.certificates import (
    KeyKind,
    belongs,
    is_signed_by,
    lists_exactly,
    read_certificate,
)
from tools.init.errors import FleetDamaged, InitRefused
from tools.init.fleet import Role
from tools.init.folder import FleetFolder
from tools.init.operations import (
    FleetWish,
    add_devices,
    add_person,
    make_fleet,
    record,
    renew,
    revoke,
)
from tools.settings import load

WISH = FleetWish(federation="clinics", hosts=("mqtt.example.org",))


def _tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_a_new_fleet_has_the_files_that_the_installer_takes(fleet: Path) -> None:
    assert {file.relative_to(fleet).as_posix() for file in fleet.rglob("*") if file.is_file()} == {
        ".gitignore",
        "fleet.yaml",
        "ca.crt",
        "ca.key",
        "crl.pem",
        "broker/mosquitto.conf",
        "broker/acl",
        "broker/broker.crt",
        "broker/broker.key",
        "broker/ca.crt",
        "broker/crl.pem",
        "broker/dynamic-security.json",
        "aggregator/aggregator.yaml",
        "aggregator/coord.crt",
        "aggregator/coord.key",
        "aggregator/ca.crt",
        "aggregator/crl.pem",
        "people/operator.crt",
        "people/operator.key",
        "people/viewer.crt",
        "people/viewer.key",
        "devices/nano-01/agent-nano-01.yaml",
        "devices/nano-01/nano-01.crt",
        "devices/nano-01/nano-01.key",
        "devices/nano-01/ca.crt",
        "bundles/broker.tar",
        "bundles/aggregator.tar",
        "bundles/nano-01.tar",
    }


def test_nobody_else_can_read_anything(fleet: Path) -> None:
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in (fleet, *fleet.rglob("*"))}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_a_bundle_has_one_machines_files_and_no_other_key(fleet: Path) -> None:
    for name, home in (
        ("nano-01", "devices/nano-01"),
        ("aggregator", "aggregator"),
        ("broker", "broker"),
    ):
        packed = _tar(fleet / "bundles" / f"{name}.tar")
        assert packed == {
            file.name: file.read_bytes() for file in (fleet / home).iterdir() if file.is_file()
        }
        assert sum(file.endswith(".key") for file in packed) == 1


def test_the_services_take_their_files(fleet: Path) -> None:
    agent = load(AgentConfig, fleet / "devices" / "nano-01" / "agent-nano-01.yaml")
    aggregator = load(AggregatorConfig, fleet / "aggregator" / "aggregator.yaml")
    assert agent.federation == aggregator.federation == "clinics"
    assert agent.broker.address == aggregator.broker.address == ("mqtt.example.org", 8883)


def test_repeating_changes_nothing(fleet: Path, snapshot: Any, now: datetime) -> None:
    add_person(fleet, "alice", Role.VIEWER, now=now)
    revoke(fleet, "alice", now=now)
    before, later = snapshot(fleet), now + timedelta(days=1)
    assert make_fleet(fleet, WISH, now=later).bundles == ()
    assert make_fleet(fleet, FleetWish(), now=later).issued == ()
    assert add_devices(fleet, ["nano-01"], changes=(), now=later).issued == ()
    assert add_person(fleet, "viewer", Role.VIEWER, now=later).issued == ()
    assert revoke(fleet, "alice", now=later).bundles == ()
    assert snapshot(fleet) == before


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.one_of(st.text(max_size=70), st.sampled_from(["a/b", "+", "#", "Nano", "ca", "-a"])))
def test_a_name_that_is_none_is_refused_before_anything_is_written(
    fleet: Path, snapshot: Any, now: datetime, name: str
) -> None:
    before = snapshot(fleet)
    try:
        add_devices(fleet, ["nano-09", name], changes=(), now=now)
    except InitRefused:
        assert snapshot(fleet) == before
    else:
        assert set(record(fleet).names) >= {"nano-09", name}


@pytest.mark.parametrize(
    "wish",
    [
        FleetWish(),
        FleetWish(federation="clinics"),
        FleetWish(federation="Clinics", hosts=("a",)),
        FleetWish(federation="clinics", hosts=("a b",)),
        FleetWish(federation="clinics", hosts=("a",), changes=("roundz=3",)),
        FleetWish(federation="clinics", hosts=("a",), key=KeyKind.P256, signing=True),
    ],
)
def test_a_fleet_that_cannot_be_leaves_nothing_behind(
    tmp_path: Path, now: datetime, wish: FleetWish
) -> None:
    with pytest.raises(InitRefused):
        make_fleet(tmp_path / "fleet", wish, now=now)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, now: datetime) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InitRefused, match="something else"):
        make_fleet(tmp_path, WISH, now=now)
    with pytest.raises(InitRefused, match="something else"):
        make_fleet(tmp_path / "thesis.tex", WISH, now=now)


def test_an_empty_folder_becomes_the_fleet(tmp_path: Path, now: datetime) -> None:
    folder = tmp_path / "empty"
    folder.mkdir(mode=0o755)
    make_fleet(folder, WISH, now=now)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (FleetWish(federation="other"), "--federation clinics"),
        (FleetWish(port=1234), "--port 8883"),
        (FleetWish(key=KeyKind.P256), "--key ed25519"),
        (FleetWish(signing=True), "--signing False"),
        (FleetWish(hosts=("10.0.0.5",)), "init renew broker --broker 10.0.0.5"),
        (FleetWish(goal=7), "edit it"),
    ],
)
def test_a_fleet_is_not_made_into_another_one(
    fleet: Path, snapshot: Any, now: datetime, wish: FleetWish, said: str
) -> None:
    before = snapshot(fleet)
    with pytest.raises(InitRefused, match=said):
        make_fleet(fleet, wish, now=now)
    assert snapshot(fleet) == before


def test_a_file_that_was_edited_is_kept_and_packed(fleet: Path, now: datetime) -> None:
    own = fleet / "devices" / "nano-01" / "agent-nano-01.yaml"
    own.write_text(own.read_text().replace("device: auto", "device: cuda"))
    with pytest.raises(InitRefused, match="edit it"):
        add_devices(fleet, ["nano-01"], changes=["device=cpu"], now=now)
    assert add_devices(fleet, ["nano-01"], changes=(), now=now).bundles == ("nano-01",)
    packed = _tar(fleet / "bundles" / "nano-01.tar")
    assert b"device: cuda" in packed["agent-nano-01.yaml"]


def test_a_revoked_name_is_on_the_list_out_of_the_rules_and_without_bundle(
    fleet: Path, now: datetime
) -> None:
    serial = record(fleet).names["nano-01"].current.number
    outcome = revoke(fleet, "nano-01", now=now)
    assert outcome.bundles == ("broker", "aggregator")
    authority = (fleet / "ca.crt").read_bytes()
    for place in ("crl.pem", "broker/crl.pem", "aggregator/crl.pem"):
        assert lists_exactly((fleet / place).read_bytes(), [serial], authority=authority)
    assert "user nano-01\ntopic deny #\n" in (fleet / "broker" / "acl").read_text()
    assert not (fleet / "bundles" / "nano-01.tar").exists()
    with pytest.raises(InitRefused, match="renew nano-01"):
        add_devices(fleet, ["nano-01"], changes=(), now=now)


def test_a_renewed_name_has_a_new_key_and_its_old_one_is_kept(fleet: Path, now: datetime) -> None:
    home = fleet / "devices" / "nano-01"
    old = {file.suffix: file.read_bytes() for file in home.glob("nano-01.*")}
    serial = record(fleet).names["nano-01"].current.serial
    renew(fleet, "nano-01", hosts=(), now=now)
    new = {file.suffix: file.read_bytes() for file in home.glob("nano-01.*")}
    assert new[".key"] != old[".key"]
    assert belongs(new[".key"], new[".crt"])
    for suffix, content in old.items():
        assert (fleet / "earlier" / f"nano-01-{serial}{suffix}").read_bytes() == content
    assert _tar(fleet / "bundles" / "nano-01.tar")["nano-01.key"] == new[".key"]
    assert len(record(fleet).names["nano-01"].certificates) == 2


def test_revoking_and_renewing_the_aggregator_packs_it_again(fleet: Path, now: datetime) -> None:
    revoke(fleet, "coord", now=now)
    assert not (fleet / "bundles" / "aggregator.tar").exists()
    assert renew(fleet, "coord", hosts=(), now=now).bundles == ("broker", "aggregator")
    assert "\ntopic deny #\n" not in (fleet / "broker" / "acl").read_text()


def test_the_broker_can_be_given_more_names(fleet: Path, now: datetime) -> None:
    assert renew(fleet, "broker", hosts=("10.0.0.5",), now=now).bundles == ("broker",)
    assert record(fleet).hosts == ("mqtt.example.org", "10.0.0.5")
    with pytest.raises(InitRefused, match="init renew broker"):
        renew(fleet, "nano-01", hosts=("10.0.0.6",), now=now)


def test_without_the_authoritys_key_only_signing_is_refused(
    fleet: Path, snapshot: Any, now: datetime
) -> None:
    """It may well be kept on a stick in a safe."""
    (fleet / "ca.key").rename(fleet.parent / "safe.key")
    before = snapshot(fleet)
    add_devices(fleet, ["nano-01"], changes=(), now=now)
    with pytest.raises(FleetDamaged, match=r"ca\.key is missing"):
        add_devices(fleet, ["nano-02"], changes=(), now=now)
    assert snapshot(fleet) == before


def test_a_key_that_is_gone_is_named_with_what_mends_it(fleet: Path, now: datetime) -> None:
    (fleet / "devices" / "nano-01" / "nano-01.key").unlink()
    with pytest.raises(FleetDamaged, match="fedfstq init renew nano-01"):
        add_devices(fleet, ["nano-01"], changes=(), now=now)
    renew(fleet, "nano-01", hosts=(), now=now)
    add_devices(fleet, ["nano-01"], changes=(), now=now)


def test_keys_that_were_mixed_up_are_not_packed(fleet: Path, now: datetime) -> None:
    home = fleet / "devices" / "nano-01"
    (home / "nano-01.key").write_bytes((fleet / "people" / "viewer.key").read_bytes())
    with pytest.raises(FleetDamaged, match="not of this key"):
        add_devices(fleet, ["nano-01"], changes=(), now=now)
    (fleet / "ca.key").write_bytes((fleet / "people" / "viewer.key").read_bytes())
    with pytest.raises(FleetDamaged, match=r"not the key of ca\.crt"):
        add_devices(fleet, ["nano-02"], changes=(), now=now)


def test_a_record_that_was_spoilt_is_said_and_not_overwritten(fleet: Path, now: datetime) -> None:
    (fleet / "fleet.yaml").write_text("federation: [")
    with pytest.raises(FleetDamaged, match="backup"):
        add_devices(fleet, ["nano-02"], changes=(), now=now)
    assert (fleet / "fleet.yaml").read_text() == "federation: ["


def test_an_authority_that_has_ended_signs_nothing(fleet: Path, now: datetime) -> None:
    with pytest.raises(FleetDamaged, match="has ended on 2036"):
        add_devices(fleet, ["nano-02"], changes=(), now=now + timedelta(days=3651))


@pytest.mark.parametrize("kind", list(KeyKind))
def test_every_pair_belongs_together_and_to_the_fleet(
    tmp_path: Path, now: datetime, kind: KeyKind
) -> None:
    folder = tmp_path / "fleet"
    make_fleet(folder, FleetWish(federation="f", hosts=("b",), key=kind), now=now)
    authority = (folder / "ca.crt").read_bytes()
    pairs = list(folder.glob("*/*.key"))
    assert len(pairs) == 4
    for key in pairs:
        certificate = key.with_suffix(".crt").read_bytes()
        assert belongs(key.read_bytes(), certificate)
        assert is_signed_by(certificate, authority)


# --- a crash at every step ------------------------------------------------------------------------


class _Crash(BaseException):
    """What no code catches: as if the process had been killed."""


@pytest.mark.parametrize("operation", ["device", "renew", "revoke"])
def test_after_a_crash_at_any_step_the_next_run_finishes_or_undoes(
    fleet: Path, now: datetime, monkeypatch: pytest.MonkeyPatch, operation: str, tmp_path: Path
) -> None:
    """No certificate is in place that the record does not name, and repeating leads to the end."""
    runs = {
        "device": lambda folder: add_devices(folder, ["nano-02"], changes=(), now=now),
        "renew": lambda folder: renew(folder, "nano-01", hosts=(), now=now),
        "revoke": lambda folder: revoke(folder, "nano-01", now=now),
    }
    real, steps = Path.replace, 0
    while True:
        folder = shutil.copytree(fleet, tmp_path / f"{operation}-{steps}")
        count = 0

        def replace(self: Path, target: Path, limit: int = steps) -> Path:
            nonlocal count
            if count == limit:
                raise _Crash
            count += 1
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            try:
                runs[operation](folder)
                break
            except _Crash:
                steps += 1
        add_devices(folder, ["nano-03"], changes=(), now=now)
        _check(folder)
        runs[operation](folder)
        _check(folder)
    assert steps > 4


def _check(folder: Path) -> None:
    fleet, place = record(folder), FleetFolder(folder)
    recorded = {one.serial for member in fleet.names.values() for one in member.certificates}
    for name, member in fleet.names.items():
        pair = place.pair(name, member)
        assert f"{read_certificate(pair.certificate).serial_number:x}" == member.current.serial
    serials = {
        f"{read_certificate(file.read_bytes()).serial_number:x}"
        for file in folder.rglob("*.crt")
        if file.name != "ca.crt"
    }
    assert serials <= recorded
    assert not (folder / ".staged").exists()
    assert yaml.safe_load((folder / "fleet.yaml").read_text())["federation"] == "clinics"
