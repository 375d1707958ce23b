"""Trials in processes of their own; their fleet is a module that those processes can import."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from tools.experiment.jobs import play_all
from tools.experiment.records import Origin, State, state_of, trial_path
from tools.experiment.spec import ExperimentError, ExperimentSpec
from tools.experiment.trials import Ended, Job, Outcome, Played

pytestmark = pytest.mark.processes

SPEC = ExperimentSpec(
    name="small",
    workloads=("stdlib",),
    clients=(2,),
    cohort=1,
    rounds=3,
    seeds=(0, 1),
    methods=("eden@2",),
)
ORIGIN = Origin("ab", "cd", "fedfstq …", "")
FLEET = """
import numpy as np
from codec.layout import Layout
from tools.experiment.fleet import Evaluation, LocalUpdate
from tools.experiment.trials import Opened

class Drawing:
    layout = Layout.from_shapes({"a": (16, 16)})
    client_ids = ("a", "b")

    def start(self):
        return np.zeros(256, dtype=np.float32)

    def train(self, client_id, adapter, *, seed, options, control):
        delta = np.random.default_rng(seed).normal(size=256).astype(np.float32)
        return LocalUpdate(delta, None, 10, 0.1)

    def evaluate(self, adapter):
        return Evaluation(float(np.mean(adapter**2)), 0.5)

def opened(trial, data):
    return Opened(Drawing(), lambda adapter: {})

def faulty(trial, data):
    if trial.method == "fp32":
        raise ZeroDivisionError("ours")
    return opened(trial, data)
"""


class Deadly:
    """Ends the process that it is sent to, as the kernel does where memory is short."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return os._exit, (9,)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "drawing_fleet.py").write_text(FLEET, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("drawing_fleet")


def jobs(folder: Path) -> list[Job]:
    folder.mkdir()
    return [Job(trial, folder, Path("data"), ORIGIN) for trial in SPEC.trials()]


def test_processes_of_their_own_give_the_same_trials_as_this_one(
    fleet: Any, tmp_path: Path
) -> None:
    found = {}
    for workers in (1, 2):
        todo = jobs(tmp_path / str(workers))
        events = list(play_all(todo, workers=workers, limit_s=None, open_fleet=fleet.opened))
        ends = {event.job: event.outcome for event in events if isinstance(event, Ended)}
        assert ends == dict.fromkeys(todo, Outcome.DONE)
        found[workers] = {
            job.trial: [
                (event.point.evaluation, event.point.bytes_up)
                for event in events
                if isinstance(event, Played) and event.job == job
            ]
            for job in todo
        }
    assert found[1] == found[2]
    assert all(len(points) == SPEC.rounds + 1 for points in found[1].values())


def test_a_fault_of_ours_in_one_process_ends_no_other_trial(fleet: Any, tmp_path: Path) -> None:
    todo = jobs(tmp_path / "out")
    events = list(play_all(todo, workers=2, limit_s=None, open_fleet=fleet.faulty))
    ends = {event.job.trial: event.outcome for event in events if isinstance(event, Ended)}
    assert ends == {
        job.trial: Outcome.BROKEN if job.trial.method == "fp32" else Outcome.DONE for job in todo
    }


def test_who_asks_no_more_leaves_whole_rounds_and_unfinished_files(
    fleet: Any, tmp_path: Path
) -> None:
    todo = [
        replace(job, trial=replace(job.trial, rounds=100_000)) for job in jobs(tmp_path / "out")
    ]
    events = play_all(todo, workers=2, limit_s=None, open_fleet=fleet.opened)
    assert isinstance(next(events), Played)
    events.close()  # type: ignore[attr-defined]  # a generator, as Ctrl-C closes it
    for job in todo:
        path = trial_path(job.folder, job.trial)
        assert state_of(path, job.trial, ORIGIN) is State.ABSENT
        assert not path.exists() or path.read_text(encoding="utf-8").endswith("}\n")


def test_a_process_that_is_killed_is_said_in_one_line(fleet: Any, tmp_path: Path) -> None:
    todo = [replace(job, data=cast("Path", Deadly())) for job in jobs(tmp_path / "out")]
    with pytest.raises(ExperimentError, match="killed, perhaps for memory"):
        list(play_all(todo, workers=2, limit_s=None, open_fleet=fleet.opened))
