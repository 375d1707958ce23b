"""What the learning cases conclude from their runs, and how agents are made to drop out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.demo.processes import Processes
from tools.soak import dropout, lossy
from tools.soak.learning_fleet import Dropout, Learned


def learned(loss: float, *, rounds: int = 3) -> Learned:
    summary = {"participants": 6, "partial": 1, "late": 2, "seconds": 4.0, "bytes_up": 1000}
    return Learned(loss=loss, before=2.9, rounds=(summary,) * rounds, seconds=60.0)


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[Processes]:
    """Four processes, each with a child, as an agent has its trainer."""
    processes = Processes(tmp_path)
    child = f"{sys.executable!r}, '-c', 'import sys; sys.stdin.read()'"  # until its parent ends
    parent = f"import subprocess; subprocess.Popen([{child}], stdin=subprocess.PIPE).wait()"
    for name in "abcd":
        processes.start(name, (sys.executable, "-c", parent))
    yield processes
    processes.stop()


def states(pid: int) -> list[str]:
    """The states of a process and its children: S sleeps, T is stopped."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "--pid", str(pid), "--ppid", str(pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line[0] for line in listed.stdout.split()]


def stopped(processes: Processes) -> set[str]:
    return {name for name, pid in processes.pids().items() if set(states(pid)) == {"T"}}


def stopped_as_asked(processes: Processes, count: int) -> set[str]:
    """Who is stopped once so many are: a process takes a signal when it next has a core."""
    until = time.monotonic() + 20
    while len(names := stopped(processes)) != count:
        assert time.monotonic() < until, names
        time.sleep(0.05)
    return names


def test_agents_and_their_trainers_stop_for_one_round(sleepers: Processes) -> None:
    until = time.monotonic() + 20
    while any(len(states(pid)) < 2 for pid in sleepers.pids().values()):
        assert time.monotonic() < until
        time.sleep(0.05)
    seen = []
    with Dropout(sleepers, list("abcd"), share=0.5, seed=1) as drop:
        for round_id in range(2, 7):
            drop.opened(round_id)
            seen.append(stopped_as_asked(sleepers, 2))
    assert len(set(map(frozenset, seen))) > 1, "others drop out of other rounds"
    stopped_as_asked(sleepers, 0)


def test_dropout_is_reached_within_three_percent() -> None:
    assert dropout.outcome(learned(2.70), learned(2.78), rounds=3).reached
    assert not dropout.outcome(learned(2.70), learned(2.79), rounds=3).reached
    assert not dropout.outcome(learned(2.70), learned(2.70, rounds=2), rounds=3).reached


def test_lossy_links_may_change_the_loss_by_half_a_percent_either_way() -> None:
    assert lossy.outcome({0: learned(2.70), 20: learned(2.71)}, rounds=3).reached
    assert not lossy.outcome({0: learned(2.70), 20: learned(2.72)}, rounds=3).reached
    assert not lossy.outcome({0: learned(2.70), 20: learned(2.68)}, rounds=3).reached
    assert not lossy.outcome({0: learned(2.70), 5: learned(2.70, rounds=2)}, rounds=3).reached


def test_the_losses_are_those_of_the_links() -> None:
    for percent in lossy.LOSSES:
        profile = lossy.link(percent)
        assert (profile.up.loss_percent, profile.down.loss_percent) == (percent, percent)
