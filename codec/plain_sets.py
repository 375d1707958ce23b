"""Which of 0 … size - 1 are members, without an entropy code: a bitmap, or indices of one width.

`SPEC.md`, "Plain sets", is normative. Whichever takes fewer bytes is used; count and size, which
are the caller's to store, say which. The control for `codec.sets`: what an entropy code is worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.errors import CorruptSegment
from codec.sets import fewer, take_fewer

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]


def encode_plain_set(places: IntArray, *, size: int) -> bytes:
    """Return the bytes of a set; arguments as `codec.sets.encode_set`."""
    places = fewer(places, size=size)
    if _is_bitmap(places.size, size):
        marks = np.zeros(size, dtype=np.uint8)
        marks[places] = 1
        return pack(marks, width=1)
    return pack(places.astype(np.uint32), width=_width(size))


def take_plain_set(data: memoryview, *, count: int, size: int) -> tuple[IntArray, int]:
    """Return what `codec.sets.take_set` does, of a plain set.

    Raises:
        CorruptSegment: The bytes are not a set of so many members.
    """
    return take_fewer(_take_few, data, count=count, size=size)


def _take_few(data: memoryview, count: int, size: int) -> tuple[IntArray, int]:
    used = plain_set_bytes(count, size)
    if used > len(data):
        raise CorruptSegment("the payload ends within a set")
    if _is_bitmap(count, size):
        places = np.flatnonzero(unpack(data[:used], count=size, width=1))
        if places.size != count:
            raise CorruptSegment(f"a bitmap has {places.size:,} members, not {count:,}")
        return places, used
    places = unpack(data[:used], count=count, width=_width(size)).astype(np.int64)
    if count and (places[-1] >= size or (np.diff(places) <= 0).any()):
        raise CorruptSegment("indices do not ascend, or leave their set")
    return places, used


def plain_set_bytes(count: int, size: int) -> int:
    """Return how many bytes the set of `count` members of `size` places takes."""
    coded = min(count, size - count)
    width = 1 if _is_bitmap(coded, size) else _width(size)
    return packed_bytes(size if _is_bitmap(coded, size) else coded, width=width)


def _is_bitmap(coded: int, size: int) -> bool:
    """Return whether so many members take fewer bytes as a bitmap than as indices."""
    return packed_bytes(size, width=1) < packed_bytes(coded, width=_width(size))


def _width(size: int) -> int:
    return (size - 1).bit_length()
