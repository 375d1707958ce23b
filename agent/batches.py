"""Draws seeded batches of rows, and pads rows to arrays of inputs and targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent.tokens import Row

# The label that no loss is taken on: torch's own default.
UNLEARNT = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows side by side, padded at their ends.

    Attributes:
        inputs: int64 (rows, positions), what the model reads. Padding follows the tokens that it
            pads, which causal attention never looks ahead to, so that no attention mask is needed.
        targets: int64 (rows, positions), the token that follows each input; `UNLEARNT` where it is
            given, or padding.
    """

    inputs: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


def pad(rows: Sequence[Row]) -> Batch:
    """Return the batch of these rows, as wide as the longest needs."""
    positions = max(len(row.ids) for row in rows) - 1
    inputs = np.zeros((len(rows), positions), dtype=np.int64)
    targets = np.full((len(rows), positions), UNLEARNT, dtype=np.int64)
    for index, row in enumerate(rows):
        length = len(row.ids) - 1
        inputs[index, :length] = row.ids[:-1]
        targets[index, :length] = np.where(row.learnt[1:], row.ids[1:], UNLEARNT)
    return Batch(inputs, targets)


def draws(examples: int, *, rows: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the row indices of each step, without end: every pass over the examples is shuffled.

    A pass goes on into the next, so that no example is left out because of where a pass ends.

    Args:
        examples: How many there are, ≥ 1.
        rows: Rows per step.
        seed: The same seed, the same order.
    """
    generator = np.random.default_rng(seed)
    waiting = np.empty(0, dtype=np.intp)
    while True:
        while len(waiting) < rows:
            waiting = np.concatenate([waiting, generator.permutation(examples)])
        yield waiting[:rows]
        waiting = waiting[rows:]
