"""How a model does on held-out rows: mean loss per target, and targets predicted right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from agent.batches import pad
from agent.loss import CausalLoss, Tally
from agent.memory import RowsAtOnce
from agent.tokens import Row
from transport.messages import Evaluation


def evaluate(
    base: Any,
    rows: Sequence[Row],
    *,
    rows_at_once: int | RowsAtOnce,
    on_part: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Return how a model does, with or without an adapter in it, every target weighing alike.

    Args:
        base: A Hugging Face causal language model in evaluation mode.
        rows: Cut to the plan's length, each with at least one target; not empty.
        rows_at_once: Rows that go through the model together, where they fit; a `RowsAtOnce` is
            lowered where they do not.
        on_part: Called before each such pass; what it raises ends the evaluation.

    Raises:
        OutOfMemory: A single row does not fit into memory.
    """
    assert rows
    loss = CausalLoss(base)
    # Rows of like length pad each other least; sums do not depend on the order but for rounding.
    ordered = sorted(rows, key=lambda row: len(row.ids))
    if isinstance(rows_at_once, int):
        rows_at_once = RowsAtOnce(rows_at_once)
    parts = rows_at_once.run(
        lambda at_once: [
            _tally(loss, ordered[first : first + at_once], base.device, on_part)
            for first in range(0, len(ordered), at_once)
        ]
    )
    tokens = sum(part.tokens for part in parts)
    return Evaluation(
        loss=math.fsum(part.loss for part in parts) / tokens,
        tokens=tokens,
        correct=sum(part.correct for part in parts),
    )


def chosen(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` rows, evenly spaced: always the same, and from all parts of a file."""
    if count >= len(rows):
        return list(rows)
    return [rows[index * len(rows) // count] for index in range(count)]


def _tally(
    loss: CausalLoss, rows: Sequence[Row], device: torch.device, on_part: Callable[[], None]
) -> Tally:
    on_part()
    batch = pad(rows)
    return loss.tally(
        torch.from_numpy(batch.inputs).to(device), torch.from_numpy(batch.targets).to(device)
    )
