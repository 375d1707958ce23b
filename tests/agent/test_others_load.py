from __future__ import annotations

from pathlib import Path

import pytest

from agent.others_load import OthersLoad, parse_jiffies
from agent.sysfs import Files

REST = "0 -1 0 0 0 0 0"


class Board:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.load = OthersLoad(Files(root))
        self.busy = self.idle = 0

    def turn(self, *, busy: int, idle: int) -> None:
        self.busy += busy
        self.idle += idle
        self.write("stat", f"cpu  {self.busy} 0 0 {self.idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")

    def process(self, pid: int, user: int, system: int) -> None:
        self.write(f"{pid}/stat", f"{pid} (a (b) c) S 1 1 1 {REST} {user} {system} 0 0\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_is_ours_is_not_others(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.turn(busy=1000, idle=1000)
    board.process(10, 50, 50)
    assert board.load.read((10, 11)) is None
    board.turn(busy=80, idle=20)
    board.process(10, 60, 60)  # 20 of them
    board.process(11, 10, 20)  # began since, and took 30
    assert board.load.read((10, 11)) == 30.0
    board.turn(busy=10, idle=90)
    assert board.load.read((10, 11)) == 10.0
    board.turn(busy=10, idle=90)
    board.process(10, 160, 60)  # rounding gives it more than there was
    assert board.load.read((10,)) == 0.0


def test_a_board_that_tells_nothing_has_no_load(tmp_path: Path) -> None:
    load = OthersLoad(Files(tmp_path))
    assert load.read((1,)) is None
    assert load.read((1,)) is None


@pytest.mark.parametrize(
    ("stat", "jiffies"),
    [
        (f"7 (x) S 1 1 1 {REST} 3 4 0", 7),
        (f"7 (x y) z) S 1 1 1 {REST} 3 4 0", 7),
        ("7 (x) S 1 1 1", None),
        (f"7 (x) S 1 1 1 {REST} a 4 0", None),
        (f"7 (x) S 1 1 1 {REST} 4 a 0", None),
        ("", None),
    ],
)
def test_the_jiffies_of_a_process_stand_behind_its_name(stat: str, jiffies: int | None) -> None:
    assert parse_jiffies(stat) == jiffies


def test_this_process_has_used_some() -> None:
    assert parse_jiffies(Path("/proc/self/stat").read_text()) is not None
