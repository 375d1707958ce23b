"""The server's step from one adapter version to the next."""

from __future__ import annotations

import numpy as np

from codec.codec import FloatArray, SumArray


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
