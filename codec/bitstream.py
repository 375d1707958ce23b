"""Unsigned fields of one width, packed without gaps; the lowest bit comes first.

Field i takes the bits i·w to (i + 1)·w - 1, where bit k is bit k mod 8 (0 the lowest) of byte
k // 8. The last byte is filled up with zero bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.errors import CorruptSegment

if TYPE_CHECKING:
    import numpy.typing as npt


def packed_bytes(count: int, *, width: int) -> int:
    """Return how many bytes `count` fields of `width` bits take."""
    return (count * width + 7) // 8


def pack(fields: npt.NDArray[np.unsignedinteger], *, width: int) -> bytes:
    """Return the fields' bytes.

    Args:
        fields: Unsigned (count,), each below 2^width.
        width: 0 to 32 bits; fields of 0 bits take no bytes.
    """
    assert 0 <= width <= 32  # noqa: PLR2004 - what a uint32 holds
    if width == 0:
        return b""
    if 8 % width == 0:
        return _pack_in_bytes(fields.astype(np.uint8), width)
    shifts = np.arange(width, dtype=np.uint32)
    bits = (fields.astype(np.uint32)[:, np.newaxis] >> shifts) & np.uint32(1)
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes | memoryview, *, count: int, width: int) -> npt.NDArray[np.uint32]:
    """Return `count` fields of `width` bits, uint32 (count,).

    Raises:
        CorruptSegment: `data` has another length than the fields take, or its padding is not zero.
    """
    assert 0 <= width <= 32  # noqa: PLR2004 - what a uint32 holds
    if len(data) != packed_bytes(count, width=width):
        raise CorruptSegment(f"{count} fields of {width} bits do not take {len(data)} bytes")
    spare = len(data) * 8 - count * width
    if spare and data[-1] >> (8 - spare):
        raise CorruptSegment("padding bits are not zero")
    if width == 0:
        return np.zeros(count, dtype=np.uint32)
    raw = np.frombuffer(data, dtype=np.uint8)
    if 8 % width == 0:
        return _unpack_in_bytes(raw, width)[:count].astype(np.uint32)
    bits = np.unpackbits(raw, count=count * width, bitorder="little").reshape(count, width)
    shifts = np.arange(width, dtype=np.uint32)
    fields: npt.NDArray[np.uint32] = np.bitwise_or.reduce(bits.astype(np.uint32) << shifts, axis=1)
    return fields


def _pack_in_bytes(fields: npt.NDArray[np.uint8], width: int) -> bytes:
    """Pack fields that never cross a byte: the usual widths, at a fraction of the work."""
    if width == 1:
        return np.packbits(fields, bitorder="little").tobytes()
    per_byte = 8 // width
    padded = np.zeros((-(-fields.size // per_byte), per_byte), dtype=np.uint8)
    padded.reshape(-1)[: fields.size] = fields
    packed: npt.NDArray[np.uint8] = padded[:, 0].copy()
    for place in range(1, per_byte):
        packed |= padded[:, place] << np.uint8(place * width)
    return packed.tobytes()


def _unpack_in_bytes(raw: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    if width == 1:
        return np.unpackbits(raw, bitorder="little")
    per_byte = 8 // width
    fields = np.empty((raw.size, per_byte), dtype=np.uint8)
    mask = np.uint8((1 << width) - 1)
    for place in range(per_byte):
        np.bitwise_and(raw >> np.uint8(place * width), mask, out=fields[:, place])
    return fields.reshape(-1)
