from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from tools.init.certificates import KeyKind
from tools.init.fleet import Fleet, Issued, Member, Role, written
from tools.monitor.login import login_of
from tools.settings import SettingsError

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    issued = (Issued(serial="1", begins=NOW, ends=NOW),)
    roles = {"operator": Role.OPERATOR, "viewer": Role.VIEWER, "nano-01": Role.DEVICE}
    record = Fleet(
        federation="clinics",
        key=next(iter(KeyKind)),
        made=NOW,
        hosts=("mqtt.example.org",),
        port=8884,
        names={name: Member(role=role, certificates=issued) for name, role in roles.items()},
    )
    folder = tmp_path / "fleet"
    folder.mkdir()
    (folder / "fleet.yaml").write_text(written(record))
    return folder


@pytest.mark.parametrize("login", ["viewer", "operator"])
def test_people_may_watch(fleet: Path, login: str) -> None:
    config = login_of(None, fleet, login)
    assert (config.federation, config.login) == ("clinics", login)
    assert config.broker.tls is not None
    assert config.broker.tls.cert_file == fleet / "people" / f"{login}.crt"


def test_devices_may_not(fleet: Path) -> None:
    with pytest.raises(SettingsError, match="there are: operator, viewer"):
        login_of(None, fleet, "nano-01")


def test_the_fleet_is_found_where_it_is_made(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (fleet, fleet.parent):
        monkeypatch.chdir(folder)
        assert login_of(None, None, "viewer").federation == "clinics"


def test_a_file_is_a_login_and_both_are_none(fleet: Path) -> None:
    path = fleet / "viewer.yaml"
    path.write_text("federation: elsewhere\nlogin: anna\n")
    config = login_of(path, None, "viewer")
    assert (config.federation, config.login) == ("elsewhere", "anna")
    with pytest.raises(SettingsError, match="not both"):
        login_of(path, fleet, "viewer")
