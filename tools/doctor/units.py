"""systemd: its version, the service's units, the watchdog, and what an earlier set-up left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, fail, ok, skip, warn
from tools.doctor.owner import has_unit

# LoadCredential= came with 247, the options of our units with 249.
_CREDENTIALS_SINCE: Final = 247
_UNITS_SINCE: Final = 245

_PROPERTIES: Final = (
    "LoadState,UnitFileState,ActiveState,SubState,NRestarts,WatchdogUSec,LimitNOFILESoft,"
    "ExecMainStatus"
)
# Connections of a broker that are not devices: files, listeners, people.
_BROKER_RESERVE: Final = 64
_CODES: Final = {"77": "the broker refused its login", "78": "its configuration is wrong"}


def examine_units(context: Context) -> Iterator[Finding]:
    """Yield `systemd`, `unit`, `watchdog`, `old-units` and `open-files`."""
    if not (context.root / "run/systemd/system").is_dir():
        for name in ("systemd", "unit", "watchdog"):
            yield skip(name, "systemd does not run here")
    else:
        yield judge_systemd(context.ask(["systemctl", "--version"]).out)
        units = [context.unit]
        if context.role is Role.AGENT and context.agent.trainer == "service":
            trainer = context.unit.replace("fedfstq-agent@", "fedfstq-trainer@")
            units += [trainer, trainer.replace(".service", ".socket")]
        told = {unit: _show(context, unit) for unit in units}
        installed = has_unit(context)
        yield judge_units(told, installed=installed)
        yield judge_watchdog(told[context.unit], installed=installed)
    yield judge_old_units(_instances(context.root), _configured(context.root))
    yield _open_files(context)


def _show(context: Context, unit: str) -> dict[str, str]:
    return parse_properties(context.ask(["systemctl", "show", unit, "-p", _PROPERTIES]).out)


def parse_properties(text: str) -> dict[str, str]:
    """Return the properties that `systemctl show` printed."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, equals, value in pairs if equals}


def judge_systemd(version: str) -> Finding:
    """Tell whether this systemd knows what the units ask of it."""
    found = re.search(r"systemd (\d+)", version)
    if not found:
        return skip("systemd", "systemctl does not tell its version")
    number = int(found[1])
    if number < _UNITS_SINCE:
        return fail("systemd", f"{number}, older than {_UNITS_SINCE}", "install a newer system")
    if number < _CREDENTIALS_SINCE:
        return warn(
            "systemd",
            f"{number} has no LoadCredential: the key must be the service's own",
            "install.sh sets that up; by hand: chown fedfstq:fedfstq the key, chmod 600",
        )
    return ok("systemd", str(number))


def judge_units(told: Mapping[str, Mapping[str, str]], *, installed: bool) -> Finding:
    """Tell whether the service's units are there, come back at boot, and run."""
    if not installed:
        return warn(
            "unit",
            f"{' and '.join(told)} not installed: nothing starts it at boot",
            "bash install.sh agent --bundle NAME.tar (or aggregator --bundle aggregator.tar)",
        )
    for unit, properties in told.items():
        state = f"{properties.get('ActiveState')} ({properties.get('SubState')})"
        code = properties.get("ExecMainStatus", "0")
        logs = f"journalctl -u {unit} -n 20"
        if properties.get("ActiveState") == "failed" or code in _CODES:
            why = _CODES.get(code, f"it ended with code {code}")
            return fail(
                "unit", f"{unit} is {state}: {why}", f"{logs}; then systemctl restart {unit}"
            )
        if int(properties.get("NRestarts") or 0) > _MANY_RESTARTS:
            return warn("unit", f"{unit} was restarted {properties['NRestarts']} times", logs)
    main = next(iter(told))
    if told[main].get("ActiveState") != "active":
        return warn("unit", f"{main} does not run", f"systemctl enable --now {main}")
    for unit, properties in told.items():
        if unit.endswith(".socket") and properties.get("ActiveState") != "active":
            text = f"{unit} is not there to be asked: the agent has no trainer"
            return fail("unit", text, f"systemctl start {unit}")
    if told[main].get("UnitFileState") != "enabled":
        return warn("unit", f"{main} runs, and is not started at boot", f"systemctl enable {main}")
    return ok("unit", f"{main} runs, and comes back at boot")


_MANY_RESTARTS: Final = 5


def judge_watchdog(properties: Mapping[str, str], *, installed: bool) -> Finding:
    """Tell whether systemd ends a service that hangs."""
    if not installed:
        return skip("watchdog", "the unit is not installed")
    period = properties.get("WatchdogUSec", "0")
    if period in {"", "0", "infinity"}:
        return warn(
            "watchdog",
            "off: a process that hangs is not restarted",
            "install the units of this version: bash install.sh upgrade",
        )
    return ok("watchdog", f"after {period} without progress")


def _instances(root: Path) -> dict[str, str]:
    """Return the enabled units of agents and the device names in them."""
    wants = (root / "etc/systemd/system").glob("*.wants/fedfstq-agent@*.service")
    return {unit.name: unit.name.split("@")[1].removesuffix(".service") for unit in wants}


def _configured(root: Path) -> set[str]:
    files = (root / "etc/fedfstq").glob("agent-*.yaml")
    return {file.stem.removeprefix("agent-") for file in files}


def judge_old_units(instances: Mapping[str, str], configured: set[str]) -> Finding:
    """Tell whether units are enabled whose configuration is gone."""
    old = sorted(unit for unit, name in instances.items() if name not in configured)
    if old:
        return warn(
            "old-units",
            f"{', '.join(old)} enabled without a file in /etc/fedfstq",
            f"systemctl disable --now {' '.join(old)}",
        )
    return ok("old-units", "none is left from an earlier set-up")


def _open_files(context: Context) -> Finding:
    if context.role is not Role.AGGREGATOR:
        return ok("open-files", "a device needs few")
    soft = _show(context, "mosquitto.service").get("LimitNOFILESoft", "")
    loaded = _show(context, "mosquitto.service").get("LoadState") == "loaded"
    config = context.aggregator
    cohort = round(config.goal * config.over_selection)
    return judge_open_files(soft if loaded else "", cohort=cohort)


def judge_open_files(soft: str, *, cohort: int) -> Finding:
    """Tell whether a broker on this machine may hold as many connections as a round needs.

    Args:
        soft: mosquitto's limit as systemd tells it; "" where it does not run here.
        cohort: Devices that a round asks.
    """
    if not soft.isdecimal():
        return ok("open-files", "no broker under systemd on this machine")
    devices = int(soft) - _BROKER_RESERVE
    text = f"mosquitto may hold {devices} devices"
    if devices < cohort:
        return fail("open-files", f"{text}, and a round asks {cohort}", _MORE_FILES)
    if devices < 4 * cohort:
        return warn("open-files", f"{text}, and a round asks {cohort}", _MORE_FILES)
    return ok("open-files", text)


_MORE_FILES: Final = (
    "systemctl edit mosquitto: [Service] LimitNOFILE=65536, then systemctl restart mosquitto"
)
