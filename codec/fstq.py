"""`fstq`: the codec of arXiv 2604.25421, Algorithm 1, in segments that decode on their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.allocation import Counts, allocate
from codec.codec import Order
from codec.cutting import best_first, cut
from codec.disjoint import check_disjoint
from codec.gains import captured, thresholds
from codec.importance import fisher_or_uniform
from codec.inputs import check_sum, weighted_budget
from codec.scales import class_scales
from codec.segment import HEADER_BYTES, open_payload, pack_all
from codec.slices import (
    COUNT,
    CUT_BYTES,
    ONE_COORDINATE_BYTES,
    Support,
    parse_slices,
    slice_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from codec.codec import Budget, FloatArray, SumArray
    from codec.layout import Layout
    from codec.slices import Slice

# Bytes of a segment before its first slice.
PREAMBLE_BYTES: Final = HEADER_BYTES + COUNT.size

# Where more of all coordinates than this are sent, tags for all of them may take the least; where
# less, indices may. Between the two, bitmaps do: below 1/2 and above 1 / index width.
_DENSE: Final = 0.4
_SPARSE: Final = 0.15


@dataclass(frozen=True, slots=True)
class Fstq:
    """Fisher-guided {0, 2, 4, 16} bits per coordinate under a byte budget; keeps no state."""

    name: str = "fstq"
    codec_id: int = 2
    order: Order = Order.ORDERED
    dense: bool = False

    def encode(
        self,
        delta: FloatArray,
        fisher: FloatArray | None,
        *,
        layout: Layout,
        budget: Budget,
        seed: int,
    ) -> tuple[bytes, ...]:
        """Return the update's segments, those that avoid the most error per byte first.

        Coordinates whose importance F·Δ² is zero are never sent. A delta of nothing else is one
        segment without slices.

        Args:
            delta: float32 (layout.size,), client - base, finite.
            fisher: float32 (layout.size,), finite and ≥ 0; None or all zero weights all alike.
            layout: Its tensors are the groups that share scales.
            budget: `update_bytes` is what all segments together never exceed.
            seed: Decides which of equally important coordinates are sent where not all fit.

        Raises:
            InvalidInput: A wrong shape or dtype, a value that is not finite, no byte budget or one
                under `limits.MIN_SEGMENT_BYTES`, or more segments than `limits.MAX_SEGMENTS`.
        """
        update_bytes = weighted_budget(delta, fisher, layout=layout, budget=budget, codec=self.name)
        weights = fisher_or_uniform(fisher, size=layout.size)
        allowance = update_bytes
        while True:
            plan = _plan(
                delta,
                weights,
                layout=layout,
                allowance=allowance,
                segment_bytes=budget.segment_bytes,
                seed=seed,
            )
            payloads = cut(
                delta,
                plan.classes,
                layout=layout,
                order=plan.order,
                scales=class_scales(delta, weights, plan.classes, layout=layout),
                payload_bytes=budget.segment_bytes - HEADER_BYTES,
            )
            size = sum(map(len, payloads)) + HEADER_BYTES * len(payloads)
            if size <= update_bytes:
                return pack_all(payloads, codec_id=self.codec_id, layout=layout)
            del plan, payloads
            # The plan estimates how many cuts the segments' ends cost; tiny segments can cost more.
            allowance = min(allowance - 1, allowance * update_bytes // size)
            allowance = max(allowance, PREAMBLE_BYTES)

    def parts(
        self, segment: bytes, *, index: int, segment_count: int, layout: Layout
    ) -> list[Slice]:
        """Return the slices of one segment, as `codec.codec.Codec` says."""
        payload = open_payload(
            segment, codec_id=self.codec_id, index=index, count=segment_count, layout=layout
        )
        return parse_slices(payload, layout=layout)

    def accumulate(
        self,
        segments: Mapping[int, bytes],
        *,
        layout: Layout,
        segment_count: int,
        weight: float,
        total: SumArray | FloatArray,
    ) -> float:
        """Add `weight` times what these segments stand for to `total`, all of it or nothing.

        Raises:
            CodecError: A segment is not legal, or two hold the same coordinates.
            InvalidInput: `total` or `weight` is not what it has to be.
        """
        check_sum(total, weight=weight, layout=layout)
        slices = []
        for index, segment in segments.items():
            slices += self.parts(segment, index=index, segment_count=segment_count, layout=layout)
        check_disjoint(slices)
        for part in slices:
            total[part.positions] += weight * part.values.astype(np.float64)
        return len(segments) / segment_count


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What is sent with how many bits, and the order of the tensors."""

    classes: npt.NDArray[np.uint8]
    order: list[int]
    avoided: float


def _plan(
    delta: FloatArray,
    weights: FloatArray,
    *,
    layout: Layout,
    allowance: int,
    segment_bytes: int,
    seed: int,
) -> _Plan:
    """Return the best plan for the forms of support that can be the smallest at its density."""
    sizes = np.array([tensor.size for tensor in layout.tensors], dtype=np.int64)

    def fits(counts: Counts) -> bool:
        return _update_bytes(sizes, counts, segment_bytes) <= allowance

    def plan(support: Support) -> _Plan:
        steps = thresholds(delta, weights, layout=layout, support=support)
        classes = allocate(steps, fits=fits, seed=seed)
        avoided = captured(classes, delta, weights, layout=layout)
        order = best_first(classes, avoided, layout=layout)
        return _Plan(classes, order, float(avoided.sum()))

    best = plan(Support.BITMAP)
    density = np.count_nonzero(best.classes) / layout.size
    if _SPARSE < density < _DENSE:
        return best
    other = plan(Support.TAGS if density >= _DENSE else Support.INDICES)
    return other if other.avoided > best.avoided else best


def _update_bytes(sizes: npt.NDArray[np.int64], counts: Counts, segment_bytes: int) -> int:
    """Return about how many bytes the update has, hardly ever fewer than it then has."""
    slices = int(slice_bytes(sizes, counts, partial=False).sum())
    room = segment_bytes - PREAMBLE_BYTES
    usable = max(room - CUT_BYTES - ONE_COORDINATE_BYTES, room // 4)
    further = max(0, slices - room + usable - 1) // usable
    return slices + PREAMBLE_BYTES + further * (PREAMBLE_BYTES + CUT_BYTES)
