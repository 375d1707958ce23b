"""Jobs in processes of their own; what plays them is a module that those processes can import."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tools.bench.pool import WorkerKilled, play_all

PLAYS = """
import itertools

def play(job):
    yield from ((job, number) for number in range(3))

def play_for_ever(job):
    for _ in itertools.count():
        yield bytes(1 << 20)
"""


class Deadly:
    """Ends the process that it is sent to, as the kernel does where memory is short."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return os._exit, (9,)


@pytest.fixture
def plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "pool_plays.py").write_text(PLAYS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("pool_plays")


def test_one_process_plays_the_jobs_in_their_order(plays: Any) -> None:
    expected = [(job, number) for job in "abc" for number in range(3)]
    assert list(play_all("abc", plays.play, workers=1)) == expected
    assert list(play_all("a", plays.play, workers=2)) == expected[:3]


def test_past_the_limit_no_job_is_begun(plays: Any) -> None:
    assert list(play_all("abc", plays.play, workers=1, limit_s=0)) == []


@pytest.mark.processes
def test_past_the_limit_no_job_is_begun_elsewhere_either(plays: Any) -> None:
    assert list(play_all("abc", plays.play, workers=2, limit_s=0)) == []


@pytest.mark.processes
def test_processes_of_their_own_tell_all_that_happens(plays: Any) -> None:
    events = list(play_all("abc", plays.play, workers=2))
    assert sorted(events) == [(job, number) for job in "abc" for number in range(3)]


@pytest.mark.processes
def test_who_asks_no_more_is_not_waited_for_with_a_full_pipe(plays: Any) -> None:
    """An event is larger than a pipe holds, so that those who write it wait for a reader."""
    events = play_all("ab", plays.play_for_ever, workers=2)
    assert len(next(events)) == 1 << 20
    events.close()  # type: ignore[attr-defined]  # a generator, as Ctrl-C closes it


@pytest.mark.processes
def test_a_process_that_is_killed_is_said_in_one_line(plays: Any) -> None:
    with pytest.raises(WorkerKilled, match="killed, perhaps for memory"):
        list(play_all([Deadly(), Deadly()], plays.play, workers=2))
