"""How much each coordinate of a delta matters: u = F·Δ²."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from codec.codec import FloatArray, SumArray


def fisher_or_uniform(fisher: FloatArray | None, *, size: int) -> FloatArray:
    """Return the weights F: the diagonal as given, or ones where it says nothing.

    An absent diagonal and one that is zero everywhere (a first step in which no gradient reached
    the adapter) weight every coordinate alike.

    Returns:
        float32 (size,), read-only where it stands for ones.
    """
    if fisher is None or not fisher.any():
        return np.broadcast_to(np.float32(1), (size,))
    return fisher


def importance(values: npt.NDArray[np.floating], weights: FloatArray) -> SumArray:
    """Return F·Δ² per coordinate: the Fisher-weighted error of not sending it.

    The product is made in float64: squares of float32 leave its range at 1e-23 and 1e19.

    Source: arXiv 2604.25421, Algorithm 1, u_j = F_j·Δ_j².
    """
    squares: SumArray = np.square(values, dtype=np.float64)
    squares *= weights
    return squares
