"""Which configuration is examined, and whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from tools.doctor.context import Role
from tools.doctor.finding import Finding, fail, ok, warn
from tools.settings import SettingsError, load

FOLDER = "etc/fedfstq"
_CHECK = "configuration"


class SeveralFound(Exception):
    """More than one configuration lies there, and one must be named."""


def find(root: Path) -> Path | None:
    """Return the one configuration below /etc/fedfstq, None where there is none.

    Raises:
        SeveralFound: There are more.
    """
    folder = root / FOLDER
    found = sorted([*folder.glob("agent-*.yaml"), *folder.glob("aggregator.yaml")])
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise SeveralFound(f"name one of them: {names}")
    return found[0] if found else None


def role_of(values: object) -> Role | None:
    """Return whose configuration these values are, by the key that only one of the two has."""
    if not isinstance(values, dict):
        return None
    if "initial_adapter" in values:
        return Role.AGGREGATOR
    return Role.AGENT if "data" in values else None


def read(
    path: Path | None, *, environ: Mapping[str, str], looked: bool
) -> tuple[AgentConfig | AggregatorConfig | None, Finding]:
    """Return the configuration in a file and what is to be said about it.

    Args:
        path: None where there is none.
        environ: Variables that override the file, as for the services.
        looked: The file was not named, but looked for.
    """
    if path is None:
        text = f"none in /{FOLDER}: only the machine is examined"
        return None, warn(_CHECK, text, "fedfstq doctor FILE.yaml, or fedfstq init fleet first")
    try:
        role = role_of(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "problem", None) or "not UTF-8"
        if mark := getattr(error, "problem_mark", None):
            why = f"line {mark.line + 1}: {why}"
        return None, fail(_CHECK, f"{path}: {why}", "correct the file, or run the doctor as root")
    if role is None:
        text = f"{path}: neither an agent's (`data`) nor an aggregator's (`initial_adapter`)"
        return None, fail(_CHECK, text, "compare with docs/examples/agent.yaml, aggregator.yaml")
    try:
        config: AgentConfig | AggregatorConfig
        if role is Role.AGENT:
            config = load(AgentConfig, path, environ=environ)
        else:
            config = load(AggregatorConfig, path, environ=environ)
    except SettingsError as error:
        return None, fail(_CHECK, str(error), f"correct {path}")
    found = ", found there" if looked else ""
    return config, ok(
        _CHECK, f"{path}{found}: {role.value} {config.client_id} of federation {config.federation}"
    )
