"""What dies is started again, what is to stay dead does, and nothing is left behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.soak import processes
from tools.soak.processes import Supervisor

SLEEPS = (sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)")
ENDS = (sys.executable, "-c", "import os; print(os.environ['WORD']); raise SystemExit(75)")


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(processes, "TRY_AGAIN_AFTER_S", 0.05)
    found = Supervisor(tmp_path / "logs")
    yield found
    found.stop()


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_killed_process_comes_back(supervisor: Supervisor) -> None:
    supervisor.start("one", SLEEPS)
    first = supervisor.children["one"].process.pid
    supervisor.kill("one")
    assert not supervisor.alive("one")
    until(lambda: supervisor.watch() == [] and supervisor.alive("one"))
    assert supervisor.children["one"].process.pid != first
    assert supervisor.children["one"].codes == [-9]


def test_one_that_is_to_stay_dead_stays_dead_until_it_is_started(supervisor: Supervisor) -> None:
    supervisor.start("one", SLEEPS)
    supervisor.kill("one", stays_dead=True)
    time.sleep(processes.RESTART_AFTER_S * 1.5)
    assert supervisor.watch() == []
    assert not supervisor.alive("one")
    supervisor.start("one", SLEEPS)
    assert supervisor.alive("one")
    assert supervisor.children["one"].codes == [-9]


def test_one_that_ends_by_itself_is_named_and_tried_again(supervisor: Supervisor) -> None:
    supervisor.start("one", ENDS, environ={"WORD": "hello"})
    ended: list[str] = []
    until(lambda: bool(ended.extend(supervisor.watch()) or len(ended) >= 2))
    assert supervisor.children["one"].codes[:2] == [75, 75]
    assert (supervisor.folder / "one.log").read_text().startswith("hello\nhello\n")


def test_stop_ends_everything_and_says_how(supervisor: Supervisor) -> None:
    supervisor.start("one", SLEEPS)
    supervisor.start("two", SLEEPS)
    until(lambda: all((supervisor.folder / f"{name}.log").exists() for name in ("one", "two")))
    pids = [child.process.pid for child in supervisor.children.values()]
    assert supervisor.stop() == {"one": -15, "two": -15}
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not supervisor.alive("one")
