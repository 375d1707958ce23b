from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from agent.conditions import Conditions
from agent.eligibility import Eligibility, EligibilityConfig
from agent.pauses import Pauses


class Board:
    """Files of a board that is warm, loaded and on battery."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.root = root
        self.write("sys/class/thermal/thermal_zone0/temp", "90000\n")
        self.write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
        self.write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 102400 kB\n")
        self.write("sys/class/devfreq/17000000.gpu/device/load", "800\n")
        self.write("sys/class/power_supply/BAT0/type", "Battery\n")
        self.write("sys/class/power_supply/BAT0/status", "Discharging\n")
        self.write("sys/class/power_supply/BAT0/capacity", "12\n")
        settings = EligibilityConfig(hold_s=0, **config)
        self.pauses = Pauses(Eligibility(settings))
        self.conditions = Conditions(settings, pauses=self.pauses, root=root)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def told(self, now: float = 100.0, *, training: bool = False) -> str:
        self.conditions.look(now, training=training)
        return self.pauses.told()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"max_temp_c": 85}, "temperature: 90 °C, resumes below 80 °C"),
        ({"min_free_mb": 500}, "memory: 100 MiB free, 500 MiB needed"),
        ({"max_gpu_pct": 50}, "load: others use 80 % of the GPU, at most 50 %"),
        ({"require_mains": True}, "power: on battery"),
        ({"min_battery_pct": 20}, "battery: 12 %, resumes from 25 %"),
        ({"quiet_hours": ["00:00-23:59", "23:59-00:00"]}, "quiet-hours: 00:00-23:59"),
    ],
)
def test_each_condition_reads_its_own_file(
    tmp_path: Path, config: dict[str, Any], told: str
) -> None:
    assert Board(tmp_path, **config).told() in {told, "quiet-hours: 23:59-00:00"}


def test_the_load_is_that_of_others_since_the_last_look(tmp_path: Path) -> None:
    board = Board(tmp_path, max_cpu_pct=50)
    board.conditions.trainer_pid = 99
    board.write("proc/stat", "cpu 100 0 0 100 0 0 0 0\n")
    assert board.told() == ""
    board.write("proc/stat", "cpu 190 0 0 110 0 0 0 0\n")
    board.write(f"proc/{os.getpid()}/stat", "1 (a) S 1 1 1 0 -1 0 0 0 0 0 5 5 0\n")
    board.write("proc/99/stat", "1 (a) S 1 1 1 0 -1 0 0 0 0 0 10 10 0\n")
    assert board.told(200.0) == "load: others use 60 % of the CPU, at most 50 %"


def test_the_gpu_is_not_asked_while_a_task_uses_it(tmp_path: Path) -> None:
    assert Board(tmp_path, max_gpu_pct=50).told(training=True) == ""


def test_it_looks_when_it_is_due(tmp_path: Path) -> None:
    board = Board(tmp_path, max_temp_c=85, interval_s=10)
    assert board.told(100.0)
    assert board.conditions.due_at == 110.0
    board.write("sys/class/thermal/thermal_zone0/temp", "50000\n")
    assert board.told(109.0)
    assert board.told(110.0) == ""


def test_without_conditions_it_never_looks(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert board.conditions.due_at == math.inf
    assert board.told() == ""
