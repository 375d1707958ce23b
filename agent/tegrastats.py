"""NVIDIA's tegrastats, for boards whose kernel does not show rails or GPU load as files.

Its lines differ from release to release: rails as `VDD_IN 4812mW/4750mW` (now/mean), with JetPack 7
as `VIN 28906mW/14453mW/28906mW` (now/mean/most); the GPU as `GR3D_FREQ 0%@[1300,1300]`, `45%@318`,
`0%`, or on a Thor that idles `@[1574,1574,1574]` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.rails import believable_w
from agent.short_process import ShortProcess
from agent.sysfs import Files

INTERVAL_MS = 1000
# It is ended when nobody has asked for so long, and begun anew after so long in any case.
_UNASKED_S = 30.0
_LIFE_S = 600.0
# After it could not be started or ended by itself.
_RETRY_S = 60.0
# A line that is older says nothing of now.
_FRESH_S = 5.0
_PROGRAM = "usr/bin/tegrastats"

_RAIL = re.compile(r"(?<![\w@])([A-Z][A-Z0-9_]{1,39}) (-?[0-9]{1,7})mW/-?[0-9]{1,7}mW\b", re.ASCII)
_GPU = re.compile(r"\bGR3D_FREQ ([0-9]{1,3})%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stats:
    """What one line tells.

    Attributes:
        rails_w: Rail → watts.
        gpu_pct: The GPU's load, None where the line does not say.
    """

    rails_w: Mapping[str, float] = field(default_factory=dict)
    gpu_pct: float | None = None


def parse_line(line: str) -> Stats:
    """Return what a line of any JetPack tells; of what is no such line, nothing."""
    rails: dict[str, float] = {}
    for name, milliwatts in _RAIL.findall(line):
        watts = believable_w(int(milliwatts) / 1000)
        if watts is not None and name != "NC":
            rails[name] = watts
    found = _GPU.search(line)
    load = int(found[1]) if found else None
    return Stats(rails, float(load) if load is not None and load <= 100 else None)  # noqa: PLR2004 - per cent


class Tegrastats:
    """Runs tegrastats for as long as somebody asks, and hands on its newest line."""

    def __init__(self, files: Files) -> None:
        self._program = files.root / _PROGRAM
        self._process: ShortProcess | None = None
        self._newest = Stats()
        self._told_at = float("-inf")
        self._asked_at = float("-inf")
        self._start_at = float("-inf")

    @property
    def running(self) -> bool:
        """Whether it runs at this moment."""
        return self._process is not None

    def read(self, now: float) -> Stats:
        """Return what its newest line tells; the first one comes a second after the first call."""
        self._asked_at = now
        if self._process is None and now >= self._start_at and self._program.exists():
            self._start(now)
        self._take(now)
        return self._newest if now < self._told_at + _FRESH_S else Stats()

    def rest(self, now: float) -> None:
        """End it where nobody has asked for a while."""
        if self._process and now >= self._asked_at + _UNASKED_S:
            self.close()

    def close(self) -> None:
        """End it."""
        if self._process:
            self._process.close()
            self._process = None

    def _start(self, now: float) -> None:
        command = (str(self._program), "--interval", str(INTERVAL_MS))
        self._start_at = now + _RETRY_S
        try:
            self._process = ShortProcess(command, life_s=_LIFE_S, now=now)
        except OSError:
            self._process = None

    def _take(self, now: float) -> None:
        lines = self._process.lines(now) if self._process else []
        if lines is None:
            self._process = None
            return
        for line in lines:
            stats = parse_line(line)
            if stats != Stats():
                self._newest, self._told_at = stats, now
