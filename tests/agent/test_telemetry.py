from __future__ import annotations

from pathlib import Path

import pytest

from agent.telemetry import (
    Sensors,
    parse_cpu_counters,
    parse_meminfo,
    parse_millidegrees,
    parse_ram_used_mb,
)

MEMINFO = """MemTotal:        8000000 kB
MemFree:              10 kB
MemAvailable:    5952000 kB
HugePages_Total:       0
"""


def board(root: Path) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    for number, text in enumerate(["45500\n", "-256000\n", "61250\n", "sleeping\n"]):
        zone = root / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    return root


def test_a_board_tells_memory_temperature_and_disk(tmp_path: Path) -> None:
    telemetry = Sensors(root=board(tmp_path), disk=tmp_path).read(ts=1.0, goodput_bps=8.0)
    assert telemetry.ram_used_mb == 2000
    assert telemetry.temp_c == 61.25
    assert telemetry.disk_free_mb is not None
    assert telemetry.cpu_pct is None
    assert (telemetry.ts, telemetry.goodput_bps) == (1.0, 8.0)


def test_the_load_is_that_since_the_last_reading(tmp_path: Path) -> None:
    sensors = Sensors(root=board(tmp_path), disk=tmp_path)
    sensors.read(ts=0.0, goodput_bps=None)
    (tmp_path / "proc/stat").write_text("cpu  160 0 100 740 100 0 0 0 0 0\n")
    assert sensors.read(ts=0.0, goodput_bps=None).cpu_pct == 60.0
    assert sensors.read(ts=0.0, goodput_bps=None).cpu_pct is None


def test_a_board_that_tells_nothing_is_telemetry_of_nothing(tmp_path: Path) -> None:
    sensors = Sensors(root=tmp_path, disk=tmp_path / "missing")
    telemetry = sensors.read(ts=0.0, goodput_bps=None)
    assert telemetry.ram_used_mb is None
    assert telemetry.cpu_pct is None
    assert telemetry.temp_c is None
    assert telemetry.disk_free_mb is None
    assert sensors.ram_mb() == 0


def test_memory_is_read_by_name() -> None:
    assert parse_meminfo(MEMINFO)["MemTotal"] == 8_000_000
    assert parse_meminfo("MemTotal: ² kB\nMemTotal kB\n") == {}
    assert parse_ram_used_mb("MemTotal: 5 kB\n") is None


@pytest.mark.parametrize("stat", ["", "cpu 1 2 3\n", "cpu a b c d e\n", "cpu0 1 2 3 4 5\n"])
def test_a_foreign_stat_is_no_load(stat: str) -> None:
    assert parse_cpu_counters(stat) is None


@pytest.mark.parametrize(("text", "celsius"), [("42000\n", 42.0), ("65535000", None), ("", None)])
def test_a_temperature_is_one_that_a_chip_can_have(text: str, celsius: float | None) -> None:
    assert parse_millidegrees(text) == celsius
