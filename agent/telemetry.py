"""How the device feels, from the files of the kernel and the board's vendor under one root.

The root folder is a parameter, so that tests and foreign boards can bring files of their own.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.gpu_load import read_gpu_pct
from agent.power import Power, PowerSensor
from agent.power_mode import PowerMode
from agent.supply import read_supply
from agent.sysfs import Files
from agent.tegrastats import Tegrastats
from agent.thermal import read_temperatures
from transport.control import Telemetry


class Sensors:
    """Reads what a Linux board tells of itself; what it does not tell is None."""

    def __init__(self, *, root: Path = Path("/"), disk: Path = Path("/")) -> None:
        self._files = Files(root)
        self._disk = disk
        self._cpu: tuple[int, int] | None = None
        self._tegrastats = Tegrastats(self._files)
        self._power = PowerSensor(self._files, self._tegrastats)
        self._mode = PowerMode(self._files)

    def power(self, now: float) -> Power:
        """Return what the board takes; on a PC the mean since the last call."""
        self._tegrastats.rest(now)
        return self._power.read(now)

    def read(
        self,
        *,
        ts: float,
        now: float,
        goodput_bps: float | None,
        power: Power | None = None,
        energy_j: float | None = None,
        busy: bool = False,
    ) -> Telemetry:
        """Return the telemetry of this moment; the CPU's load is that since the last call.

        Args:
            ts: Unix seconds.
            now: Monotonic seconds.
            goodput_bps: What the link gives.
            power: The newest sample of the board's power.
            energy_j: What the board has taken since the agent's start.
            busy: A task is on: worth a process of its own to ask for the GPU's load.
        """
        power = power or Power()
        meminfo = parse_meminfo(self._files.text("proc/meminfo"))
        temperatures = read_temperatures(self._files)
        supply = read_supply(self._files)
        return Telemetry(
            ts=ts,
            ram_used_mb=ram_used_mb(meminfo),
            swap_used_mb=swap_used_mb(meminfo),
            cpu_pct=self._cpu_pct(),
            gpu_pct=self._gpu_pct(now, busy=busy),
            temp_c=temperatures.hottest_c,
            gpu_temp_c=temperatures.gpu_c,
            cpu_temp_c=temperatures.cpu_c,
            soc_temp_c=temperatures.soc_c,
            disk_free_mb=self._disk_free_mb(),
            goodput_bps=goodput_bps,
            power_w=power.board_w,
            power_source=power.source,
            rails_w=dict(power.rails_w),
            energy_j=energy_j,
            power_mode=self._mode.read(now),
            on_mains=supply.on_mains,
            battery_pct=supply.battery_pct,
        )

    def ram_mb(self) -> int:
        """Return the board's memory in MiB, 0 where it is not told."""
        return parse_meminfo(self._files.text("proc/meminfo")).get("MemTotal", 0) // 1024

    def close(self) -> None:
        """End the vendor's programs that were asked."""
        self._tegrastats.close()
        self._mode.close()

    def _gpu_pct(self, now: float, *, busy: bool) -> float | None:
        load = read_gpu_pct(self._files)
        return self._tegrastats.read(now).gpu_pct if load is None and busy else load

    def _cpu_pct(self) -> float | None:
        counters = parse_cpu_counters(self._files.text("proc/stat"))
        before, self._cpu = self._cpu, counters
        if counters is None or before is None or counters[1] <= before[1]:
            return None
        busy, total = counters[0] - before[0], counters[1] - before[1]
        return round(100.0 * min(max(busy / total, 0.0), 1.0), 1)

    def _disk_free_mb(self) -> int | None:
        try:
            filesystem = os.statvfs(self._disk)
        except OSError:
            return None
        return filesystem.f_bavail * filesystem.f_frsize // 2**20


def parse_meminfo(text: str) -> dict[str, int]:
    """Return /proc/meminfo's numbers in kB by name; lines of another form are left out."""
    numbers: dict[str, int] = {}
    for line in text.splitlines():
        match line.split():
            case [name, number, "kB"] if name.endswith(":") and number.isascii():
                if number.isdigit() and len(number) < 19:  # noqa: PLR2004 - what 64 bits hold
                    numbers[name[:-1]] = int(number)
    return numbers


def ram_used_mb(meminfo: dict[str, int]) -> int | None:
    """Return the MiB that could not be had without swapping, from /proc/meminfo's numbers."""
    if "MemTotal" not in meminfo or "MemAvailable" not in meminfo:
        return None
    return max(meminfo["MemTotal"] - meminfo["MemAvailable"], 0) // 1024


def swap_used_mb(meminfo: dict[str, int]) -> int | None:
    """Return the MiB that are swapped out, compressed memory included (zram)."""
    if "SwapTotal" not in meminfo or "SwapFree" not in meminfo:
        return None
    return max(meminfo["SwapTotal"] - meminfo["SwapFree"], 0) // 1024


def parse_cpu_counters(stat: str) -> tuple[int, int] | None:
    """Return (busy, all) jiffies since the start of the board, from /proc/stat's text."""
    match stat.partition("\n")[0].split():
        case ["cpu", *fields] if len(fields) >= 5 and all(map(_is_count, fields)):  # noqa: PLR2004 - user nice system idle iowait are there since Linux 2.6
            # guest and guest_nice are part of user and nice already.
            jiffies = [int(field) for field in fields[:8]]
            return sum(jiffies) - jiffies[3] - jiffies[4], sum(jiffies)
    return None


def _is_count(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) <= 20  # noqa: PLR2004 - what 64 bits hold
