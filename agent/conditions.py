"""Looks at the board, now and then, for what decides whether a task may be taken.

No decisions: a reading goes to `agent.pauses`. Where no condition is configured, nothing is read.
"""

from __future__ import annotations

import math
import os
from datetime import datetime
from pathlib import Path

from agent.eligibility import EligibilityConfig, Reading
from agent.gpu_load import read_gpu_pct
from agent.others_load import OthersLoad
from agent.pauses import Pauses
from agent.supply import read_supply
from agent.sysfs import Files
from agent.telemetry import parse_meminfo
from agent.thermal import read_temperatures


class Conditions:
    """Reads what the eligibility's configuration asks for, when it is due.

    Attributes:
        due_at: The moment of the next look, monotonic seconds; infinite where there is none.
        trainer_pid: The trainer's process while there is one, whose load is the device's own.
    """

    def __init__(
        self, config: EligibilityConfig, *, pauses: Pauses, root: Path = Path("/")
    ) -> None:
        self.due_at = -math.inf if config.wants_readings else math.inf
        self.trainer_pid: int | None = None
        self._config = config
        self._pauses = pauses
        self._files = Files(root)
        self._load = OthersLoad(self._files)

    def look(self, now: float, *, training: bool) -> None:
        """Have a reading judged where one is due."""
        if now < self.due_at:
            return
        self.due_at = now + self._config.interval_s
        self._pauses.observe(self._read(training=training), training=training, now=now)

    def _read(self, *, training: bool) -> Reading:
        config, files = self._config, self._files
        available_kb = parse_meminfo(files.text("proc/meminfo")).get("MemAvailable")
        supply = read_supply(files)
        own = (os.getpid(), self.trainer_pid)
        return Reading(
            local_time=datetime.now().astimezone().time(),
            temp_c=read_temperatures(files).hottest_c if config.max_temp_c is not None else None,
            free_mb=None if available_kb is None else available_kb // 1024,
            others_cpu_pct=self._load.read(pid for pid in own if pid is not None),
            # While a task runs, boards tell the GPU's whole load alone.
            others_gpu_pct=(
                read_gpu_pct(files) if config.max_gpu_pct is not None and not training else None
            ),
            on_mains=supply.on_mains,
            battery_pct=supply.battery_pct,
        )
