"""`fstq-paper`: the letter of the paper's Algorithm 1, in the segments of `fstq`.

`fstq` keeps the paper's widths, quantiser and message, and mends what its allocation leaves open:
it spends bits by the errors that its scales really leave, which passes over widths that gain
nothing. Here importance u = F·Δ² alone decides, a bit being held to divide the error by 4; and the
scale of a group and width is the largest magnitude that has this width there, over q_max.

Source: arXiv 2604.25421, Algorithm 1: b_j in {16, 4, 2, 0} greedily by u under B_max with indices,
tags and scales counted; q_max = 2^(b - 1) - 1; float16 for 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.by_importance import FstqByImportance, Weighted, payloads_of, scalable_blocks
from codec.fstq import PREAMBLE_BYTES
from codec.importance import importance
from codec.quantize import MIN_PEAK, peak_of, scale_for
from codec.reference.greedy import Steps
from codec.reference.sparse import fit
from codec.slices import CLASS_BITS, slice_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from codec.codec import Budget, FloatArray
    from codec.layout import Layout

    ClassArray = npt.NDArray[np.uint8]

_WIDTHS: Final = CLASS_BITS[1:]


@dataclass(frozen=True, slots=True)
class FstqPaper(FstqByImportance):
    """Fisher-guided {0, 2, 4, 16} bits by F·Δ² alone, with max-scaled groups."""

    name: str = "fstq-paper"

    def _payloads(self, update: Weighted) -> list[bytes]:
        delta, layout = update.delta, update.layout
        steps = Steps.of(_roots(delta, update.weights, layout), widths=_WIDTHS)

        def payloads(number: int) -> list[bytes]:
            classes = steps.classes(number)
            windows = [slice(tensor.offset, tensor.end) for tensor in layout.tensors]
            scales = [_scales(delta[window], classes[window]) for window in windows]
            return payloads_of(update, classes, scales=scales)

        return fit(
            payloads,
            lambda number: _about_bytes(steps, number, layout, update.budget),
            update_bytes=update.update_bytes,
            most=steps.count,
        )


def _roots(delta: FloatArray, weights: FloatArray, layout: Layout) -> FloatArray:
    """Return √u of each coordinate in units of the largest that there could be, float32."""
    unit = float(peak_of(delta)) * float(np.sqrt(weights.max())) or 1.0
    roots = np.zeros(layout.size, dtype=np.float32)
    for block in scalable_blocks(delta, layout):
        # Members of a class are over a common bound, so that their scale is no subnormal.
        kept = np.abs(delta[block]) >= MIN_PEAK
        roots[block] = np.sqrt(importance(delta[block], weights[block])) / unit * kept
    return roots


def _about_bytes(steps: Steps, number: int, layout: Layout, budget: Budget) -> int:
    at_least = steps.about(number)
    sent = at_least - np.append(at_least[1:], 0)
    body = int(slice_bytes(np.array([layout.size]), sent[np.newaxis], partial=False)[0])
    segments = max(1, -(-body // (budget.segment_bytes - PREAMBLE_BYTES)))
    return body + segments * PREAMBLE_BYTES


def _scales(values: FloatArray, classes: ClassArray) -> dict[int, np.float32]:
    """Return each width's step, where it has members: their largest magnitude over q_max."""
    scales = {}
    for number, width in enumerate(_WIDTHS[:-1], start=1):
        members = np.flatnonzero(classes == number)
        if members.size:
            scales[number] = scale_for(peak_of(values[members]), width=width)
    return scales
