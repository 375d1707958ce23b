"""`fstq+`: the classes of `fstq`, with fitted scales and supports coded near their entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.codec import Order
from codec.codings import Coding
from codec.disjoint import check_disjoint
from codec.importance import fisher_or_uniform
from codec.inputs import check_sum, weighted_budget
from codec.plus_cutting import CHUNK, Fill, Range, Source, classify, slices_of
from codec.plus_plan import make_plan, refine
from codec.plus_slices import parse_slices
from codec.segment import HEADER_BYTES, open_payload, pack_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codec.codec import Budget, FloatArray, SumArray
    from codec.layout import Layout
    from codec.plus_plan import Plan, Sample
    from codec.plus_slices import Decoded

# [shares of the budget] What is close enough, in layouts of fewer coordinates than a large one has
# and in others, where another try takes seconds; and what tries aim at. What is over is cut off
# where it matters least, yet costs more than what is given away.
_LEAST: Final = 0.995
_LARGE: Final = 1 << 21
_LEAST_IF_LARGE: Final = 0.985
_FIRST_AIM: Final = 0.991
_AIM: Final = 0.998
_TRIES: Final = 4

# [bytes] What a range takes besides what its coordinates do, about.
_RANGE_BYTES: Final = 12

# Gives classes that take about a number of bits, and the ranges that send any, best first.
Proposal = Callable[[float], tuple[Source, list[Range]]]


@dataclass(frozen=True, slots=True)
class FstqPlus:
    """Fisher-guided {0, 2, 4, 16} bits per coordinate at the least cost; keeps no state."""

    name: str = "fstq+"
    codec_id: int = 3
    order: Order = Order.ORDERED
    dense: bool = False
    coding: Coding = Coding.GOLOMB

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
        self.check(delta, fisher, layout=layout, budget=budget)
        weights = fisher_or_uniform(fisher, size=layout.size)
        propose = Planned(delta, weights, layout, seed)
        payloads = fill(propose, layout=layout, budget=budget, coding=self.coding)
        return pack_all(payloads, codec_id=self.codec_id, layout=layout)

    def check(
        self, delta: FloatArray, fisher: FloatArray | None, *, layout: Layout, budget: Budget
    ) -> None:
        """Raise `InvalidInput` unless an update can be made of these."""
        weighted_budget(delta, fisher, layout=layout, budget=budget, codec=self.name)

    def parts(
        self, segment: bytes, *, index: int, segment_count: int, layout: Layout
    ) -> list[Decoded]:
        """Return the parts of one segment."""
        payload = open_payload(
            segment, codec_id=self.codec_id, index=index, count=segment_count, layout=layout
        )
        return parse_slices(payload, layout=layout, coding=self.coding)

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
        parts: list[Decoded] = []
        for index, segment in segments.items():
            parts += self.parts(segment, index=index, segment_count=segment_count, layout=layout)
        check_disjoint(parts)
        for part in parts:
            total[part.positions] += weight * part.values.astype(np.float64)
        return len(segments) / segment_count


@dataclass(slots=True)
class Planned:
    """Proposes classes by plan; each next one is made from the last."""

    delta: FloatArray
    weights: FloatArray
    layout: Layout
    seed: int
    plan: Plan | None = None
    sample: Sample | None = None

    def __call__(self, bits: float) -> tuple[Source, list[Range]]:
        """Return classes that take about so many bits, and the ranges that send any, best first."""
        return classify(
            self.delta, self.weights, self.adjust(bits), layout=self.layout, seed=self.seed
        )

    def adjust(self, bits: float) -> Plan:
        """Return the plan for about so many bits."""
        if self.plan is None or self.sample is None:
            self.plan, self.sample = make_plan(
                self.delta, self.weights, layout=self.layout, bits=bits, seed=self.seed
            )
        else:
            self.plan = refine(self.plan, self.sample, bits=bits, rounds=1)
        return self.plan


def fill(
    propose: Proposal, *, layout: Layout, budget: Budget, coding: Coding = Coding.GOLOMB
) -> list[bytearray]:
    """Return the payloads of the first proposal that meets the budget closely, or of the best.

    Args:
        propose: Gives classes for a number of bits.
        layout: The delta's layout.
        budget: With a number of bytes for the update; not one more is used.
        coding: Of the sets.
    """
    assert budget.update_bytes is not None
    goal = _first_goal(layout, budget, budget.update_bytes)
    least = _LEAST if layout.size < _LARGE else _LEAST_IF_LARGE
    best: list[bytearray] = []
    most = -1.0
    for _ in range(_TRIES):
        source, ranges = propose(goal)
        filled = Fill.of(
            source,
            payload_bytes=budget.segment_bytes - HEADER_BYTES,
            update_bytes=budget.update_bytes,
            coding=coding,
        )
        for each in slices_of(ranges, layout=layout):
            if not filled.add(each):
                break
        if filled.worth * source.plan.bit_price > most:
            best, most = filled.payloads, filled.worth * source.plan.bit_price
        wanted = 1 - filled.left / budget.update_bytes
        if filled.complete and (wanted >= least or source.plan.sends_all):
            break
        if not filled.complete:
            wanted *= max(1.0, sum(each.bits for each in ranges) / max(filled.bits, 1.0))
        goal *= _AIM / wanted
    return best


def _first_goal(layout: Layout, budget: Budget, update_bytes: int) -> float:
    """Return the bits of an update of so many bytes, less what headers and slices take."""
    segments = -(-update_bytes // budget.segment_bytes)
    ranges = sum(-(-tensor.size // CHUNK) for tensor in layout.tensors)
    framing = segments * HEADER_BYTES + min(ranges * _RANGE_BYTES, update_bytes // 20)
    return 8 * max(update_bytes - framing, 1) * _FIRST_AIM
