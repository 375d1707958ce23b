"""`fstq-r`: Fisher-allocated, rotated, unbiased; any part of its segments stands for the whole.

Each tensor is rotated at random, so that its coordinates are nearly Gaussian; those that pass a
threshold are sent with few levels. With y = R·x and r the levels' values, the estimate is
‖x‖² / ⟨y, r⟩ · Rᵀr, whose inner product with x is ‖x‖² for every seed, but for the scale's unbiased
rounding. The thresholds come from `codec.rates`.

Across x an estimate is unbiased as far as the rotation evens out a tensor: of n coordinates in one
block, the bias is about (2/3)·((T² - 1) / n)² of the energy, under 0.5 % at n = 64 and 0.1 bit,
where the variance is over a thousand times that. It is not small where a coordinate that is not
sent apart holds over a tenth of the energy; `SPEC.md`, "Codec 4", has figures.

Source: S. Vargaftik et al., "DRIVE", NeurIPS 2021, and "EDEN", ICML 2022, for rotation and scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.codec import Order
from codec.codings import Coding
from codec.inputs import check_sum, weighted_budget
from codec.rotated import sum_of
from codec.rotated_encoder import Encoder, Source
from codec.rotated_estimate import Estimates
from codec.segment import open_all, pack_all
from codec.splitmix import Use, stream_of, words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codec.codec import Budget, FloatArray, SumArray
    from codec.layout import Layout

_SEED_MASK: Final = (1 << 32) - 1

# [coordinates] Added to the sum at once, so that the float64 intermediates stay in the cache.
_ADDED: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class FstqR:
    """Unbiased estimates from rotated tensors, at the bits that Fisher information allots them."""

    name: str = "fstq-r"
    codec_id: int = 4
    order: Order = Order.EXCHANGEABLE
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
        """Return the update's segments, each as good as any other.

        Tensors whose Fisher information is zero throughout, or that hold less than a millionth of
        the weighted energy, are never sent. All others are estimated without bias, as far as the
        module's docstring says.

        Args:
            delta: float32 (layout.size,), client - base, finite. Magnitudes over 2^64 are clipped.
            fisher: float32 (layout.size,), finite and ≥ 0; None or all zero weights all alike.
            layout: Its tensors are rotated one by one.
            budget: `update_bytes` is what all segments together never exceed.
            seed: Decides rotations, rounding and which tensors are left out where not all fit.

        Raises:
            InvalidInput: A wrong shape or dtype, a value that is not finite, no byte budget or one
                under `limits.MIN_SEGMENT_BYTES`, or more segments than `limits.MAX_SEGMENTS`.
        """
        update_bytes = weighted_budget(delta, fisher, layout=layout, budget=budget, codec=self.name)
        fishers = [1.0] * len(layout.tensors)
        if fisher is not None:
            fishers = [
                sum_of(fisher[tensor.offset : tensor.end]) / tensor.size
                for tensor in layout.tensors
            ]
        short = int(words(seed, stream=stream_of(Use.ORDER), start=0, count=1)[0]) & _SEED_MASK
        source = Source(np.ascontiguousarray(delta), np.array(fishers), layout, short)
        payloads = Encoder(
            source,
            update_bytes=update_bytes,
            segment_bytes=budget.segment_bytes,
            coding=self.coding,
        ).payloads()
        return pack_all(payloads, codec_id=self.codec_id, layout=layout)

    def accumulate(
        self,
        segments: Mapping[int, bytes],
        *,
        layout: Layout,
        segment_count: int,
        weight: float,
        total: SumArray | FloatArray,
    ) -> float:
        """Add `weight` times the estimate that these segments make to `total`, or nothing.

        Raises:
            CodecError: A segment is not legal, or they are not of one update.
            InvalidInput: `total` or `weight` is not what it has to be.
        """
        check_sum(total, weight=weight, layout=layout)
        if not segments:
            return 0.0
        payloads = open_all(segments, codec_id=self.codec_id, count=segment_count, layout=layout)
        estimates = Estimates(
            payloads, layout=layout, segment_count=segment_count, coding=self.coding
        )
        for offset, estimate in estimates.tensors():
            for start in range(0, estimate.size, _ADDED):
                part = estimate[start : start + _ADDED].astype(np.float64)
                part *= weight
                begin = offset + start
                total[begin : begin + part.size] += part
        return len(segments) / segment_count
