"""What a round did to each tensor: how many coordinates moved, and how much. Pure.

It costs one pass over each decoded update and one over the mean, about a nanosecond a coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.codec import SumArray
from codec.layout import Layout

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TensorFigures:
    """What a round did to each tensor, in the layout's order.

    Attributes:
        moved: Coordinates that are not zero in an update, summed over the updates in the mean.
        energy: Squared norm of what the server's step added to the tensor.
    """

    moved: tuple[int, ...]
    energy: tuple[float, ...]


def count_moved(delta: SumArray, layout: Layout) -> Counts:
    """Return how many coordinates of each tensor are not zero, int64 (tensors,)."""
    counts = [np.count_nonzero(delta[tensor.offset : tensor.end]) for tensor in layout.tensors]
    return np.array(counts, dtype=np.int64)


def tensor_figures(
    mean: SumArray, moved: Counts, *, layout: Layout, server_step: float
) -> TensorFigures:
    """Return the figures of a round.

    Args:
        mean: float64 (layout.size,), what the updates came to.
        moved: int64 (tensors,), as `count_moved` gives it, summed over the updates.
        layout: The run's layout.
        server_step: What the mean is multiplied with before it is added.
    """
    parts = (mean[tensor.offset : tensor.end] for tensor in layout.tensors)
    energy = tuple(server_step**2 * float(np.dot(part, part)) for part in parts)
    return TensorFigures(tuple(int(count) for count in moved), energy)
