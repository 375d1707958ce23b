from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from tools.init.certificates import KeyKind
from tools.init.fleet import Fleet, Issued, Member, Role, written
from tools.operate.login import from_file, from_fleet
from tools.settings import SettingsError

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def member(role: Role, *, revoked: bool = False) -> Member:
    issued = Issued(serial="1", begins=NOW, ends=NOW, revoked=NOW if revoked else None)
    return Member(role=role, certificates=(issued,))


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    record = Fleet(
        federation="clinics",
        key=next(iter(KeyKind)),
        made=NOW,
        hosts=("mqtt.example.org", "192.168.1.10"),
        port=8884,
        names={
            "operator": member(Role.OPERATOR),
            "anna": member(Role.OPERATOR),
            "gone": member(Role.OPERATOR, revoked=True),
            "viewer": member(Role.VIEWER),
            "nano-01": member(Role.DEVICE),
        },
    )
    (tmp_path / "fleet.yaml").write_text(written(record))
    return tmp_path


@pytest.mark.parametrize("login", ["operator", "anna"])
def test_a_fleets_folder_is_a_login(fleet: Path, login: str) -> None:
    config = from_fleet(fleet, login=login)
    assert (config.federation, config.login) == ("clinics", login)
    assert config.broker.address == ("mqtt.example.org", 8884)
    assert config.broker.tls is not None
    assert config.broker.tls.ca_file == fleet / "ca.crt"
    assert config.broker.tls.cert_file == fleet / "people" / f"{login}.crt"
    assert config.broker.tls.key_file == fleet / "people" / f"{login}.key"


@pytest.mark.parametrize("login", ["viewer", "nano-01", "gone", "nobody"])
def test_only_operators_of_the_fleet_may_ask(fleet: Path, login: str) -> None:
    with pytest.raises(SettingsError, match=r"there are: (anna, operator|operator, anna)"):
        from_fleet(fleet, login=login)


def test_a_folder_without_a_fleet_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no fleet"):
        from_fleet(tmp_path, login="operator")
    (tmp_path / "fleet.yaml").write_text("federation: [")
    with pytest.raises(SettingsError, match=r"fleet\.yaml"):
        from_fleet(tmp_path, login="operator")


def test_a_file_is_a_login(tmp_path: Path) -> None:
    path = tmp_path / "operator.yaml"
    path.write_text("federation: clinics\nbroker: {host: mqtt.example.org}\n")
    config = from_file(path)
    assert (config.federation, config.login) == ("clinics", "operator")
    path.write_text("federation: Clinics\n")
    with pytest.raises(SettingsError, match="federation"):
        from_file(path)
