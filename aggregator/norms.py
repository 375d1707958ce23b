"""How long an update may be, against those of the rounds before. Pure.

A single update that is a hundred times longer than the others decides a mean alone. The bound is a
multiple of the median norm, which half of the devices cannot move: Sun et al., "Can You Really
Backdoor Federated Learning?" (2019), clip to a fixed norm; the median makes one that follows the
run. Only norms that are in the journal count, so that a mean made again is the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from enum import Enum

import numpy as np

from codec.codec import Order, SumArray

# [rounds] Deltas shrink as a run converges, and grow where a schedule gives them more bits: the
# median follows within these.
NORM_ROUNDS = 8
# [norms] With fewer the median is a matter of chance.
MIN_NORMS = 8


class NormPolicy(str, Enum):
    """What becomes of an update that is longer than the bound."""

    CLIP = "clip"  # it is scaled down to the bound
    REFUSE = "refuse"


def norm_bound(rounds: Iterable[Iterable[float]], *, factor: float | None) -> float | None:
    """Return the largest norm that an update may have; None where none is known yet.

    Args:
        rounds: The norms of each of the newest committed rounds.
        factor: Multiple of the median; None bounds nothing.
    """
    known = [norm for norms in rounds for norm in norms]
    if factor is None or len(known) < MIN_NORMS:
        return None
    # A fleet that has learned nothing yet says nothing of how long an update is.
    return factor * statistics.median(known) or None


def update_norm(delta: SumArray, *, order: Order, share: float) -> float:
    """Return the Euclidean norm of a decoded update, as if all of it had arrived.

    A share s of an exchangeable update is scaled by 1/s where it is: E‖Δ̃‖² = ‖Δ‖²/s, so that the
    norm grows as 1/√s, and √s takes that back.

    Args:
        delta: float64, flat.
        order: The codec's.
        share: Of the update's segments that were decoded, above 0 and at most 1.
    """
    # Not BLAS, whose sums depend on how many threads it has.
    norm = math.sqrt(float(np.einsum("i,i->", delta, delta)))
    return norm * math.sqrt(share) if order is Order.EXCHANGEABLE else norm
