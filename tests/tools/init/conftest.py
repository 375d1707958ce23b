"""Fleets in folders, on a fixed day."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tools.init.fleet import Fleet, Issued, Member, Role
from tools.init.operations import FleetWish, add_devices, make_fleet

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def _fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "fleet"
    make_fleet(folder, FleetWish(federation="clinics", hosts=("mqtt.example.org",)), now=NOW)
    add_devices(folder, ["nano-01"], changes=(), now=NOW)
    return folder


@pytest.fixture
def fleet(_fleet: Path, tmp_path: Path) -> Path:
    """A fleet of one device, `nano-01`."""
    return shutil.copytree(_fleet, tmp_path / "fleet")


@pytest.fixture
def make_record() -> Callable[..., Fleet]:
    """Makes a fleet's record of names and roles, without any file."""

    def make(revoked: tuple[str, ...] = (), **changes: object) -> Fleet:
        roles = {
            "broker": Role.BROKER,
            "coord": Role.AGGREGATOR,
            "operator": Role.OPERATOR,
            "viewer": Role.VIEWER,
            "nano-01": Role.DEVICE,
            "nano-02": Role.DEVICE,
        }
        names = {
            name: Member(
                role=role,
                certificates=(
                    Issued(
                        serial=f"{number + 16:x}",
                        begins=NOW,
                        ends=NOW.replace(year=2028),
                        revoked=NOW if name in revoked else None,
                    ),
                ),
            )
            for number, (name, role) in enumerate(roles.items())
        }
        values = {
            "federation": "clinics",
            "key": "ed25519",
            "made": NOW,
            "hosts": ("mqtt.example.org",),
            "names": names,
            **changes,
        }
        return Fleet.model_validate(values)

    return make


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[bytes, int]]]:
    """Returns what a folder holds and when it was written."""

    def take(folder: Path) -> dict[str, tuple[bytes, int]]:
        return {
            file.relative_to(folder).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }

    return take
