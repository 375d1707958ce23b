"""Plays jobs one after the other, here or in processes of their own, and tells what happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from queue import Empty
from typing import Any, TypeVar

_POLL_S = 0.2

_Job = TypeVar("_Job")
_Event = TypeVar("_Event")


class WorkerKilled(Exception):
    """A worker process is gone; the line says what to do."""


def play_all(
    jobs: Sequence[_Job],
    play: Callable[[_Job], Iterator[_Event]],
    *,
    workers: int,
    limit_s: float | None = None,
) -> Iterator[_Event]:
    """Yield what happens while all jobs are played.

    Who asks for no more ends the jobs that are being played after their next event.

    Args:
        jobs: In the order in which they are begun.
        play: Yields what happens in one job; a function that other processes can import.
        workers: Processes; with 1, this one does it.
        limit_s: Seconds after which no other job is begun; None for no limit.

    Raises:
        WorkerKilled: A worker process was killed.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    if workers > 1 and len(jobs) > 1:
        yield from _play_elsewhere(jobs, play, min(workers, len(jobs)), deadline)
        return
    for job in jobs:
        if _past(deadline):
            return
        yield from play(job)


def _past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _play_elsewhere(
    jobs: Sequence[_Job],
    play: Callable[[_Job], Iterator[_Event]],
    workers: int,
    deadline: float | None,
) -> Iterator[_Event]:
    # torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    events, stop = context.Queue(), context.Event()
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(_Worker(events, stop, os.getpid(), play),),
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
        raise WorkerKilled(
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
    play: Callable[[Any], Iterator[Any]]

    def must_stop(self) -> bool:
        """Say whether the process that asked wants no more, or is gone."""
        return bool(self.stop.is_set()) or os.getppid() != self.parent


_worker: _Worker | None = None


def _start_worker(worker: _Worker) -> None:
    global _worker  # noqa: PLW0603  # a pool's initializer has no other place for it
    _worker = worker
    # Ctrl-C reaches the whole group; the process that was asked ends the others after their round.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker ends once all events are read or nobody reads any more, and a process that waits
    # for a full pipe never ends.
    worker.events.cancel_join_thread()


def _play_here(job: Any) -> None:
    assert _worker is not None
    if _worker.must_stop():
        return
    for event in _worker.play(job):
        _worker.events.put(event)
        if _worker.must_stop():
            return


def _waiting(events: Any, *, timeout_s: float = 0.0) -> Iterator[Any]:
    while True:
        try:
            yield events.get(timeout=timeout_s) if timeout_s else events.get_nowait()
        except Empty:
            return
