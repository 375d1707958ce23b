"""What Fisher information costs a training step, in time and memory: `fedfstq bench overhead`.

The steps are those of `agent.train`, of five kinds by turns on the same rows, in an order that
changes with each turn: without any Fisher (`plain`), with the adapter's diagonal alone (`fisher`),
and, for the token mask, the step that refreshes the scores (`refresh`), one that learns from the
chosen half of the targets (`masked`), and one that chooses all of them (`whole`), which has a
mask's costs without what it saves. Time is that of the processor (of the one thread that trains):
other programs on the machine have less of a say in it than in that of the clock. A kind's ratio is
the median over turns of its step's time to the plain one's of the same turn; a mask that is
refreshed every H steps costs (refresh + (H - 1) · masked) / H. Confidence intervals are of 95 %,
by the bootstrap over turns.

Memory is the most that tensors (as the allocator counts them, the base model's included) and Python
objects (arrays of numpy among them) have held at once during four steps, in a training of its own.

`overhead.json` holds (see `tools.bench.figures_file`) rows of:

    model, parameters, adapter_coordinates, batch_size, max_tokens, turns
    mask               "off", "hard" (as deployed), or "hard, all kept" (its costs alone)
    mask_interval, token_ratio
    plain_ms, hooked_ms    medians of a step's processor time (hooked: mean over the H steps)
    time_ratio, time_ratio_low, time_ratio_high
    plain_peak_bytes, hooked_peak_bytes, memory_ratio
    goal_time_ratio, goal_memory_ratio, reached
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from agent.adapter import AdaptedModel
from agent.memory import RowsAtOnce
from agent.tokens import Row
from agent.train import Steps
from tools.bench.fleet import FloatArray, OnProgress
from transport.control import TrainingPlan

GOAL_TIME_RATIO: Final = 1.03
GOAL_MEMORY_RATIO: Final = 1.05
PLAIN, FISHER, REFRESH, MASKED, WHOLE = KINDS = ("plain", "fisher", "refresh", "masked", "whole")

_MEMORY_STEPS: Final = 4
_RESAMPLES: Final = 2000
_WARM_UP: Final = 2


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to train, and the rows to train it on."""

    name: str
    model: AdaptedModel
    start: FloatArray
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Weights of the base model."""
        adapter = {id(parameter) for parameter in self.model.parameters}
        return sum(p.numel() for p in self.model.base.parameters() if id(p) not in adapter)


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """One line of the answer; the head of this file tells what its fields are."""

    model: str
    parameters: int
    adapter_coordinates: int
    batch_size: int
    max_tokens: int
    turns: int
    mask: str
    mask_interval: int
    token_ratio: float
    plain_ms: float
    hooked_ms: float
    time_ratio: float
    time_ratio_low: float
    time_ratio_high: float
    plain_peak_bytes: int
    hooked_peak_bytes: int
    memory_ratio: float
    goal_time_ratio: float
    goal_memory_ratio: float
    reached: bool


class _NoFisher:
    """Stands where the diagonal Fisher would be, and does nothing."""

    def update(self) -> None:
        """Leave the gradients alone."""


def measure(
    subject: Subject, plan: TrainingPlan, *, turns: int, on_progress: OnProgress
) -> list[OverheadRow]:
    """Return the rows of one model.

    Args:
        subject: The model.
        plan: How devices train; its mask_interval is H, its token_ratio what a mask keeps.
        turns: Steps of each kind that are timed.
        on_progress: Is told of each turn.
    """
    times = _times(subject, plan, turns=turns, on_progress=on_progress)
    on_progress(f"{subject.name}: memory", 1.0)
    peak_bytes(subject, plan, REFRESH)  # what is loaded on first use is nobody's
    peaks = {kind: peak_bytes(subject, plan, kind) for kind in (PLAIN, FISHER, REFRESH)}
    every = plan.mask_interval
    kinds: tuple[tuple[str, dict[str, float], str], ...] = (
        ("off", {FISHER: 1.0}, FISHER),
        ("hard", {REFRESH: 1 / every, MASKED: 1 - 1 / every}, REFRESH),
        ("hard, all kept", {REFRESH: 1 / every, WHOLE: 1 - 1 / every}, REFRESH),
    )
    plain_ms = 1000 * float(np.median(times[PLAIN]))
    rows = []
    for mask, shares, peak in kinds:
        ratio, low, high = mixed_ratio(times, shares)
        memory = peaks[peak] / peaks[PLAIN]
        rows.append(
            OverheadRow(
                model=subject.name,
                parameters=subject.parameters,
                adapter_coordinates=subject.model.layout.size,
                batch_size=plan.batch_size,
                max_tokens=plan.max_tokens,
                turns=turns,
                mask=mask,
                mask_interval=every,
                token_ratio=1.0 if mask == "hard, all kept" else plan.token_ratio,
                plain_ms=plain_ms,
                hooked_ms=1000
                * sum(share * float(np.median(times[kind])) for kind, share in shares.items()),
                time_ratio=ratio,
                time_ratio_low=low,
                time_ratio_high=high,
                plain_peak_bytes=peaks[PLAIN],
                hooked_peak_bytes=peaks[peak],
                memory_ratio=memory,
                goal_time_ratio=GOAL_TIME_RATIO,
                goal_memory_ratio=GOAL_MEMORY_RATIO,
                reached=ratio <= GOAL_TIME_RATIO and memory <= GOAL_MEMORY_RATIO,
            )
        )
    return rows


def mixed_ratio(
    times: dict[str, npt.NDArray[np.float64]], shares: dict[str, float]
) -> tuple[float, float, float]:
    """Return the ratio of a mixture of kinds to the plain kind, and its interval of 95 %.

    Args:
        times: Kind → float64 (turns,), above 0; `PLAIN` is among them.
        shares: Kind → its share of the steps; they sum up to 1.
    """
    ratios = np.stack([times[kind] / times[PLAIN] for kind in shares])
    parts = np.array(list(shares.values()))
    turns = ratios.shape[1]
    draws = np.random.default_rng(0).integers(turns, size=(_RESAMPLES, turns))
    resampled = parts @ np.median(ratios[:, draws], axis=2)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(parts @ np.median(ratios, axis=1)), float(low), float(high)


def peak_bytes(subject: Subject, plan: TrainingPlan, kind: str) -> int:
    """Return the most bytes that training with steps of a kind holds at once."""
    weights: int = sum(p.numel() * p.element_size() for p in subject.model.base.parameters())
    gc.collect()
    tracemalloc.start()
    try:
        traced = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[traced], profile_memory=True) as profile:
            step = _lane(subject, plan, kind)
            with _training(subject.model):
                for rows in _batches(subject, plan, _MEMORY_STEPS):
                    step(rows)
            objects = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return weights + _tensor_peak(profile) + objects


def _tensor_peak(profile: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    counts: list[dict[str, Any]] = [
        event["args"] for event in events if event.get("name") == "[memory]"
    ]
    # The allocator's count goes on from one profile to the next.
    before = int(counts[0]["Total Allocated"]) - int(counts[0]["Bytes"])
    most = max(int(each["Total Allocated"]) for each in counts)
    return most - before


def _times(
    subject: Subject, plan: TrainingPlan, *, turns: int, on_progress: OnProgress
) -> dict[str, npt.NDArray[np.float64]]:
    steps = {kind: _lane(subject, plan, kind) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with _training(subject.model):
        for turn, rows in enumerate(_batches(subject, plan, turns + _WARM_UP)):
            order = np.random.default_rng(turn).permutation(len(KINDS))
            for kind in (KINDS[place] for place in order):
                began = time.process_time()
                steps[kind](rows)
                took = time.process_time() - began
                if turn >= _WARM_UP:
                    seconds[kind].append(took)
            on_progress(f"{subject.name}: turn {turn + 1}", (turn + 1) / (turns + _WARM_UP))
    return {kind: np.array(values) for kind, values in seconds.items()}


def _lane(subject: Subject, plan: TrainingPlan, kind: str) -> Callable[[Sequence[Row]], object]:
    """Return what takes a step of a kind, with an optimizer and averages of its own."""
    own = replace(
        plan,
        mask="off" if kind in {PLAIN, FISHER} else "hard",
        mask_interval=2,
        token_ratio=1.0 if kind == WHOLE else plan.token_ratio,
    )
    at_once = RowsAtOnce(plan.batch_size, checkpointing=False)
    run = Steps(subject.model, own, seed=0, at_once=at_once)
    if kind == PLAIN:
        run.fisher = _NoFisher()  # type: ignore[assignment]
    number = 1 if kind in {MASKED, WHOLE} else 0  # of two steps, the first one refreshes
    if number:
        _fill_scores(run, subject, plan)
    return lambda rows: run.step(number, rows)


def _fill_scores(run: Steps, subject: Subject, plan: TrainingPlan) -> None:
    """Give a mask scores to choose by: a step's cost does not depend on which they are."""
    ids = np.concatenate([np.asarray(row.ids) for row in subject.rows[: plan.batch_size]])
    run.scores.refresh(ids, np.random.default_rng(0).exponential(size=len(ids)))


@contextmanager
def _training(model: AdaptedModel) -> Iterator[None]:
    model.base.train()
    try:
        yield
    finally:
        model.base.eval()
        model.drop_gradients()


def _batches(subject: Subject, plan: TrainingPlan, steps: int) -> list[list[Row]]:
    """Return full rows alone: every step has the same work."""
    longest = max(len(row.ids) for row in subject.rows)
    full = [row for row in subject.rows if len(row.ids) == longest]
    subject.model.load_flat(subject.start)
    size = plan.batch_size
    return [[full[(step * size + row) % len(full)] for row in range(size)] for step in range(steps)]
