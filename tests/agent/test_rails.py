from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rails import SIDE_BY_SIDE, believable_w, board_power_w, find_channels, read_rails
from agent.sysfs import Files


def rails(root: Path) -> dict[str, float]:
    files = Files(root)
    return read_rails(files, find_channels(files))


@pytest.mark.parametrize(
    ("board", "rails_w", "board_w"),
    [
        ("orin_nano", {"VDD_IN": 4.815, "VDD_CPU_GPU_CV": 0.963, "VDD_SOC": 1.445}, 4.815),
        ("orin_nx", {"VDD_IN": 6.927, "VDD_CPU_GPU_CV": 1.732, "VDD_SOC": 1.417}, 6.927),
        (
            "agx_orin",
            # The fourth is fed by VIN_SYS_5V0, and is not counted once more.
            {"VDD_GPU_SOC": 3.155, "VDD_CPU_CV": 0.789, "VIN_SYS_5V0": 4.968}
            | {"VDDQ_VDD2_1V8AO": 1.093},
            8.912,
        ),
        (
            "thor",
            # The GPU is off: a little below zero is zero.
            {"VDD_GPU": 0.0, "VDD_CPU_SOC_MSS": 3.92, "VIN_SYS_5V0": 5.064, "VIN": 15.004},
            15.004,
        ),
        ("pc", {}, None),
    ],
)
def test_each_board_s_rails_and_what_they_are_together(
    board: str, rails_w: dict[str, float], board_w: float, make_board: Callable[[str], Path]
) -> None:
    found = rails(make_board(board))
    assert found == rails_w
    assert board_power_w(found) == board_w


def test_a_rail_that_is_seen_in_two_places_is_one(make_board: Callable[[str], Path]) -> None:
    root = make_board("orin_nano")
    device = root / "sys/bus/i2c/devices/1-0040/hwmon"
    device.mkdir(parents=True)
    (device / "hwmon1").symlink_to(root / "sys/class/hwmon/hwmon1")
    assert len(find_channels(Files(root))) == 3


def test_thor_without_a_monitor_at_its_input_is_the_sum_of_its_rails(
    make_board: Callable[[str], Path],
) -> None:
    root = make_board("thor")
    (root / "sys/class/hwmon/hwmon5/name").write_text("other\n")
    assert board_power_w(rails(root)) == 8.984


def test_thor_s_input_may_be_labelled(make_board: Callable[[str], Path]) -> None:
    root = make_board("thor")
    (root / "sys/class/hwmon/hwmon5/label").write_text("VIN\n")
    assert rails(root)["VIN"] == 15.004
    (root / "sys/class/hwmon/hwmon5/name").write_text("ina226\n")
    assert rails(root)["VIN"] == 15.004
    (root / "sys/class/hwmon/hwmon5/label").unlink()
    assert "VIN" not in rails(root)


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\xff\x00\xfe", b"9" * 40, b"99999999\n"])
def test_a_sum_that_lacks_a_rail_is_no_sum(
    content: bytes, make_board: Callable[[str], Path]
) -> None:
    root = make_board("agx_orin")
    (root / "sys/class/hwmon/hwmon3/curr1_input").write_bytes(content)
    found = rails(root)
    assert set(found) == {"VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert board_power_w(found) is None


def test_a_rail_that_may_not_be_read_is_left_out(make_board: Callable[[str], Path]) -> None:
    root = make_board("orin_nano")
    current = root / "sys/class/hwmon/hwmon1/curr2_input"
    current.unlink()
    current.mkdir()
    assert set(rails(root)) == {"VDD_IN", "VDD_SOC"}


@pytest.mark.parametrize("label", [b"", b"NC\n", b"\x07\x1b[2J\n"])
def test_a_channel_without_a_name_is_no_rail(
    label: bytes, make_board: Callable[[str], Path]
) -> None:
    root = make_board("orin_nano")
    (root / "sys/class/hwmon/hwmon1/in3_label").write_bytes(label)
    assert set(rails(root)) == {"VDD_IN", "VDD_CPU_GPU_CV"}


def test_a_name_that_is_too_long_is_cut(make_board: Callable[[str], Path]) -> None:
    root = make_board("orin_nano")
    (root / "sys/class/hwmon/hwmon1/in3_label").write_text("A" * 9999)
    assert max(map(len, rails(root))) == 40


@pytest.mark.parametrize(
    ("watts", "told"), [(-2.1, None), (-0.4, 0.0), (0.0, 0.0), (9.5, 9.5), (10_001.0, None)]
)
def test_a_power_is_one_that_a_rail_can_have(watts: float, told: float | None) -> None:
    assert believable_w(watts) == told


@settings(deadline=None, max_examples=100)
@given(
    names=st.sampled_from(SIDE_BY_SIDE),
    watts=st.lists(st.floats(0, 500), min_size=6, max_size=6),
    others=st.dictionaries(st.sampled_from(["VDDQ_VDD2_1V8AO", "X"]), st.floats(0, 500)),
)
def test_rails_that_hang_behind_others_change_no_sum(
    names: tuple[str, ...], watts: list[float], others: dict[str, float]
) -> None:
    measured = dict(zip(names, watts, strict=False))
    assert board_power_w(measured | others) == board_power_w(measured)
    assert board_power_w(measured | {"VDD_IN": 7.0}) == 7.0
