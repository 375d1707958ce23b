"""How busy the processors are with what is not ours: all of them, less agent and trainer."""

from __future__ import annotations

from collections.abc import Iterable

from agent.sysfs import Files, parse_integer
from agent.telemetry import parse_cpu_counters

# Of /proc/<pid>/stat, counted from the state, which follows the name: user and system time.
_USER, _SYSTEM = 11, 12


class OthersLoad:
    """Measures from one call to the next."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._counters: tuple[int, int] | None = None
        self._own: dict[int, int] = {}

    def read(self, own: Iterable[int]) -> float | None:
        """Return per cent of all processors together since the last call; None at the first.

        Args:
            own: Processes that do not count as others.
        """
        counters = parse_cpu_counters(self._files.text("proc/stat"))
        jiffies = {pid: used for pid in own if (used := self._used(pid)) is not None}
        before, self._counters = self._counters, counters
        # One that is new has used all that it has used since the last call.
        own_used = sum(max(used - self._own.get(pid, 0), 0) for pid, used in jiffies.items())
        self._own = jiffies
        if counters is None or before is None or counters[1] <= before[1]:
            return None
        busy, total = counters[0] - before[0] - own_used, counters[1] - before[1]
        return round(100.0 * min(max(busy / total, 0.0), 1.0), 1)

    def _used(self, pid: int) -> int | None:
        return parse_jiffies(self._files.text(f"proc/{pid}/stat"))


def parse_jiffies(stat: str) -> int | None:
    """Return the jiffies that a process has used, from /proc/<pid>/stat; None where it is gone."""
    # The name stands in parentheses and may hold blanks and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    if len(fields) <= _SYSTEM:
        return None
    user, system = parse_integer(fields[_USER]), parse_integer(fields[_SYSTEM])
    return None if user is None or system is None else user + system
