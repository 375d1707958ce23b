"""Plays many trials, here or in processes of their own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from functools import partial

from tools.bench import pool
from tools.experiment.spec import ExperimentError
from tools.experiment.trials import Ended, Event, Job, OpenFleet, Outcome, play_job


def play_all(
    jobs: Sequence[Job], *, workers: int, limit_s: float | None, open_fleet: OpenFleet
) -> Iterator[Event]:
    """Yield what happens while all jobs are played.

    Args:
        jobs: In the order in which they are begun.
        workers: Processes, of one core each; with 1, this one does it.
        limit_s: Seconds after which no other job is begun; None for no limit.
        open_fleet: A function of a module, as other processes import it.

    Raises:
        ExperimentError: A file cannot be written, data cannot be read, or a process was killed.
    """
    play = partial(_guarded, open_fleet=open_fleet)
    try:
        yield from pool.play_all(jobs, play, workers=workers, limit_s=limit_s)
    except pool.WorkerKilled as error:
        raise ExperimentError(str(error)) from error


def _guarded(job: Job, *, open_fleet: OpenFleet) -> Iterator[Event]:
    """Play a job; a fault of ours in one of them does not end the others."""
    try:
        yield from play_job(job, open_fleet=open_fleet)
    except ExperimentError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, a night's other trials go on
        traceback.print_exc()
        yield Ended(job, Outcome.BROKEN, f"{type(error).__name__}: {error}")
