"""The files that services and the broker are given: from templates, checked as the services do.

The templates are the examples of docs/ and broker_config/, so that what a newcomer reads there is
what `init` writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tools.init.errors import InitRefused
from tools.init.filled import filled
from tools.init.fleet import DEFAULT_PORT, Fleet
from tools.settings import SettingsError, load

_EXAMPLE_DEVICE = "nano-01"
_CERTS = "/etc/fedfstq/certs"


def template(name: str) -> str:
    """Return one of the files from which a fleet's are made."""
    return (files("tools.init") / "templates" / name).read_text(encoding="utf-8")


def agent_file(fleet: Fleet, name: str, *, changes: Sequence[str] = ()) -> str:
    """Return the YAML file of one device's agent and trainer.

    Args:
        fleet: Whose device it is.
        name: The device.
        changes: `a.b=c` each, c in YAML's notation.

    Raises:
        InitRefused: The agent would not take the file; the text says which key, and why.
    """
    from agent.config import AgentConfig  # noqa: PLC0415  # numpy, for one command of several

    values: dict[tuple[str, ...], object] = {
        ("federation",): fleet.federation,
        ("client_id",): name,
        **_broker(fleet, login=name),
        ("state_dir",): f"/var/lib/fedfstq/{name}",
    }
    if fleet.signing:
        values["signing",] = "required"
    text = template("agent.yaml").replace(_EXAMPLE_DEVICE, name)
    return _checked(AgentConfig, f"agent-{name}.yaml", text, values | _parsed(changes))


def aggregator_file(fleet: Fleet, *, goal: int, changes: Sequence[str] = ()) -> str:
    """Return the aggregator's YAML file.

    Args:
        fleet: Whose aggregator it is.
        goal: Complete updates that close a round; half of them are its quorum.
        changes: `a.b=c` each, c in YAML's notation.

    Raises:
        InitRefused: The aggregator would not take the file; the text says which key, and why.
    """
    from aggregator.config import AggregatorConfig  # noqa: PLC0415  # numpy, for one command

    values: dict[tuple[str, ...], object] = {
        ("federation",): fleet.federation,
        **_broker(fleet, login="coord"),
        ("goal",): goal,
        ("quorum",): max(1, -(-goal // 2)),
    }
    if fleet.signing:
        values["signing",] = {"mode": "required", "crl_file": f"{_CERTS}/crl.pem"}
    text = template("aggregator.yaml")
    return _checked(AggregatorConfig, "aggregator.yaml", text, values | _parsed(changes))


def mosquitto_file(fleet: Fleet) -> str:
    """Return the broker's configuration."""
    text = template("mosquitto.conf")
    listener = f"\nlistener {DEFAULT_PORT}\n"
    assert text.count(listener) == 1
    return text.replace(listener, f"\nlistener {fleet.port}\n")


def _broker(fleet: Fleet, *, login: str) -> dict[tuple[str, ...], object]:
    values: dict[tuple[str, ...], object] = {("broker", "host"): fleet.hosts[0]}
    if fleet.port != DEFAULT_PORT:
        values["broker", "port"] = fleet.port
    return values | {
        ("broker", "tls", "ca_file"): f"{_CERTS}/ca.crt",
        ("broker", "tls", "cert_file"): f"{_CERTS}/{login}.crt",
        ("broker", "tls", "key_file"): f"{_CERTS}/{login}.key",
    }


def _parsed(changes: Sequence[str]) -> dict[tuple[str, ...], object]:
    values: dict[tuple[str, ...], object] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not all(part.isidentifier() for part in key.strip().split(".")):
            raise InitRefused(f"--set {change}: write --set key=value, or --set a.b=value")
        try:
            values[tuple(key.strip().split("."))] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InitRefused(f"--set {change}: the value is no YAML") from error
    return values


def _checked(
    model: type[BaseModel], name: str, text: str, values: dict[tuple[str, ...], Any]
) -> str:
    """Return the file, once the service's own way of reading has taken it."""
    result = filled(text, values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(result, encoding="utf-8")
        try:
            load(model, path)
        except SettingsError as error:
            raise InitRefused(str(error).replace(f"{folder}/", "")) from error
    return result
