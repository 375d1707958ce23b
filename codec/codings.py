"""How a codec's supports are written: near their entropy, or in fields of a fixed width."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from codec.plain_sets import encode_plain_set, take_plain_set
from codec.sets import encode_set, take_set

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]


class Coding(Enum):
    """A code for sets; `PLAIN` is the control that tells what the other one saves."""

    GOLOMB = "golomb"
    PLAIN = "plain"

    def encode_set(self, places: IntArray, *, size: int) -> bytes:
        """Return the bytes of a set, as `codec.sets.encode_set`."""
        if self is Coding.PLAIN:
            return encode_plain_set(places, size=size)
        return encode_set(places, size=size)

    def take_set(self, data: memoryview, *, count: int, size: int) -> tuple[IntArray, int]:
        """Return the set that `data` starts with and its bytes, as `codec.sets.take_set`.

        Raises:
            CorruptSegment: The bytes are no such set.
        """
        if self is Coding.PLAIN:
            return take_plain_set(data, count=count, size=size)
        return take_set(data, count=count, size=size)
