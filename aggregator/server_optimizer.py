"""The server's step from one adapter version to the next."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from codec.codec import FloatArray, Order, SumArray

# c, how many times the curvature that noise meets the signal's is. Of 1, 3, 10 and 30, tried at
# 70 % dropout on two seeds of the sweep in `docs/evidence.md`, the last loss at 0.02 to 0.1 bits
# was 4.20, 4.19, 4.19 and 4.31 nats (4.92 with full steps), and at 0.15 to 0.8 bits 4.11, 4.09,
# 4.09 and 4.07 (4.06).
CURVATURE_RATIO: Final = 10.0


def step(
    adapter: FloatArray,
    mean: SumArray,
    *,
    server_step: float,
    momentum: float = 0.0,
    before: FloatArray | None = None,
) -> FloatArray:
    """Return Θ + η · mean + β · (Θ - Θ'), rounded to float32 once.

    With β this is FedAvgM, v ← βv + mean and Θ ← Θ + ηv: the last step is all that v is, and the
    two last versions say it, so that momentum needs no state of its own that a crash could lose.

    Args:
        adapter: float32 (n,), Θ, the version that the clients started from.
        mean: float64 (n,), the weighted mean of deltas (client minus base).
        server_step: η; 1 is federated averaging.
        momentum: β, at least 0 and below 1.
        before: float32 (n,), Θ', the version before; None where there is none, and no momentum yet.

    Raises:
        OverflowError: The result does not fit float32.

    Source: arXiv 2604.25421, the server's line of Algorithm 1; momentum from Hsu et al., "Measuring
    the Effects of Non-Identical Data Distribution for Federated Visual Classification" (2019).
    """
    assert adapter.shape == mean.shape
    with np.errstate(over="ignore"):
        moved = adapter.astype(np.float64)
        moved += server_step * mean
        if momentum and before is not None:
            moved += momentum * (adapter.astype(np.float64) - before)
        found: FloatArray = moved.astype(np.float32)
    # Rounding can leave -0, which decoding, as it sums from +0, would not give back.
    found += np.float32(0)
    if not np.isfinite(found).all():
        raise OverflowError(
            "the new adapter does not fit float32: lower server_step or server_momentum"
        )
    return found


def relative_variance(bits: float) -> float:
    """Return the variance of an unbiased update of few bits, over its energy, at least 0.

    It is that of one rotated bit on a share of the coordinates, (π/2) / bits - 1; `fstq-r` has a
    third less of it (`codec.operating_points`).

    Args:
        bits: Bits per coordinate, > 0.

    Source: Vargaftik et al., "EDEN", ICML 2022.
    """
    return max(0.0, math.pi / 2 / bits - 1)


def arrivals_factor(bits: float, *, arrived: float, goal: int, order: Order) -> float:
    """Return what to multiply η by in a round that fewer updates reached than it asked for.

    An unbiased update of few bits is mostly noise, w = `relative_variance`, which the mean of m
    updates divides by m. The step that gains most against such noise is in proportion to
    1 / (1 + (w/m) / c), where c is `CURVATURE_RATIO`: noise lies in all directions alike, the
    signal where the loss is curved. A full round's step is the measure, so that what was tuned
    there holds. With many bits the factor is 1, with very few it is m over the goal.

    Args:
        bits: Bits per coordinate of a whole update, > 0.
        arrived: m, the updates in the mean, parts of exchangeable ones counted as parts, > 0.
        goal: Updates of a full round.
        order: The codec's; what an ordered one drops is no noise, and its factor is 1.

    Returns:
        Above 0, at most 1.

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training" (2018), section 2.2.
    `docs/evidence.md`, section 5, has what it gains.
    """
    if order is Order.ORDERED or arrived >= goal:
        return 1.0
    variance = relative_variance(bits)
    return (CURVATURE_RATIO + variance / goal) / (CURVATURE_RATIO + variance / arrived)
