"""Cutting the classes of a delta into payloads of slices, each no longer than a segment allows."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codec.slices import CLASS_BITS, COUNT, ONE_COORDINATE_BYTES, pack_slice, slice_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from codec.codec import FloatArray, SumArray
    from codec.layout import Layout


@dataclass(frozen=True, slots=True)
class _Piece:
    """A range of a tensor's coordinates that becomes one slice."""

    tensor_index: int
    begin: int
    length: int


def cut(
    delta: FloatArray,
    classes: npt.NDArray[np.uint8],
    *,
    layout: Layout,
    order: Sequence[int],
    scales: Sequence[dict[int, np.float32]],
    payload_bytes: int,
) -> list[bytes]:
    """Return the payloads, at least one, filled with the tensors in this order.

    A tensor that does not fit what is left of a payload is cut there, before a coordinate that is
    sent. Within a payload, slices ascend.

    Args:
        delta: float32 (layout.size,).
        classes: uint8 (layout.size,), as `codec.slices` numbers them.
        layout: The delta's layout.
        order: Indices of the tensors that send anything, most important first.
        scales: Per tensor of the layout, the step of each class that needs one.
        payload_bytes: Most bytes that a payload may have.
    """
    payloads = []
    for pieces in _fill(classes, layout, order, room=payload_bytes - COUNT.size):
        parts = [COUNT.pack(len(pieces))]
        for piece in sorted(pieces, key=lambda piece: piece.tensor_index):
            tensor = layout.tensors[piece.tensor_index]
            begin = tensor.offset + piece.begin
            window = slice(begin, begin + piece.length)
            parts.append(
                pack_slice(
                    delta[window],
                    classes[window],
                    tensor_index=piece.tensor_index,
                    begin=piece.begin,
                    partial=piece.length < tensor.size,
                    scales=scales[piece.tensor_index],
                )
            )
        payloads.append(b"".join(parts))
    return payloads or [COUNT.pack(0)]


def best_first(classes: npt.NDArray[np.uint8], avoided: SumArray, *, layout: Layout) -> list[int]:
    """Return the tensors that send anything, by the error avoided per byte, most first.

    Args:
        classes: uint8 (layout.size,).
        avoided: float64 (tensors,), the error that each tensor's classes avoid.
        layout: The classes' layout.
    """
    sent = np.stack(
        [
            np.bincount(classes[tensor.offset : tensor.end], minlength=len(CLASS_BITS))[1:]
            for tensor in layout.tensors
        ]
    )
    sizes = np.array([tensor.size for tensor in layout.tensors], dtype=np.int64)
    taken = slice_bytes(sizes, sent, partial=False)
    rates = avoided / np.maximum(taken, 1)
    return [int(place) for place in np.argsort(-rates, kind="stable") if taken[place]]


def _fill(
    classes: npt.NDArray[np.uint8], layout: Layout, order: Sequence[int], *, room: int
) -> Iterator[list[_Piece]]:
    """Yield the pieces of one payload after the other."""
    pieces: list[_Piece] = []
    left = room
    for place in order:
        tensor = layout.tensors[place]
        cutter = _Cutter(classes[tensor.offset : tensor.end], place)
        while cutter.unfinished():
            size, piece = cutter.take(left)
            pieces.append(piece)
            left -= size
            if cutter.unfinished() or left < ONE_COORDINATE_BYTES:
                yield pieces
                pieces, left = [], room
    if pieces:
        yield pieces


class _Cutter:
    """Cuts one tensor's classes into pieces from the front."""

    def __init__(self, classes: npt.NDArray[np.uint8], tensor_index: int) -> None:
        self._tensor_index = tensor_index
        self._size = classes.size
        self._positions = np.flatnonzero(classes)
        self._before = np.zeros((self._positions.size + 1, len(CLASS_BITS) - 1), dtype=np.int32)
        for number in range(1, len(CLASS_BITS)):
            column = self._before[1:, number - 1]
            np.cumsum(classes[self._positions] == number, out=column)
        self._next = 0

    def unfinished(self) -> bool:
        """Whether coordinates are left to send."""
        return self._next < self._positions.size

    def take(self, room: int) -> tuple[int, _Piece]:
        """Return the size and the piece that holds the most of the rest in this room.

        Args:
            room: Bytes, enough for one coordinate.
        """
        if self._next == 0:
            size = self._bytes(self._size, self._positions.size, partial=False)
            if size <= room:
                self._next = self._positions.size
                return size, _Piece(self._tensor_index, 0, self._size)
        left = self._positions.size - self._next
        count = bisect_right(range(1, left + 1), room, key=self._first_bytes)
        assert count > 0
        size = self._first_bytes(count)
        piece = _Piece(self._tensor_index, int(self._positions[self._next]), self._span(count))
        self._next += count
        return size, piece

    def _span(self, count: int) -> int:
        """Return how many coordinates the next `count` that are sent reach over."""
        first, last = self._positions[self._next], self._positions[self._next + count - 1]
        return int(last - first) + 1

    def _first_bytes(self, count: int) -> int:
        return self._bytes(self._span(count), count, partial=True)

    def _bytes(self, length: int, count: int, *, partial: bool) -> int:
        sent = self._before[self._next + count] - self._before[self._next]
        lengths = np.array([length], dtype=np.int64)
        return int(slice_bytes(lengths, sent.astype(np.int64)[None], partial=partial)[0])
