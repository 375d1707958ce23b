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
_BITS = 8


@dataclass(frozen=True, slots=True)
class TensorFigures:
    """What a round did to each tensor, in the layout's order.

    Attributes:
        moved: Coordinates that are not zero in an update, summed over the updates in the mean.
        energy: Squared norm of what the mean added to the tensor: the server's step, without what
            its momentum carries on.
        bits: Of the payload of the updates in the mean, each tensor's own, as
            `aggregator.tensor_bits` has it; None where the codec cannot tell.
        shared_bits: Those of no tensor; with `bits` they are that payload to the bit.
    """

    moved: tuple[int, ...]
    energy: tuple[float, ...]
    bits: tuple[int, ...] | None = None
    shared_bits: int = 0


def count_moved(delta: SumArray, layout: Layout) -> Counts:
    """Return how many coordinates of each tensor are not zero, int64 (tensors,)."""
    counts = [np.count_nonzero(delta[tensor.offset : tensor.end]) for tensor in layout.tensors]
    return np.array(counts, dtype=np.int64)


def tensor_figures(
    mean: SumArray,
    moved: Counts,
    *,
    layout: Layout,
    server_step: float,
    bits: Counts | None = None,
    payload_bytes: int = 0,
) -> TensorFigures:
    """Return the figures of a round.

    Args:
        mean: float64 (layout.size,), what the updates came to.
        moved: int64 (tensors,), as `count_moved` gives it, summed over the updates.
        layout: The run's layout.
        server_step: What the mean is multiplied with before it is added.
        bits: int64 (tensors,), as `tensor_bits` gives it, summed over the updates; None where it
            gives nothing.
        payload_bytes: Of all segments of the updates.
    """
    parts = (mean[tensor.offset : tensor.end] for tensor in layout.tensors)
    energy = tuple(server_step**2 * float(np.dot(part, part)) for part in parts)
    counts = tuple(int(count) for count in moved)
    if bits is None:
        return TensorFigures(counts, energy)
    own = tuple(int(count) for count in bits)
    return TensorFigures(counts, energy, own, _BITS * payload_bytes - sum(own))
