"""What the sparse codecs share: fitting the number of coordinates to a budget, checks, sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.codec import Order
from codec.disjoint import check_disjoint
from codec.errors import CorruptSegment
from codec.inputs import byte_budget, check_delta, check_sum
from codec.segment import HEADER_BYTES, open_all, pack_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from codec.codec import Budget, FloatArray, SumArray
    from codec.layout import Layout

    IntArray = npt.NDArray[np.int64]

# Encodings tried at most: what a set takes is known once it is encoded.
_TRIES: Final = 8

# How much less is aimed at after each further try where none has fitted.
_RETREAT: Final = 0.9

# A budget used up to this share is used well enough.
_USED: Final = 0.995


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """Coordinates of one segment and what it says about them.

    Attributes:
        places: int64, ascending flat coordinates.
        values: float32, the value of each.
    """

    places: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class SentRun:
    """What is sent of the coordinates from `begin` up to, not including, `end`."""

    begin: int
    end: int
    sent: Sent


@dataclass(frozen=True, slots=True)
class SparseFormat(ABC):
    """What is decoded as some coordinates and a value of each."""

    name: str
    codec_id: int
    order: Order = Order.ORDERED
    dense: bool = False

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
        payloads = open_all(segments, codec_id=self.codec_id, count=segment_count, layout=layout)
        parts = self._parse([*payloads.values()], layout=layout)
        for part in parts:
            total[part.places] += weight * part.values.astype(np.float64)
        return len(segments) / segment_count

    @abstractmethod
    def _parse(self, payloads: list[memoryview], *, layout: Layout) -> list[Sent]:
        """Return what these payloads send; all of them are legal, no coordinate comes twice."""


@dataclass(frozen=True, slots=True)
class SparseCodec(SparseFormat):
    """A codec that sends the coordinates of largest magnitude, most important first."""

    def encode(
        self,
        delta: FloatArray,
        fisher: FloatArray | None,  # noqa: ARG002 - magnitude alone decides
        *,
        layout: Layout,
        budget: Budget,
        seed: int,  # noqa: ARG002 - nothing is left to chance
    ) -> tuple[bytes, ...]:
        """Return as many coordinates as the budget holds, in segments, most important first.

        Args:
            delta: float32 (layout.size,), client - base, finite.
            fisher: Not used.
            layout: The delta's layout.
            budget: `update_bytes` is what all segments together never exceed.
            seed: Not used.

        Raises:
            InvalidInput: A wrong shape or dtype, a value that is not finite, no byte budget or one
                under `limits.MIN_SEGMENT_BYTES`, or more segments than `limits.MAX_SEGMENTS`.
        """
        check_delta(delta, layout=layout)
        update_bytes = byte_budget(budget, codec=self.name)
        flat = np.ascontiguousarray(delta)
        room = budget.segment_bytes - HEADER_BYTES
        payloads = fit(
            lambda count: self._payloads(flat, count, layout=layout, room=room),
            lambda count: self._about_bytes(count, layout=layout, room=room),
            update_bytes=update_bytes,
            most=layout.size,
        )
        return pack_all(payloads, codec_id=self.codec_id, layout=layout)

    @abstractmethod
    def _about_bytes(self, count: int, *, layout: Layout, room: int) -> int:
        """Return about how many bytes an update of `count` coordinates has; never falls much."""

    @abstractmethod
    def _payloads(self, delta: FloatArray, count: int, *, layout: Layout, room: int) -> list[bytes]:
        """Return the payloads, at least one, that send about `count` coordinates.

        Args:
            delta: float32 (layout.size,), contiguous and finite.
            count: Coordinates, 0 to layout.size; more never take fewer bytes, but for rounding.
            layout: The delta's layout.
            room: Most bytes that a payload may have.
        """


def fit(
    payloads_of: Callable[[int], list[bytes]],
    about: Callable[[int], int],
    *,
    update_bytes: int,
    most: int,
) -> list[bytes]:
    """Return the payloads of about as many coordinates as fit the budget, headers counted.

    Args:
        payloads_of: Payloads of so many coordinates; those of none always fit.
        about: About how many bytes they and their headers take.
        update_bytes: What payloads and headers never exceed.
        most: The largest number that makes sense.
    """
    low, high = 0, most + 1  # fits; does not
    best: list[bytes] | None = None
    count = max(1, most_that_fit(about, room=update_bytes, most=most))
    aim = (_USED + 1) / 2
    for _ in range(_TRIES):
        payloads = payloads_of(count)
        size = sum(map(len, payloads)) + HEADER_BYTES * len(payloads)
        if size <= update_bytes:
            best, low = payloads, count
            if size >= _USED * update_bytes:
                break
        else:
            # Near half of all coordinates more of them take hardly more bytes: go down faster.
            if best is None and high <= most:
                aim *= _RETREAT
            high = count
        if high - low <= 1:
            break
        # In proportion, a little short of the budget; bisection where that leaves the bracket.
        count = min(most, int(count * aim * update_bytes / size))
        if not low < count < high:
            count = (low + high) // 2
    return payloads_of(0) if best is None else best


def most_that_fit(cost: Callable[[int], int], *, room: int, most: int) -> int:
    """Return the largest number up to `most` whose cost is within the room, 0 where 1 is not.

    Args:
        cost: Bytes of so many; never falls.
        room: Bytes.
        most: The largest number in question.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if cost(middle) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def cut_runs(
    places: IntArray, cost: Callable[[int, slice], int], *, room: int
) -> Iterator[tuple[int, slice]]:
    """Yield each run's first flat coordinate and which are sent of it; its last one is.

    Args:
        places: int64, ascending, the flat coordinates that are sent.
        cost: Bytes of the run that begins at a flat coordinate and sends these of the places.
        room: Most bytes of a run.
    """
    begin = sent = 0
    while sent < places.size:

        def taken(number: int, begin: int = begin, sent: int = sent) -> int:
            return cost(begin, slice(sent, sent + number))

        number = most_that_fit(taken, room=room, most=places.size - sent)
        assert number > 0
        yield begin, slice(sent, sent + number)
        sent += number
        begin = int(places[sent - 1]) + 1


def sent_once(runs: list[SentRun]) -> list[Sent]:
    """Return what runs send.

    Raises:
        CorruptSegment: Two of them share a coordinate.
    """
    check_disjoint(runs)
    return [run.sent for run in runs]


def check_apart(parts: list[Sent], *, layout: Layout) -> None:
    """Raise `CorruptSegment` where two segments send the same coordinate."""
    if len(parts) <= 1:
        return
    seen = np.zeros(layout.size, dtype=np.bool_)
    for part in parts:
        if seen[part.places].any():
            raise CorruptSegment("two segments of the update send the same coordinate")
        seen[part.places] = True
