from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.power import Power
from agent.telemetry import (
    Sensors,
    parse_cpu_counters,
    parse_meminfo,
    ram_used_mb,
    swap_used_mb,
)
from transport import control
from transport.control import Telemetry

MEMINFO = """MemTotal:        8000000 kB
MemFree:              10 kB
MemAvailable:    5952000 kB
HugePages_Total:       0
"""
BOARDS = ("orin_nano", "orin_nx", "agx_orin", "thor", "pc")


def read(sensors: Sensors, *, now: float = 0.0, busy: bool = False) -> Telemetry:
    power = sensors.power(now)
    return sensors.read(ts=1.0, now=now, goodput_bps=8.0, power=power, energy_j=1.5, busy=busy)


def test_an_orin_nano_tells_how_it_feels(make_board: Callable[[str], Path]) -> None:
    root = make_board("orin_nano")
    sensors = Sensors(root=root, disk=root)
    telemetry = read(sensors)
    assert telemetry.disk_free_mb is not None
    assert telemetry == Telemetry(
        ts=1.0,
        ram_used_mb=3020,
        swap_used_mb=210,
        cpu_pct=None,
        gpu_pct=97.4,
        temp_c=49.625,
        gpu_temp_c=49.625,
        cpu_temp_c=48.562,
        soc_temp_c=48.625,
        disk_free_mb=telemetry.disk_free_mb,
        goodput_bps=8.0,
        power_w=4.815,
        power_source="ina",
        rails_w={"VDD_IN": 4.815, "VDD_CPU_GPU_CV": 0.963, "VDD_SOC": 1.445},
        energy_j=1.5,
        power_mode="MAXN_SUPER",
        on_mains=None,
        battery_pct=None,
    )
    assert sensors.ram_mb() == 7620
    sensors.close()


@pytest.mark.parametrize("board", BOARDS)
def test_each_board_s_telemetry_can_be_sent(board: str, make_board: Callable[[str], Path]) -> None:
    root = make_board(board)
    telemetry = read(Sensors(root=root, disk=root))
    assert control.decode(Telemetry, control.encode(telemetry)) == telemetry
    assert telemetry.ram_used_mb is not None
    assert telemetry.temp_c is not None


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00\xfe\x80" * 99, b"-99999999\n", b"9" * 5000, b"NaN\n", b"1e9\n"]
)
def test_hostile_contents_are_nothing(
    board: str, content: bytes, make_board: Callable[[str], Path]
) -> None:
    """Each file of a board in turn, and then all of them."""
    root = make_board(board)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    for file in files:
        kept = file.read_bytes()
        file.write_bytes(content)
        control.encode(read(Sensors(root=root, disk=root)))
        file.write_bytes(kept)
    for file in files:
        file.write_bytes(content)
    telemetry = read(Sensors(root=root, disk=root))
    assert telemetry.power_w is None
    assert telemetry.temp_c is None
    assert telemetry.ram_used_mb is None
    assert telemetry.power_mode is None
    assert telemetry.battery_pct is None


def test_the_load_is_that_since_the_last_reading(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    sensors = Sensors(root=tmp_path, disk=tmp_path)
    assert read(sensors).cpu_pct is None
    (tmp_path / "proc/stat").write_text("cpu  160 0 100 740 100 0 0 0 0 0\n")
    assert read(sensors).cpu_pct == 60.0
    assert read(sensors).cpu_pct is None


def test_a_board_that_tells_nothing_is_telemetry_of_nothing(tmp_path: Path) -> None:
    sensors = Sensors(root=tmp_path, disk=tmp_path / "missing")
    assert sensors.power(0.0) == Power()
    telemetry = sensors.read(ts=0.0, now=0.0, goodput_bps=None)
    assert telemetry == Telemetry(ts=0.0)
    assert sensors.ram_mb() == 0


def test_thor_s_load_is_asked_of_tegrastats_while_there_is_work(
    make_board: Callable[[str], Path],
) -> None:
    root = make_board("thor")
    program = root / "usr/bin/tegrastats"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'GR3D_FREQ 87%@[1574]'\nexec sleep 600\n")
    program.chmod(0o755)
    sensors = Sensors(root=root, disk=root)
    assert read(sensors).gpu_pct is None
    assert not sensors._tegrastats.running
    give_up_at = time.monotonic() + 30.0
    while read(sensors, busy=True).gpu_pct != 87.0:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    read(sensors, now=31.0)
    assert not sensors._tegrastats.running
    sensors.close()


def test_memory_is_read_by_name() -> None:
    assert parse_meminfo(MEMINFO)["MemTotal"] == 8_000_000
    assert parse_meminfo("MemTotal: ² kB\nMemTotal kB\n") == {}
    assert parse_meminfo(f"MemTotal: {'9' * 5000} kB\n") == {}
    assert ram_used_mb(parse_meminfo(MEMINFO)) == 2000
    assert ram_used_mb({"MemTotal": 5}) is None
    assert ram_used_mb({"MemTotal": 5, "MemAvailable": 9}) == 0
    assert swap_used_mb({"SwapTotal": 4096, "SwapFree": 1024}) == 3
    assert swap_used_mb(parse_meminfo(MEMINFO)) is None


@pytest.mark.parametrize(
    "stat", ["", "cpu 1 2 3\n", "cpu a b c d e\n", "cpu0 1 2 3 4 5\n", f"cpu 1 2 3 4 {'9' * 5000}"]
)
def test_a_foreign_stat_is_no_load(stat: str) -> None:
    assert parse_cpu_counters(stat) is None
