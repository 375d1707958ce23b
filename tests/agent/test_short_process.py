from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from agent.short_process import MAX_LINE_BYTES, ShortProcess


def started(code: str, *, life_s: float = 60.0) -> ShortProcess:
    return ShortProcess((sys.executable, "-c", code), life_s=life_s, now=0.0)


def all_lines(process: ShortProcess) -> list[str]:
    lines: list[str] = []
    give_up_at = time.monotonic() + 30.0
    while (more := process.lines(1.0)) is not None:
        lines += more
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    return lines


def test_lines_are_whole_and_looking_never_waits() -> None:
    process = started("print('one', flush=True); print('two', end='', flush=True); input()")
    # Nobody answers input(): its end of file is an error, and the command's end.
    assert all_lines(process) == ["one", "two"]
    assert process.lines(1.0) is None


def test_a_command_is_ended_when_its_life_is_over() -> None:
    process = started("import time; time.sleep(600)", life_s=10.0)
    assert process.lines(9.9) == []
    assert process.lines(10.0) == []
    assert process.lines(10.1) is None
    process.close()


def test_a_line_without_an_end_takes_no_memory() -> None:
    process = started("import sys, time\nwhile True: sys.stdout.write('x' * 65536)")
    for _ in range(50):
        assert process.lines(1.0) == []
    assert len(process._rest) <= MAX_LINE_BYTES
    process.close()


def test_bytes_that_are_no_text_are_lines_as_well() -> None:
    process = started(r"import os; os.write(1, b'\xff\x00\n')")
    assert all_lines(process) == ["\ufffd\0"]


def test_a_command_that_is_none_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "no-program").write_text("")
    for name in ("no-program", "missing"):
        with pytest.raises(OSError, match=name):
            ShortProcess((str(tmp_path / name),), life_s=1.0, now=0.0)
