"""How an operator logs in: by the fleet's own folder, or by a YAML file with the same facts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from tools.settings import SettingsError, load
from transport.broker import BrokerConfig, TlsConfig
from transport.topics import identifier

Identifier = Annotated[str, AfterValidator(identifier)]


class OperatorConfig(BaseModel):
    """Which federation an operator speaks to, and as whom.

    Attributes:
        login: The certificate's CN where there is one, and the MQTT client id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    federation: Identifier
    login: Identifier = "operator"
    broker: BrokerConfig = BrokerConfig()


def from_file(path: Path) -> OperatorConfig:
    """Return the login that a YAML file describes.

    Raises:
        SettingsError: It does not.
    """
    return load(OperatorConfig, path, environ=os.environ)


def fleet_here() -> Path:
    """Return the fleet's folder where none is named: this one, or ./fleet."""
    here = Path.cwd()
    return here if (here / "fleet.yaml").is_file() else here / "fleet"


def from_fleet(folder: Path, *, login: str, only_watches: bool = False) -> OperatorConfig:
    """Return the login of a person in the folder that `fedfstq init fleet` made.

    Args:
        folder: The fleet's.
        login: The person's name.
        only_watches: Nothing is commanded, so a viewer will do as well as an operator.

    Raises:
        SettingsError: It is no such folder, or has nobody of this name.
    """
    # Loads what makes certificates; a login by a file does without.
    from tools.init.errors import InitRefused  # noqa: PLC0415
    from tools.init.fleet import PEOPLE, Role  # noqa: PLC0415
    from tools.init.folder import FleetFolder, is_fleet  # noqa: PLC0415

    if not is_fleet(folder):
        raise SettingsError(
            f"{folder} holds no fleet: name its folder by --fleet, or a login by --config"
        )
    try:
        fleet = FleetFolder(folder)
        record = fleet.load()
    except InitRefused as error:
        raise SettingsError(str(error)) from error
    member = record.names.get(login)
    roles = PEOPLE if only_watches else (Role.OPERATOR,)
    if member is None or member.role not in roles or member.is_revoked:
        known = [name for role in roles for name, one in record.having(role) if not one.is_revoked]
        what = "person" if only_watches else "operator"
        raise SettingsError(
            f"{login!r} is no {what} of this fleet (there are: {', '.join(known) or 'none'})"
        )
    home = fleet.home(login, member.role)
    tls = TlsConfig(
        ca_file=folder / "ca.crt",
        cert_file=home / f"{login}.crt",
        key_file=home / f"{login}.key",
    )
    broker = BrokerConfig(host=record.hosts[0], port=record.port, tls=tls)
    return OperatorConfig(federation=record.federation, login=login, broker=broker)
