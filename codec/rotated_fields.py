"""The fields that payloads of `fstq-r` are made of: counts, sets of so many, numbers near another.

`SPEC.md`, "Codec 4", is normative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.codings import Coding
from codec.errors import CorruptSegment

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

# Numbers near another are below this.
NEAR_LIMIT: Final = 1 << 16

_MORE: Final = 0x80
_GROUP_BITS: Final = 7
_COUNT_BYTES: Final = 5  # more than any count below 2^28 takes


def count_bytes(count: int) -> bytes:
    """Return a count, 7 bits a byte, the lowest first; all bytes but the last have bit 7 set."""
    parts = bytearray()
    while count >= _MORE:
        parts.append(count & (_MORE - 1) | _MORE)
        count >>= _GROUP_BITS
    parts.append(count)
    return bytes(parts)


def counted_set(places: IntArray, *, size: int, coding: Coding = Coding.GOLOMB) -> bytes:
    """Return the count of a set and its members."""
    return count_bytes(places.size) + coding.encode_set(places, size=size)


def near_bytes(numbers: IntArray) -> bytes:
    """Return numbers below 2^16, at least one: the least, a width, and what each is over it."""
    least = int(numbers.min())
    width = int(numbers.max() - least).bit_length()
    fields = (numbers - least).astype(np.uint32)
    return least.to_bytes(2, "little") + bytes((width,)) + pack(fields, width=width)


def sign_bytes(negative: BoolArray) -> bytes:
    """Return one bit per number, 1 where it is negative."""
    return np.packbits(negative, bitorder="little").tobytes()


class Reader:
    """Takes fields from a payload, never more than there is."""

    def __init__(self, payload: memoryview, coding: Coding = Coding.GOLOMB) -> None:
        self._payload = payload
        self._coding = coding
        self._position = 0

    @property
    def coding(self) -> Coding:
        """How sets are written."""
        return self._coding

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._payload) - self._position

    def take(self, size: int) -> memoryview:
        """Return the next bytes.

        Raises:
            CorruptSegment: There are not so many.
        """
        if size > self.left:
            raise CorruptSegment("the payload ends within a field")
        taken = self._payload[self._position : self._position + size]
        self._position += size
        return taken

    def count(self, *, most: int) -> int:
        """Return the next count, at most `most`.

        Raises:
            CorruptSegment: It is larger, or not in its shortest form.
        """
        count = 0
        for place in range(_COUNT_BYTES):
            byte = self.take(1)[0]
            count |= (byte & (_MORE - 1)) << _GROUP_BITS * place
            if byte < _MORE:
                if (place and not byte) or count > most:
                    break
                return count
        raise CorruptSegment(f"a count is over {most:,}, or longer than it has to be")

    def set_of(self, count: int, *, size: int) -> IntArray:
        """Return the members of the next set, `count` of `size` places.

        Raises:
            CorruptSegment: The bytes are no such set.
        """
        rest = self._payload[self._position :]
        places, used = self._coding.take_set(rest, count=count, size=size)
        self._position += used
        return places

    def counted_set(self, *, size: int) -> IntArray:
        """Return the members of the next set, whose count stands before it.

        Raises:
            CorruptSegment: The bytes are no such set.
        """
        return self.set_of(self.count(most=size), size=size)

    def near(self, count: int) -> IntArray:
        """Return the next numbers near another, int64 (count,), count ≥ 1.

        Raises:
            CorruptSegment: A field or a padding bit is not legal, or the numbers leave their range.
        """
        least = int.from_bytes(self.take(2), "little")
        width = self.take(1)[0]
        if width > (NEAR_LIMIT - 1).bit_length():
            raise CorruptSegment(f"fields of {width} bits")
        numbers = self.fields(count, width=width).astype(np.int64) + least
        if int(numbers.max()) >= NEAR_LIMIT:
            raise CorruptSegment(f"a number of at most {NEAR_LIMIT - 1:,} is {numbers.max():,}")
        return numbers

    def fields(self, count: int, *, width: int) -> npt.NDArray[np.uint32]:
        """Return the next packed fields.

        Raises:
            CorruptSegment: There are not so many, or padding bits are not zero.
        """
        return unpack(self.take(packed_bytes(count, width=width)), count=count, width=width)
