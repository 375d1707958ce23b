from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.power import Power, PowerSensor
from agent.sysfs import Files
from agent.tegrastats import Tegrastats


def sensor(root: Path) -> PowerSensor:
    files = Files(root)
    return PowerSensor(files, Tegrastats(files))


@pytest.mark.parametrize(
    ("board", "watts"), [("orin_nano", 4.815), ("orin_nx", 6.927), ("agx_orin", 8.912)]
)
def test_a_jetson_s_monitors_come_first(
    board: str, watts: float, make_board: Callable[[str], Path]
) -> None:
    power = sensor(make_board(board)).read(0.0)
    assert (power.board_w, power.source) == (watts, "ina")
    assert len(power.rails_w) >= 3


def test_a_pc_is_measured_by_its_counters(make_board: Callable[[str], Path]) -> None:
    root = make_board("pc")
    power = sensor(root)
    assert power.read(0.0) == Power()
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("9000000\n")
    assert power.read(2.0) == Power(4.0, "rapl")


def test_tegrastats_tells_where_there_are_no_files(tmp_path: Path) -> None:
    program = tmp_path / "usr/bin/tegrastats"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "VDD_IN 4812mW/4750mW"\nexec sleep 600\n')
    program.chmod(0o755)
    tegrastats = Tegrastats(Files(tmp_path))
    power = PowerSensor(Files(tmp_path), tegrastats)
    give_up_at = time.monotonic() + 30.0
    while power.read(0.0) == Power():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert power.read(1.0) == Power(4.812, "tegrastats", {"VDD_IN": 4.812})
    tegrastats.close()


def test_a_driver_that_comes_late_is_found(make_board: Callable[[str], Path]) -> None:
    root = make_board("orin_nano")
    name = root / "sys/class/hwmon/hwmon1/name"
    name.write_text("other\n")
    power = sensor(root)
    assert power.read(0.0) == Power()
    name.write_text("ina3221\n")
    assert power.read(59.0) == Power()
    assert power.read(60.0).board_w == 4.815


def test_monitors_that_fail_once_are_read_again_at_once(
    make_board: Callable[[str], Path],
) -> None:
    root = make_board("orin_nano")
    chip, away = root / "sys/class/hwmon/hwmon1", root / "away"
    power = sensor(root)
    watts = [power.read(0.0).board_w]
    chip.rename(away)
    assert power.read(1.0) == Power(None, "ina")
    away.rename(chip)
    watts.append(power.read(2.0).board_w)
    # After a reload of its driver it has another number.
    chip.rename(root / "sys/class/hwmon/hwmon7")
    watts += [power.read(moment).board_w for moment in (59.0, 60.0)]
    assert watts == [4.815, 4.815, None, 4.815]


def test_a_machine_that_tells_nothing_has_no_power(tmp_path: Path) -> None:
    assert sensor(tmp_path).read(0.0) == Power()
