"""How the device feels: the kernel's files under one root.

The root folder is a parameter, so that tests and foreign boards can bring files of their own.
"""

from __future__ import annotations

import os
from pathlib import Path

from transport.control import Telemetry


class Sensors:
    """Reads what a Linux board tells of itself; what it does not tell is None."""

    def __init__(self, *, root: Path = Path("/"), disk: Path = Path("/")) -> None:
        self._root = root
        self._disk = disk
        self._cpu: tuple[int, int] | None = None

    def read(self, *, ts: float, goodput_bps: float | None) -> Telemetry:
        """Return the telemetry of this moment; the CPU's load is that since the last call."""
        return Telemetry(
            ts=ts,
            ram_used_mb=parse_ram_used_mb(self._text("proc/meminfo")),
            cpu_pct=self._cpu_pct(),
            temp_c=self._hottest_c(),
            disk_free_mb=self._disk_free_mb(),
            goodput_bps=goodput_bps,
        )

    def ram_mb(self) -> int:
        """Return the board's memory in MiB, 0 where it is not told."""
        total_kb = parse_meminfo(self._text("proc/meminfo")).get("MemTotal", 0)
        return total_kb // 1024

    def _cpu_pct(self) -> float | None:
        counters = parse_cpu_counters(self._text("proc/stat"))
        before, self._cpu = self._cpu, counters
        if counters is None or before is None or counters[1] <= before[1]:
            return None
        busy, total = counters[0] - before[0], counters[1] - before[1]
        return round(100.0 * min(max(busy / total, 0.0), 1.0), 1)

    def _hottest_c(self) -> float | None:
        zones = sorted(self._root.glob("sys/class/thermal/thermal_zone*/temp"))
        readings = [parse_millidegrees(self._text_of(zone)) for zone in zones]
        return max((reading for reading in readings if reading is not None), default=None)

    def _disk_free_mb(self) -> int | None:
        try:
            filesystem = os.statvfs(self._disk)
        except OSError:
            return None
        return filesystem.f_bavail * filesystem.f_frsize // 2**20

    def _text(self, name: str) -> str:
        return self._text_of(self._root / name)

    @staticmethod
    def _text_of(path: Path) -> str:
        try:
            return path.read_text(errors="replace")
        except OSError:
            # Some boards' zones exist but cannot be read while their chip sleeps.
            return ""


def parse_meminfo(text: str) -> dict[str, int]:
    """Return /proc/meminfo's numbers in kB by name; lines of another form are left out."""
    numbers: dict[str, int] = {}
    for line in text.splitlines():
        match line.split():
            case [name, number, "kB"] if name.endswith(":") and number.isascii():
                if number.isdigit():
                    numbers[name[:-1]] = int(number)
    return numbers


def parse_ram_used_mb(meminfo: str) -> int | None:
    """Return the MiB that could not be had without swapping, from /proc/meminfo's text."""
    numbers = parse_meminfo(meminfo)
    if "MemTotal" not in numbers or "MemAvailable" not in numbers:
        return None
    return (numbers["MemTotal"] - numbers["MemAvailable"]) // 1024


def parse_cpu_counters(stat: str) -> tuple[int, int] | None:
    """Return (busy, all) jiffies since the start of the board, from /proc/stat's text."""
    match stat.partition("\n")[0].split():
        case ["cpu", *fields] if len(fields) >= 5 and all(field.isdigit() for field in fields):  # noqa: PLR2004 - user nice system idle iowait are there since Linux 2.6
            # guest and guest_nice are part of user and nice already.
            jiffies = [int(field) for field in fields[:8]]
            return sum(jiffies) - jiffies[3] - jiffies[4], sum(jiffies)
    return None


def parse_millidegrees(text: str) -> float | None:
    """Return degrees Celsius from a thermal zone's text, None where it cannot be a temperature."""
    try:
        celsius = int(text.strip()) / 1000
    except ValueError:
        return None
    # Sensors that are switched off report such as -256000 (Jetson) or 0xffff.
    return celsius if -55.0 <= celsius <= 150.0 else None  # noqa: PLR2004 - a chip's range
