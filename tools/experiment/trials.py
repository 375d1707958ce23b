"""Plays one trial and writes its file line by line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from codec.codec import FloatArray
from codec.registry import codec_named
from tools.bench.machine import describe
from tools.experiment.fleet import Fleet, TrialFailed
from tools.experiment.records import Busy, Origin, State, state_of, trial_path, writing
from tools.experiment.rounds import Plan, Point, play
from tools.experiment.spec import Trial


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to play.

    Attributes:
        trial: What to play.
        folder: Where its file is written.
        data: Folder of the data sets.
        origin: What its first line says beside the trial.
    """

    trial: Trial
    folder: Path
    data: Path
    origin: Origin


class Outcome(str, Enum):
    """How a job ended."""

    DONE = "done"
    FAILED = "failed"  # as a result: it diverged
    BROKEN = "broken"  # by a fault of ours: it is no result, and is begun anew the next time
    ELSEWHERE = "elsewhere"  # another process plays it, or has just done so


@dataclass(frozen=True, slots=True)
class Played:
    """A round of a job is over."""

    job: Job
    point: Point


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is over; `why` says what a failure was."""

    job: Job
    outcome: Outcome
    why: str = ""


Event = Played | Ended
Quality = Callable[[FloatArray], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Opened:
    """A trial's fleet, and what scores the answers that an adapter makes the model write."""

    fleet: Fleet
    quality: Quality


OpenFleet = Callable[[Trial, Path], Opened]


def play_job(job: Job, *, open_fleet: OpenFleet) -> Iterator[Event]:
    """Play one trial, and yield what happens.

    Raises:
        ExperimentError: Its file cannot be written, or its data cannot be read.
    """
    path = trial_path(job.folder, job.trial)
    if state_of(path, job.trial, job.origin) is State.DONE:
        yield Ended(job, Outcome.ELSEWHERE)
        return
    try:
        with writing(path) as file:
            file.header(job.trial, job.origin, machine=describe())
            failure = ""
            try:
                opened = open_fleet(job.trial, job.data)
                last = None
                for point, seconds, adapter in _timed(job.trial, opened.fleet):
                    file.point(point, seconds=seconds)
                    last = adapter
                    yield Played(job, point)
                if job.trial.quality and last is not None:
                    scores = opened.quality(last)
                    if scores:
                        file.quality(scores)
            except TrialFailed as error:
                failure = str(error)
            file.end(failure=failure)
    except Busy:
        yield Ended(job, Outcome.ELSEWHERE)
        return
    yield Ended(job, Outcome.FAILED if failure else Outcome.DONE, failure)


def _timed(trial: Trial, fleet: Fleet) -> Iterator[tuple[Point, float, FloatArray]]:
    method = trial.parsed
    plan = Plan(
        rounds=trial.rounds,
        cohort=trial.cohort,
        dropout=trial.dropout,
        segment_bytes=trial.segment_bytes,
        local_steps=trial.local.local_steps,
        evaluate_every=trial.evaluate_every,
        seed=trial.seed,
    )
    began = time.monotonic()
    # Processor time: what encoding costs does not depend on who else uses the machine.
    for point, adapter in play(
        method, codec=codec_named(method.codec), fleet=fleet, plan=plan, clock=time.process_time
    ):
        now = time.monotonic()
        yield point, now - began, adapter
        began = now
