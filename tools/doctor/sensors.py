"""Which sensors of the device can be read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Final

from agent.telemetry import Sensors
from tools.doctor.board import is_jetson
from tools.doctor.context import Context
from tools.doctor.finding import Finding, ok, warn
from transport.control import Telemetry

# Not a sensor's.
_OTHERS: Final = frozenset({"ts", "goodput_bps", "energy_j", "power_source"})
# [s] Between two readings, for what is a difference of counters.
_INTERVAL_S: Final = 0.3


def examine_sensors(context: Context) -> Iterator[Finding]:
    """Yield `sensors`."""
    sensors = Sensors(root=context.root, disk=context.root)
    try:
        _read(sensors)
        time.sleep(_INTERVAL_S)
        telemetry = _read(sensors)
    finally:
        sensors.close()
    values = {
        field.name: getattr(telemetry, field.name)
        for field in dataclasses.fields(telemetry)
        if field.name not in _OTHERS
    }
    yield judge_sensors(values, jetson=is_jetson(context))


def _read(sensors: Sensors) -> Telemetry:
    now = time.monotonic()
    power = sensors.power(now)
    return sensors.read(ts=0.0, now=now, goodput_bps=None, power=power, busy=True)


def judge_sensors(values: Mapping[str, object], *, jetson: bool) -> Finding:
    """Tell which readings there are; a Jetson has them all."""
    there = [f"{name} {value}" for name, value in values.items() if not _is_absent(value)]
    absent = [name for name, value in values.items() if _is_absent(value)]
    text = ", ".join(there) or "none can be read"
    if absent and there:
        text = f"{text}; not: {', '.join(absent)}"
    if not there or (jetson and any(name.startswith(("power", "gpu")) for name in absent)):
        return warn(
            "sensors",
            text,
            "ls -l /sys/class/thermal/*/temp /sys/bus/i2c/devices/*/hwmon/hwmon*/ and let the "
            "service's user read them: usermod -aG i2c fedfstq",
        )
    return ok("sensors", text)


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, (str, dict)) and not value)
