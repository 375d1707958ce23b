"""Sets of segment indices as bits: index i is bit i % 8 (the lowest is 0) of byte i // 8."""

from __future__ import annotations

from collections.abc import Iterable

from transport.errors import MalformedMessage


def pack(indices: Iterable[int], total: int) -> bytes:
    """Return the bitmap of these indices, (total + 7) // 8 bytes.

    Raises:
        ValueError: An index is outside of 0 to total - 1.
    """
    bits = bytearray((total + 7) // 8)
    for index in indices:
        if not 0 <= index < total:
            raise ValueError(f"index {index} is not one of {total}")
        bits[index // 8] |= 1 << index % 8
    return bytes(bits)


def unpack(bits: bytes, total: int) -> frozenset[int]:
    """Return the indices whose bits are set.

    Raises:
        MalformedMessage: The length is not that of `total` bits, or a bit beyond them is set.
    """
    if len(bits) != (total + 7) // 8:
        raise MalformedMessage(f"a bitmap of {len(bits)} bytes cannot stand for {total} segments")
    number = int.from_bytes(bits, "little")
    if number >> total:
        raise MalformedMessage(f"the bitmap names segments beyond the {total} that there are")
    return frozenset(index for index in range(total) if number >> index & 1)
