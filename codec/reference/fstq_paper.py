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

from codec.cutting import cut
from codec.fstq import PREAMBLE_BYTES, Fstq
from codec.gains import captured
from codec.importance import fisher_or_uniform, importance
from codec.inputs import byte_budget, check_delta, check_fisher
from codec.quantize import MIN_PEAK, peak_of, scale_for
from codec.reference.greedy import Steps
from codec.reference.sparse import fit
from codec.segment import HEADER_BYTES, pack_all
from codec.slices import CLASS_BITS, COUNT, slice_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from codec.codec import Budget, FloatArray
    from codec.layout import Layout

    ClassArray = npt.NDArray[np.uint8]

_WIDTHS: Final = CLASS_BITS[1:]

# [coordinates] Worked on at once, so that the intermediates stay in the cache.
_BLOCK: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class FstqPaper(Fstq):
    """Fisher-guided {0, 2, 4, 16} bits by F·Δ² alone, with max-scaled groups."""

    name: str = "fstq-paper"

    def encode(
        self,
        delta: FloatArray,
        fisher: FloatArray | None,
        *,
        layout: Layout,
        budget: Budget,
        seed: int,  # noqa: ARG002 - equal importances are taken in the order of coordinates
    ) -> tuple[bytes, ...]:
        """Return the update's segments, those that avoid the most error per byte first.

        Args:
            delta: As `Fstq.encode`.
            fisher: As `Fstq.encode`.
            layout: As `Fstq.encode`.
            budget: As `Fstq.encode`.
            seed: Not used.

        Raises:
            InvalidInput: As `Fstq.encode`.
        """
        check_delta(delta, layout=layout)
        if fisher is not None:
            check_fisher(fisher, layout=layout)
        update_bytes = byte_budget(budget, codec=self.name)
        weights = fisher_or_uniform(fisher, size=layout.size)
        steps = Steps.of(_roots(delta, weights, layout), widths=_WIDTHS)
        packed = fit(
            lambda number: _payloads(delta, weights, steps.classes(number), layout, budget),
            lambda number: _about_bytes(steps, number, layout, budget),
            update_bytes=update_bytes,
            most=steps.count,
        )
        return pack_all(packed, codec_id=self.codec_id, layout=layout)


def _roots(delta: FloatArray, weights: FloatArray, layout: Layout) -> FloatArray:
    """Return √u of each coordinate in units of the largest that there could be, float32."""
    unit = float(peak_of(delta)) * float(np.sqrt(weights.max())) or 1.0
    roots = np.zeros(layout.size, dtype=np.float32)
    for tensor in layout.tensors:
        if peak_of(delta[tensor.offset : tensor.end]) < MIN_PEAK:
            continue  # its scales would be subnormal
        for start in range(tensor.offset, tensor.end, _BLOCK):
            block = slice(start, min(start + _BLOCK, tensor.end))
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


def _payloads(
    delta: FloatArray, weights: FloatArray, classes: ClassArray, layout: Layout, budget: Budget
) -> list[bytes]:
    """Return the payloads of these classes, tensors that avoid the most error per byte first."""
    if not classes.any():
        return [COUNT.pack(0)]
    windows = [slice(tensor.offset, tensor.end) for tensor in layout.tensors]
    sent = np.stack([np.bincount(classes[window], minlength=4)[1:] for window in windows])
    sizes = np.array([tensor.size for tensor in layout.tensors], dtype=np.int64)
    taken = slice_bytes(sizes, sent, partial=False)
    avoided = captured(classes, delta, weights, layout=layout)
    order = np.argsort(-avoided / np.maximum(taken, 1), kind="stable")
    return cut(
        delta,
        classes,
        layout=layout,
        order=[int(place) for place in order if taken[place]],
        scales=[_scales(delta[window], classes[window]) for window in windows],
        payload_bytes=budget.segment_bytes - HEADER_BYTES,
    )


def _scales(values: FloatArray, classes: ClassArray) -> dict[int, np.float32]:
    """Return each width's step, where it has members: their largest magnitude over q_max."""
    scales = {}
    for number, width in enumerate(_WIDTHS[:-1], start=1):
        members = np.flatnonzero(classes == number)
        if members.size:
            scales[number] = scale_for(peak_of(values[members]), width=width)
    return scales
