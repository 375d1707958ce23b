"""How somebody who only watches logs in: as an operator does, or as a viewer."""

from __future__ import annotations

from pathlib import Path

from tools.operate.login import OperatorConfig, fleet_here, from_file, from_fleet
from tools.settings import SettingsError

VIEWER = "viewer"


def login_of(config: Path | None, fleet: Path | None, login: str) -> OperatorConfig:
    """Return the login that a command's options name.

    Args:
        config: A YAML file with federation, login and broker.
        fleet: The fleet's folder; without either, this folder or ./fleet.
        login: A person of that fleet.

    Raises:
        SettingsError: They name none.
    """
    if config and fleet:
        raise SettingsError("give --config or --fleet, not both")
    if config:
        return from_file(config)
    return from_fleet(fleet or fleet_here(), login=login, only_watches=True)
