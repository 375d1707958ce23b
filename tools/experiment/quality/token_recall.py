"""Token Recall: whether a run's mask keeps the tokens that an uncompressed run is sensitive to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

# What a trial's line of quality has beside the metrics.
TOKEN_ORDER: Final = "token_order"  # noqa: S105  # vocabulary ids, no password
# The most sensitive quarter, of which a mask of the usual ratio keeps as much as it can.
SENSITIVE: Final = 0.25
KEPT: Final = 0.5


def token_recall(
    reference: Sequence[int],
    order: Sequence[int],
    *,
    sensitive: float = SENSITIVE,
    kept: float = KEPT,
) -> float:
    """Return which share of a reference run's most sensitive token types a run keeps, 0 to 1.

    A run that scores by lot has `kept` on average, the reference itself 1.

    Args:
        reference: Vocabulary ids, the most sensitive of the uncompressed run first; not empty.
        order: The same ids in the order in which the run's own scores put them.
        sensitive: Share of the reference's ids that are to be kept, above 0 and at most 1.
        kept: Share of the ids that the run's mask keeps, above 0 and at most 1.

    Raises:
        ValueError: A share is out of its range, or the ids differ: other texts were looked at.

    Source: the metric of Fed-FSTQ (arXiv 2604.25421), on vocabulary ids in place of positions of
    one minibatch, which no two runs share.
    """
    for share in (sensitive, kept):
        if not 0 < share <= 1:
            raise ValueError(f"the share is {share}, it must be above 0 and at most 1")
    if not reference or sorted(reference) != sorted(order):
        raise ValueError("the two runs have not looked at the same text")
    wanted = set(reference[: _count(sensitive, len(reference))])
    return len(wanted.intersection(order[: _count(kept, len(order))])) / len(wanted)


def _count(share: float, of: int) -> int:
    return math.ceil(share * of - 1e-9)
