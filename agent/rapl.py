"""Power of a PC's processors from their energy counters (RAPL), where they may be read.

The kernel lets only root read `energy_uj` on most machines; then there is nothing, and that is all
right. What is counted: the processor packages and their memory, neither a graphics card nor the
rest of the board.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agent.sysfs import Files

_MAX_W = 10_000.0
# intel-rapl:0 is a package (AMD's as well), intel-rapl:0:2 a part of it. The same package appears
# once more as intel-rapl-mmio:0.
_ZONE = re.compile(r"intel-rapl:[0-9]+(:[0-9]+)?\Z")


@dataclass(frozen=True, slots=True)
class Counter:
    """An energy counter in microjoules, which begins again at 0 after `range_uj`."""

    energy_uj: int
    range_uj: int

    def since(self, before: Counter) -> int:
        """Return the microjoules from another reading to this one, one wrap-around allowed for."""
        passed = self.energy_uj - before.energy_uj
        return passed if passed >= 0 else passed + self.range_uj


class Rapl:
    """Turns the counters of two readings into the mean power between them."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._before: tuple[float, dict[str, Counter]] | None = None

    def power_w(self, now: float) -> float | None:
        """Return the mean power since the call before; None for the first, or without counters."""
        counters = self._read()
        before, self._before = self._before, (now, counters) if counters else None
        if before is None or not counters:
            return None
        return mean_power_w(before[1], counters, seconds=now - before[0])

    def _read(self) -> dict[str, Counter]:
        counters: dict[str, Counter] = {}
        for folder in self._files.find("sys/class/powercap/intel-rapl:*"):
            name = self._files.word(folder / "name")
            # A package's own counter has its cores and graphics in it, but not its memory.
            if not _ZONE.match(folder.name) or not name.startswith(("package", "dram")):
                continue
            energy_uj = self._files.integer(folder / "energy_uj")
            range_uj = self._files.integer(folder / "max_energy_range_uj")
            if energy_uj is not None and range_uj is not None and 0 <= energy_uj <= range_uj:
                counters[folder.name] = Counter(energy_uj, range_uj)
        return counters


def mean_power_w(
    before: Mapping[str, Counter], after: Mapping[str, Counter], *, seconds: float
) -> float | None:
    """Return the mean power between two readings of the same counters.

    Returns:
        Watts; None where the counters are not the same, or the result cannot be a computer's.
    """
    if seconds <= 0 or before.keys() != after.keys():
        return None
    microjoules = sum(counter.since(before[name]) for name, counter in after.items())
    watts = microjoules / 1e6 / seconds
    return round(watts, 3) if 0.0 <= watts <= _MAX_W else None
