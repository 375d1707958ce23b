"""Crash points kill or fail where they are asked to, and do nothing otherwise."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from transport import crash_points
from transport.crash_points import (
    CRASH_POINTS,
    FILE_POINTS,
    HANG_POINTS,
    Fault,
    fault_from,
    reach,
)

ROOT = Path(__file__).parents[2]
_REACHED = re.compile(r'\breach\("([a-z-]+)"\)')


def test_every_point_is_reached_in_the_services_and_no_other_is_named() -> None:
    """A point that a refactoring has lost would leave its scene of the kill matrix empty."""
    sources = [*(ROOT / "agent").rglob("*.py"), *(ROOT / "aggregator").rglob("*.py")]
    found = {name for path in sources for name in _REACHED.findall(path.read_text("utf-8"))}
    assert found == CRASH_POINTS


def test_every_point_of_the_link_is_reached_in_the_transport() -> None:
    sources = (ROOT / "transport").glob("*.py")
    found = {name for path in sources for name in _REACHED.findall(path.read_text("utf-8"))}
    assert found == HANG_POINTS - CRASH_POINTS


def test_a_hang_holds_its_thread_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ = {"FEDFSTQ_HANG_AT": "link-turn:2", "FEDFSTQ_FAULT_ONCE": str(tmp_path / "mark")}
    monkeypatch.setattr(crash_points, "_fault", fault_from(environ))
    reach("link-turn")
    thread = threading.Thread(target=reach, args=("link-turn",), daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    reach("link-turn")
    assert (tmp_path / "mark").exists()


def test_points_of_files_are_crash_points_too() -> None:
    assert FILE_POINTS < CRASH_POINTS


def test_nothing_is_asked_for_by_an_empty_environment() -> None:
    assert fault_from({}) is None
    assert fault_from({"FEDFSTQ_FAULT_ONCE": "/nowhere"}) is None


def test_a_point_is_inert_where_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_points, "_fault", None)
    for point in HANG_POINTS:
        reach(point)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"FEDFSTQ_CRASH_AT": "agent-row-befor"}, "no point 'agent-row-befor'"),
        ({"FEDFSTQ_CRASH_AT": "agent-row-before:0"}, "'0' is no count"),
        ({"FEDFSTQ_CRASH_AT": "agent-row-before:x"}, "'x' is no count"),
        ({"FEDFSTQ_CRASH_AT": "link-turn"}, "no point 'link-turn'"),
        ({"FEDFSTQ_HANG_AT": "link-turns"}, "no point 'link-turns'"),
        ({"FEDFSTQ_HANG_AT": "link-turn:0"}, "FEDFSTQ_HANG_AT=link-turn:0: '0' is no count"),
        ({"FEDFSTQ_FAIL_AT": "agent-row-before"}, "no point 'agent-row-before'"),
        ({"FEDFSTQ_FAIL_AT": "trainer-file-before:EWRONG"}, "'EWRONG' is no errno"),
    ],
)
def test_a_typing_error_is_an_error(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fault_from(environ)


def test_a_failing_disk_fails_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = fault_from({"FEDFSTQ_FAIL_AT": "trainer-file-before:ENOSPC"})
    monkeypatch.setattr(crash_points, "_fault", fault)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as error:
            reach("trainer-file-before")
        assert error.value.errno == errno.ENOSPC
    reach("trainer-file-written")


def test_a_fault_that_comes_once_leaves_its_mark(tmp_path: Path) -> None:
    fault = Fault("trainer-file-before", error=errno.EIO, once=tmp_path / "mark")
    with pytest.raises(OSError, match="Input/output"):
        fault.reached()
    assert (tmp_path / "mark").exists()
    fault.reached()
    Fault("trainer-file-before", error=errno.EIO, once=tmp_path / "mark").reached()


@pytest.mark.parametrize(("count", "lines"), [("", 0), (":1", 0), (":3", 2)])
def test_a_process_dies_at_the_reach_that_was_asked_for(count: str, lines: int) -> None:
    program = (
        "from transport.crash_points import reach\n"
        "for number in range(5):\n"
        "    reach('agent-row-before'); print(number, flush=True)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"FEDFSTQ_CRASH_AT": f"agent-row-before{count}"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == -9
    assert len(ended.stdout.split()) == lines
