"""The one interface behind which every codec stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from codec.layout import Layout

FloatArray = npt.NDArray[np.float32]
SumArray = npt.NDArray[np.float64]


class Order(str, Enum):
    """What a part of an update's segments stands for.

    `EXCHANGEABLE`: any subset is an unbiased estimate of the whole, the sender keeps nothing.
    `ORDERED`: the most important come first, what did not arrive stays with the sender as residual.
    """

    EXCHANGEABLE = "exchangeable"
    ORDERED = "ordered"


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes an update may take, and into how large pieces it is cut.

    Attributes:
        update_bytes: Most bytes that all segments together may have, headers counted;
            None where the codec's size is given by the layout alone (dense codecs).
        segment_bytes: Most bytes that one segment may have, its header counted.
    """

    update_bytes: int | None
    segment_bytes: int


class Part(Protocol):
    """What a range of consecutive flat coordinates became, `begin` up to, not including, `end`."""

    @property
    def begin(self) -> int:
        """The first coordinate of the range."""
        ...

    @property
    def end(self) -> int:
        """The coordinate that follows the last of the range."""
        ...

    @property
    def positions(self) -> slice | npt.NDArray[np.int64]:
        """The flat coordinates within the range that were sent, ascending."""
        ...

    @property
    def values(self) -> FloatArray:
        """What was sent for each of them, float32, finite."""
        ...


class Codec(Protocol):
    """Turns a delta into segments that decode on their own, and any of them back into a sum."""

    @property
    def name(self) -> str:
        """The name that configuration and manifests use."""
        ...

    @property
    def codec_id(self) -> int:
        """The number that stands for it in segments."""
        ...

    @property
    def order(self) -> Order:
        """What a part of the segments stands for."""
        ...

    def encode(
        self,
        delta: FloatArray,
        fisher: FloatArray | None,
        *,
        layout: Layout,
        budget: Budget,
        seed: int,
    ) -> tuple[bytes, ...]:
        """Return the update's segments, in the order in which they are to be sent.

        Args:
            delta: float32 (layout.size,), client - base, finite.
            fisher: float32 (layout.size,), diagonal Fisher of the adapter, finite and ≥ 0;
                None weights every coordinate alike.
            layout: Names and shapes that the flat coordinates stand for.
            budget: Bytes for the whole update and for one segment.
            seed: Seeds the specified random stream of codecs that use one.

        Raises:
            InvalidInput: A wrong shape or dtype, a value that is not finite, a budget that is too
                small for a single segment.
        """
        ...

    def parts(
        self, segment: bytes, *, index: int, segment_count: int, layout: Layout
    ) -> Sequence[Part]:
        """Return what one segment stands for.

        Args:
            segment: Bytes from elsewhere.
            index: Which of the update's segments it has to be.
            segment_count: How many segments the whole update has.
            layout: The layout that the update was made for.

        Raises:
            CodecError: Bytes that are truncated, damaged, of another layout or not finite.
        """
        ...

    def accumulate(
        self,
        segments: Mapping[int, bytes],
        *,
        layout: Layout,
        segment_count: int,
        weight: float,
        total: SumArray,
    ) -> None:
        """Add `weight` times the update that these segments stand for to `total`, in place.

        Nothing is added where an error is raised.

        Args:
            segments: Segment index → bytes, any subset of the update's segments.
            layout: The layout that the update was made for.
            segment_count: How many segments the whole update has.
            weight: The client's weight.
            total: float64 (layout.size,), the running sum.

        Raises:
            CodecError: Bytes that are truncated, damaged, of another layout or not finite.
        """
        ...
