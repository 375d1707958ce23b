"""Many seeds, one after the other or on several cores, and what came of them."""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from tools.simulate.faults import Kind
from tools.simulate.scenario import random_scenario
from tools.simulate.world import Outcome, simulate

# Seeds that a worker takes at once: what it sends back is small, and progress is seen.
CHUNK = 8


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is simulated.

    Attributes:
        seeds: How many.
        first_seed: The first of them.
        devices: In each fleet; None lets the seeds choose.
        rounds: Of each run.
        kinds: What may go wrong.
    """

    seeds: int
    first_seed: int
    devices: int | None
    rounds: int
    kinds: frozenset[Kind]


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of a campaign.

    Attributes:
        outcomes: Of the seeds that were simulated: up to the first failure.
        seconds: On the wall.
        failure: The first seed, by number, whose simulation broke a promise.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    failure: Outcome | None

    @property
    def rounds(self) -> int:
        """Rounds that were committed."""
        return sum(outcome.rounds for outcome in self.outcomes)

    def tally(self) -> dict[str, int]:
        """Return what happened how often."""
        sums: Counter[str] = Counter()
        for outcome in self.outcomes:
            sums.update(outcome.tally)
        return dict(sorted(sums.items()))


def run(
    campaign: Campaign, *, jobs: int, tell: Callable[[int, int], None] = lambda _done, _rounds: None
) -> Findings:
    """Simulate all seeds, or as many as it takes to find one that fails.

    Args:
        campaign: What is simulated.
        jobs: Processes.
        tell: Called with the seeds and the rounds that are done.
    """
    started = time.monotonic()
    outcomes: list[Outcome] = []
    rounds = 0
    for outcome in _outcomes(campaign, jobs=jobs):
        outcomes.append(outcome)
        rounds += outcome.rounds
        tell(len(outcomes), rounds)
        if outcome.violation:
            break
    failed = [outcome for outcome in outcomes if outcome.violation]
    return Findings(tuple(outcomes), time.monotonic() - started, failed[0] if failed else None)


def one(seed: int, *, campaign: Campaign) -> Outcome:
    """Simulate one seed; what breaks in the machines themselves is a failure as well."""
    scenario = random_scenario(
        seed, devices=campaign.devices, rounds=campaign.rounds, kinds=campaign.kinds
    )
    with quiet():
        try:
            return simulate(scenario)
        except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            where = _where(error)
            text = f"{type(error).__name__}: {error} ({where})"
            return Outcome(seed, 0, 0.0, 0, "", {}, violation="error", text=text)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the machines from logging, which takes more time than they do."""
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    # One simulation is small, and makes few cycles; they are collected between two.
    gc.disable()
    try:
        yield
    finally:
        logging.disable(before)
        if collects:
            gc.enable()


def _outcomes(campaign: Campaign, *, jobs: int) -> Iterator[Outcome]:
    seeds = range(campaign.first_seed, campaign.first_seed + campaign.seeds)
    work = partial(one, campaign=campaign)
    if jobs == 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(work, seeds, chunksize=CHUNK)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
