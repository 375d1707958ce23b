"""Plays runs of the learning experiment, here or in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from codec.registry import codec_named
from tools.bench import pool
from tools.bench.experiment import Fleet, Plan, Point, RunFailed, play
from tools.bench.fingerprint import fingerprint
from tools.bench.machine import describe, versions
from tools.bench.methods import Method
from tools.bench.runs import RunsError, Settings, run_path, writing

_PACKAGES = ("fedfstq", "numpy", "peft", "torch", "transformers")

OpenFleet = Callable[[Settings, int], Fleet]


@dataclass(frozen=True, slots=True)
class Job:
    """One run to play: its file is written to the folder."""

    method: Method
    seed: int
    settings: Settings
    folder: Path

    def __str__(self) -> str:
        return f"{self.method} seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Played:
    """A round of a job is over."""

    job: Job
    point: Point


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is over; `failure` is empty where it was finished."""

    job: Job
    failure: str


def play_all(jobs: Sequence[Job], *, workers: int) -> Iterator[Played | Ended]:
    """Yield what happens while all jobs are played.

    Args:
        jobs: In the order in which they are begun.
        workers: Processes; with 1, this one does it.

    Raises:
        RunsError: A file cannot be written, or a worker process was killed.
    """
    play = partial(play_job, open_fleet=_miniature)
    try:
        yield from pool.play_all(jobs, play, workers=workers)
    except pool.WorkerKilled as error:
        raise RunsError(str(error)) from error


def play_job(job: Job, *, open_fleet: OpenFleet) -> Iterator[Played | Ended]:
    """Play one job and write its file line by line."""
    settings, codec = job.settings, codec_named(job.method.codec)
    with writing(run_path(job.folder, job.method, job.seed)) as file:
        file.header(
            job.method,
            seed=job.seed,
            settings=settings,
            codec=fingerprint(job.method, codec),
            machine=describe(),
            versions=versions(_PACKAGES),
        )
        fleet = open_fleet(settings, job.seed)
        plan = Plan(
            rounds=settings.rounds,
            cohort=settings.cohort,
            segment_bytes=settings.segment_bytes,
            seed=job.seed,
        )
        points = play(job.method, codec=codec, fleet=fleet, plan=plan)
        began = time.monotonic()
        try:
            for point in points:
                now = time.monotonic()
                file.point(point, seconds=now - began)
                began = now
                yield Played(job, point)
        except RunFailed as error:
            yield Ended(job, str(error))
            return
    yield Ended(job, "")


def _miniature(settings: Settings, seed: int) -> Fleet:
    import torch  # noqa: PLC0415  # slow, as the next

    from tools.bench.miniature import Miniature  # noqa: PLC0415

    # Threads that wait for each other on cores that others use as well take ten times as long.
    torch.set_num_threads(1)
    return Miniature(settings, seed=seed)
