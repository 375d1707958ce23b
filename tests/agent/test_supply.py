from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.supply import Source, Supply, judge, read_supply
from agent.sysfs import Files

MAINS, NO_MAINS = Source("mains", online=True), Source("mains", online=False)
USB_OFF = Source("usb", online=False)


def battery(status: str, capacity_pct: int | None = 50) -> Source:
    return Source("battery", status=status, capacity_pct=capacity_pct)


@pytest.mark.parametrize(
    ("sources", "supply"),
    [
        ([], Supply(None, None)),
        ([MAINS], Supply(on_mains=True)),
        # The barrel jack of a Jetson is no supply of the kernel's, its USB-C controller is.
        ([USB_OFF], Supply(on_mains=None)),
        ([Source("usb", online=None)], Supply(on_mains=None)),
        ([MAINS, battery("discharging")], Supply(on_mains=True, battery_pct=50.0)),
        ([NO_MAINS, battery("unknown")], Supply(on_mains=False, battery_pct=50.0)),
        ([NO_MAINS, USB_OFF, Source("usb", online=True)], Supply(on_mains=True)),
        ([battery("charging")], Supply(on_mains=True, battery_pct=50.0)),
        ([battery("full", 100)], Supply(on_mains=True, battery_pct=100.0)),
        ([battery("not charging")], Supply(on_mains=True, battery_pct=50.0)),
        ([battery("discharging")], Supply(on_mains=False, battery_pct=50.0)),
        ([battery("unknown", None)], Supply(on_mains=None, battery_pct=None)),
        (
            [battery("discharging", 5), battery("full", 100)],
            Supply(on_mains=False, battery_pct=52.5),
        ),
    ],
)
def test_what_feeds_a_board_follows_from_its_sources(sources: list[Source], supply: Supply) -> None:
    assert judge(sources) == supply


def test_a_mouse_s_battery_is_not_the_board_s() -> None:
    mouse = Source("battery", status="discharging", capacity_pct=5, is_peripheral=True)
    assert judge([mouse]) == Supply()


def test_a_laptop_and_a_jetson_are_read(make_board: Callable[[str], Path]) -> None:
    assert read_supply(Files(make_board("pc"))) == Supply(on_mains=True, battery_pct=81.0)
    assert read_supply(Files(make_board("orin_nano"))) == Supply()


def test_a_bay_without_a_battery_is_none(tmp_path: Path) -> None:
    bay = tmp_path / "sys/class/power_supply/BAT1"
    bay.mkdir(parents=True)
    (bay / "type").write_text("Battery\n")
    (bay / "status").write_text("Discharging\n")
    assert read_supply(Files(tmp_path)) == Supply(on_mains=False)
    (bay / "present").write_text("0\n")
    assert read_supply(Files(tmp_path)) == Supply()


@pytest.mark.parametrize("content", [b"\xff\xfe\0\x80", b"-3\n", b"900\n", b"1" * 9999, b""])
def test_hostile_contents_are_no_battery_level(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "sys/class/power_supply/BAT0"
    folder.mkdir(parents=True)
    (folder / "type").write_text("Battery")
    (folder / "capacity").write_bytes(content)
    (folder / "status").write_bytes(content)
    assert read_supply(Files(tmp_path)) == Supply()
