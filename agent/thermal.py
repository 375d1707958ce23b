"""Temperatures by name: the hottest place, and GPU, CPU and SoC where they are told apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.sysfs import Files, parse_integer

_COLDEST_C, _HOTTEST_C = -55.0, 150.0  # a chip's range
_CPU_ZONES = ("cpu", "x86_pkg_temp")
_CPU_CHIPS = ("coretemp", "k10temp")


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Degrees Celsius; what is not told is None.

    Attributes:
        hottest_c: Of everything that has a sensor, the board's own ones as well.
    """

    hottest_c: float | None = None
    gpu_c: float | None = None
    cpu_c: float | None = None
    soc_c: float | None = None


def parse_millidegrees(text: str) -> float | None:
    """Return degrees Celsius from a thermal zone's text, None where it cannot be a temperature."""
    millidegrees = parse_integer(text)
    return None if millidegrees is None else believable_c(millidegrees / 1000)


def believable_c(celsius: float) -> float | None:
    """Return a temperature that a chip can have, None for any other.

    Sensors that are switched off report such as -256 (Jetson) or 65535.
    """
    return celsius if _COLDEST_C <= celsius <= _HOTTEST_C else None


def sort_out(readings: Iterable[tuple[str, float]]) -> Temperatures:
    """Return what named readings say; of several with one meaning the hottest counts."""
    readings = [(name.lower(), celsius) for name, celsius in readings]

    def hottest(*beginnings: str) -> float | None:
        return max((c for name, c in readings if name.startswith(beginnings)), default=None)

    return Temperatures(
        hottest_c=hottest(""),
        gpu_c=hottest("gpu"),
        cpu_c=hottest(*_CPU_ZONES),
        soc_c=hottest("soc"),
    )


def read_temperatures(files: Files) -> Temperatures:
    """Return the temperatures of this moment."""
    readings: list[tuple[str, float]] = []
    for zone in files.find("sys/class/thermal/thermal_zone*"):
        celsius = parse_millidegrees(files.text(zone / "temp"))
        if celsius is not None:
            readings.append((files.word(zone / "type"), celsius))
    if not any(name.lower().startswith(_CPU_ZONES) for name, _ in readings):
        readings += _cpu_chips(files)
    return sort_out(readings)


def _cpu_chips(files: Files) -> list[tuple[str, float]]:
    """Return the processors' own sensors, for PCs whose firmware has no thermal zone for them."""
    readings = []
    for folder in files.find("sys/class/hwmon/hwmon*"):
        if files.word(folder / "name") in _CPU_CHIPS:
            celsius = parse_millidegrees(files.text(folder / "temp1_input"))
            if celsius is not None:
                readings.append(("cpu", celsius))
    return readings
