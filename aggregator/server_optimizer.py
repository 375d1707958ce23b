"""The server's step from one adapter version to the next."""

from __future__ import annotations

import numpy as np

from codec.codec import FloatArray, SumArray


def step(adapter: FloatArray, mean: SumArray, *, server_step: float) -> FloatArray:
    """Return Θ + η · mean, rounded to float32 once.

    Args:
        adapter: float32 (n,), the version that the clients started from.
        mean: float64 (n,), the weighted mean of deltas (client minus base).
        server_step: η; 1 is federated averaging.

    Raises:
        OverflowError: The result does not fit float32.

    Source: arXiv 2604.25421, the server's line of Algorithm 1.
    """
    assert adapter.shape == mean.shape
    with np.errstate(over="ignore"):
        moved = (adapter.astype(np.float64) + server_step * mean).astype(np.float32)
    # Rounding can leave -0, which decoding, as it sums from +0, would not give back.
    moved += np.float32(0)
    if not np.isfinite(moved).all():
        raise OverflowError("the new adapter does not fit float32: lower server_step")
    return moved
