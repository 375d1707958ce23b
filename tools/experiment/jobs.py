"""Plays many trials, here or in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from queue import Empty
from typing import Any

from tools.experiment.spec import ExperimentError
from tools.experiment.trials import Ended, Event, Job, OpenFleet, Outcome, play_job

_POLL_S = 0.2


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
    deadline = None if limit_s is None else time.monotonic() + limit_s
    if workers > 1 and len(jobs) > 1:
        yield from _play_elsewhere(jobs, min(workers, len(jobs)), deadline, open_fleet)
        return
    for job in jobs:
        if _past(deadline):
            return
        yield from _guarded(job, open_fleet)


def _past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _guarded(job: Job, open_fleet: OpenFleet) -> Iterator[Event]:
    """Play a job; a fault of ours in one of them does not end the others."""
    try:
        yield from play_job(job, open_fleet=open_fleet)
    except ExperimentError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, a night's other trials go on
        traceback.print_exc()
        yield Ended(job, Outcome.BROKEN, f"{type(error).__name__}: {error}")


def _play_elsewhere(
    jobs: Sequence[Job], workers: int, deadline: float | None, open_fleet: OpenFleet
) -> Iterator[Event]:
    # torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    events, stop = context.Queue(), context.Event()
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(_Worker(events, stop, os.getpid(), open_fleet),),
    )
    waiting = deque(jobs)
    playing: set[Future[None]] = set()
    try:
        while True:
            while waiting and len(playing) < workers and not _past(deadline):
                playing.add(pool.submit(_play_here, waiting.popleft()))
            if not playing:
                break
            done, playing = wait(playing, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            yield from _waiting(events)
        yield from _waiting(events, timeout_s=_POLL_S)
    except BrokenProcessPool as error:
        raise ExperimentError(
            "a worker process was killed, perhaps for memory; run again with fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        events.close()
        events.join_thread()


@dataclass(frozen=True, slots=True)
class _Worker:
    """What a worker process is started with."""

    events: Any
    stop: Any
    parent: int
    open_fleet: OpenFleet

    def must_stop(self) -> bool:
        """Say whether the process that asked wants no more, or is gone."""
        return bool(self.stop.is_set()) or os.getppid() != self.parent


_worker: _Worker | None = None


def _start_worker(worker: _Worker) -> None:
    global _worker  # noqa: PLW0603  # a pool's initializer has no other place for it
    _worker = worker
    # Ctrl-C reaches the whole group; the process that was asked ends the others after their round.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _play_here(job: Job) -> None:
    assert _worker is not None
    if _worker.must_stop():
        return
    for event in _guarded(job, _worker.open_fleet):
        _worker.events.put(event)
        if _worker.must_stop():
            # Nobody reads any more, and a process that waits for a full pipe never ends.
            _worker.events.cancel_join_thread()
            return


def _waiting(events: Any, *, timeout_s: float = 0.0) -> Iterator[Event]:
    while True:
        try:
            yield events.get(timeout=timeout_s) if timeout_s else events.get_nowait()
        except Empty:
            return
