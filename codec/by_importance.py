"""What the codecs share that let importance u = F·Δ² alone decide which class a coordinate gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from codec.cutting import best_first, cut
from codec.fstq import Fstq
from codec.gains import blocks, captured
from codec.importance import fisher_or_uniform
from codec.inputs import weighted_budget
from codec.quantize import MIN_PEAK, peak_of
from codec.segment import HEADER_BYTES, pack_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from codec.codec import Budget, FloatArray
    from codec.layout import Layout

    ClassArray = npt.NDArray[np.uint8]

# [coordinates] Worked on at once, so that the intermediates stay in the cache.
BLOCK: Final = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """A checked update that is to be encoded.

    Attributes:
        delta: float32 (layout.size,), finite.
        weights: float32 (layout.size,), finite and ≥ 0, not zero everywhere.
        layout: The delta's layout.
        budget: Of the update; its bytes are `update_bytes`.
        update_bytes: What all segments together never exceed.
    """

    delta: FloatArray
    weights: FloatArray
    layout: Layout
    budget: Budget
    update_bytes: int


@dataclass(frozen=True, slots=True)
class FstqByImportance(Fstq, ABC):
    """A codec in the segments of `fstq` that leaves nothing to chance."""

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
        update_bytes = weighted_budget(delta, fisher, layout=layout, budget=budget, codec=self.name)
        weights = fisher_or_uniform(fisher, size=layout.size)
        payloads = self._payloads(Weighted(delta, weights, layout, budget, update_bytes))
        return pack_all(payloads, codec_id=self.codec_id, layout=layout)

    @abstractmethod
    def _payloads(self, update: Weighted) -> list[bytes]:
        """Return the update's payloads, at least one; with their headers they fit its bytes."""


def scalable_blocks(delta: FloatArray, layout: Layout) -> Iterator[slice]:
    """Yield the flat coordinates, a block at a time, of tensors whose scales are not subnormal."""
    for tensor in layout.tensors:
        if peak_of(delta[tensor.offset : tensor.end]) >= MIN_PEAK:
            yield from blocks(tensor, size=BLOCK)


def payloads_of(
    update: Weighted, classes: ClassArray, *, scales: Sequence[dict[int, np.float32]]
) -> list[bytes]:
    """Return the payloads of these classes, tensors that avoid the most error per byte first.

    Args:
        update: What is sent.
        classes: uint8 (layout.size,), as `codec.slices` numbers them.
        scales: Per tensor of the layout, the step of each class that needs one.
    """
    avoided = captured(classes, update.delta, update.weights, layout=update.layout)
    return cut(
        update.delta,
        classes,
        layout=update.layout,
        order=best_first(classes, avoided, layout=update.layout),
        scales=scales,
        payload_bytes=update.budget.segment_bytes - HEADER_BYTES,
    )
