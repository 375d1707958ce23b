from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.sysfs import Files
from agent.thermal import Temperatures, parse_millidegrees, read_temperatures


@pytest.mark.parametrize(
    ("board", "temperatures"),
    [
        ("orin_nano", Temperatures(49.625, 49.625, 48.562, 48.625)),
        ("orin_nx", Temperatures(45.0, None, 45.0, 43.5)),  # its GPU's sensor is off
        ("agx_orin", Temperatures(44.562, None, 44.562, 41.093)),
        ("thor", Temperatures(55.1, None, 53.7, 55.1)),
        ("pc", Temperatures(51.0, None, 51.0, None)),
    ],
)
def test_each_board_tells_its_temperatures_by_name(
    board: str, temperatures: Temperatures, make_board: Callable[[str], Path]
) -> None:
    assert read_temperatures(Files(make_board(board))) == temperatures


def test_a_processor_without_a_zone_has_a_sensor_of_its_own(tmp_path: Path) -> None:
    for number, (chip, temp) in enumerate([("nvme", "70000"), ("k10temp", "61250"), ("x", "1")]):
        folder = tmp_path / f"sys/class/hwmon/hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{chip}\n")
        (folder / "temp1_input").write_text(f"{temp}\n")
    assert read_temperatures(Files(tmp_path)) == Temperatures(61.25, None, 61.25, None)
    (tmp_path / "sys/class/hwmon/hwmon1/temp1_input").write_text("garbage\n")
    assert read_temperatures(Files(tmp_path)) == Temperatures()


@pytest.mark.parametrize(
    ("text", "celsius"),
    [
        ("42000\n", 42.0),
        ("-5000\n", -5.0),
        ("65535000", None),
        ("-256000", None),
        ("", None),
        ("\ufffd\0", None),
        ("4" * 5000, None),
    ],
)
def test_a_temperature_is_one_that_a_chip_can_have(text: str, celsius: float | None) -> None:
    assert parse_millidegrees(text) == celsius
