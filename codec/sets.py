"""Which of 0 … size - 1 are members: Golomb-coded gaps, near the entropy and without a loop.

`SPEC.md`, "Sets", is normative. A gap is how many non-members lie before a member. It is divided by
a step that the whole set shares: 2^w, or 3·2^w, which halves what a step that does not fit costs.
The quotients stand in unary in one stream and the remainders in others, so that both directions are
a handful of array operations. Where over half are members, the others are coded instead.

    encode_set(places, *, size) -> bytes            the shortest of the steps tried
    decode_set(data, *, count, size) -> places      exactly these bytes
    take_set(data, *, count, size) -> places, used  the set that `data` starts with
    set_bytes(count, size) -> int                   never less than any set of `count` takes

Count and size are the caller's to store. An empty and a full set take no bytes.

Source: S. W. Golomb, "Run-length encodings", 1966; R. F. Rice, JPL 79-22, 1979.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.errors import CorruptSegment

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    _Gaps = npt.NDArray[np.uint32]

# The largest number of a step, 2^28: no set has more places than a layout has coordinates.
MAX_PARAMETER: Final = 55

# Digits of base 3 in a byte: 243 of 256 values are used, 1.6 bits where log2 3 = 1.585.
_DIGITS: Final = 5
_POWERS: Final = np.array([1, 3, 9, 27, 81], dtype=np.uint8)
_DIGIT_TABLE: Final = (np.arange(3**_DIGITS)[:, np.newaxis] // _POWERS % 3).astype(np.uint8)

_PLANES: Final = (16, 8, 4, 2, 1)  # [bits] widths of fields that never cross a byte


def encode_set(places: IntArray, *, size: int) -> bytes:
    """Return the bytes of a set.

    Args:
        places: int64 (count,), the members, strictly ascending, 0 ≤ place < size.
        size: How many places there are, at most 2^28.
    """
    places = fewer(places, size=size)
    if not places.size:
        return b""
    gaps = np.empty(places.size, dtype=np.uint32)
    gaps[0] = places[0]
    np.subtract(places[1:], places[:-1], out=gaps[1:], casting="unsafe")
    gaps[1:] -= np.uint32(1)
    parameter = _best_parameter(gaps, size)
    triple, low_bits = _step(parameter)
    quotients = gaps >> np.uint32(low_bits)
    parts = [bytes((parameter,)), *_pack_planes(gaps, low_bits)]
    if triple:
        digits = quotients % np.uint32(3)
        quotients //= np.uint32(3)
        parts.append(_pack_digits(digits.astype(np.uint8)))
    parts.append(_pack_unary(quotients))
    return b"".join(parts)


def decode_set(data: memoryview, *, count: int, size: int) -> IntArray:
    """Return the members, int64 (count,), strictly ascending and below `size`.

    Raises:
        CorruptSegment: These bytes are not, from first to last, a set of so many members.
    """
    places, used = take_set(data, count=count, size=size)
    if used != len(data):
        raise CorruptSegment(f"a set takes {used:,} bytes, not {len(data):,}")
    return places


def take_set(data: memoryview, *, count: int, size: int) -> tuple[IntArray, int]:
    """Return the members of the set that `data` starts with, and how many bytes it takes.

    Args:
        data: Bytes from elsewhere; nothing about them is trusted.
        count: How many members, 0 ≤ count ≤ size.
        size: How many places there are, which bounds what is allocated.

    Raises:
        CorruptSegment: They are not a set of so many members.
    """
    return take_fewer(_take_few, data, count=count, size=size)


def _take_few(data: memoryview, count: int, size: int) -> tuple[IntArray, int]:
    if not count:
        return np.empty(0, dtype=np.int64), 0
    if not len(data) or data[0] > MAX_PARAMETER:
        raise CorruptSegment("a set starts with the number of its step")
    triple, low_bits = _step(data[0])
    fixed = 1 + _remainder_bytes(count, data[0])
    if fixed > len(data):
        raise CorruptSegment("the payload ends within a set")
    step = (1 + 2 * triple) << low_bits
    places, used = _take_unary(data[fixed:], count=count, size=size, step=step)
    if data[0]:
        rest = _unpack_remainders(data[1:fixed], count, triple=triple, low_bits=low_bits)
        places += np.cumsum(rest, dtype=np.int64)
    if places[-1] >= size:
        raise CorruptSegment(f"a set of {size:,} places has the member {places[-1]:,}")
    return places, fixed + used


def set_bytes(count: int, size: int) -> int:
    """Return the most bytes that `encode_set` takes for `count` members of `size` places."""
    coded = min(count, size - count)
    return 0 if not coded else _most_bytes(coded, size, _likely_parameter(coded, size))


def _step(parameter: int) -> tuple[bool, int]:
    """Return whether the step has a factor 3, and its power of two: 1, 2, 3, 4, 6, 8, 12, …."""
    triple = parameter > 0 and parameter % 2 == 0
    return triple, parameter // 2 - 1 if triple else (parameter + 1) // 2


def _remainder_bytes(count: int, parameter: int) -> int:
    triple, low_bits = _step(parameter)
    planes = sum(packed_bytes(count, width=width) for width, _ in _planes(low_bits))
    return planes + (-(-count // _DIGITS) if triple else 0)


def _most_bytes(count: int, size: int, parameter: int) -> int:
    triple, low_bits = _step(parameter)
    unary = count + (size - count) // ((1 + 2 * triple) << low_bits)
    return 1 + _remainder_bytes(count, parameter) + (unary + 7) // 8


def _likely_parameter(count: int, size: int) -> int:
    """Return the step that bounds the bytes of all sets of this count best, or nearly so."""
    guess = max(0, 2 * ((size - count) // count).bit_length() - 4)
    near = range(guess, min(guess + 6, MAX_PARAMETER + 1))
    return min(near, key=lambda parameter: _most_bytes(count, size, parameter))


def _best_parameter(gaps: _Gaps, size: int) -> int:
    """Return the step that takes the fewest bytes among those that no worse one parts from."""

    def taken(parameter: int) -> int:
        triple, low_bits = _step(parameter)
        quotients = gaps >> np.uint32(low_bits)
        if triple:
            quotients //= np.uint32(3)
        unary = gaps.size + int(quotients.sum(dtype=np.uint64))
        return _remainder_bytes(gaps.size, parameter) + (unary + 7) // 8

    best = _likely_parameter(gaps.size, size)
    least = taken(best)
    for direction in (-1, 1):
        start = best
        while 0 <= best + direction <= MAX_PARAMETER and (more := taken(best + direction)) < least:
            best, least = best + direction, more
        if best != start:
            break
    return best


def fewer(places: IntArray, *, size: int) -> IntArray:
    """Return what is coded for a set: its members, or the others where those are fewer."""
    return _others(places, size) if 2 * places.size > size else places


def take_fewer(
    take: Callable[[memoryview, int, int], tuple[IntArray, int]],
    data: memoryview,
    *,
    count: int,
    size: int,
) -> tuple[IntArray, int]:
    """Return the members of a set of which `fewer` were coded, and how many bytes it takes.

    Args:
        take: Gives the coded places, and their bytes, of the data, their number and the size.
        data: As `take_set`.
        count: As `take_set`.
        size: As `take_set`.
    """
    assert 0 <= count <= size
    if 2 * count <= size:
        return take(data, count, size)
    others, used = take(data, size - count, size)
    return _others(others, size), used


def _others(places: IntArray, size: int) -> IntArray:
    """Return the places that are not among these."""
    missing = np.ones(size, dtype=np.bool_)
    missing[places] = False
    return np.flatnonzero(missing)


def _planes(low_bits: int) -> list[tuple[int, int]]:
    """Return width and lowest bit of each plane: powers of two that add up, the largest first."""
    return [(width, low_bits & ~(2 * width - 1)) for width in _PLANES if low_bits & width]


def _pack_planes(gaps: _Gaps, low_bits: int) -> list[bytes]:
    parts = []
    for width, shift in _planes(low_bits):
        fields = (gaps >> np.uint32(shift)) & np.uint32((1 << width) - 1)
        wide = width == _PLANES[0]
        parts.append(fields.astype("<u2").tobytes() if wide else pack(fields, width=width))
    return parts


def _pack_digits(digits: npt.NDArray[np.uint8]) -> bytes:
    padded = np.zeros((-(-digits.size // _DIGITS), _DIGITS), dtype=np.uint8)
    padded.reshape(-1)[: digits.size] = digits
    packed: npt.NDArray[np.uint8] = padded[:, 0].copy()
    for place in range(1, _DIGITS):
        packed += padded[:, place] * _POWERS[place]
    return packed.tobytes()


def _pack_unary(quotients: _Gaps) -> bytes:
    ends = np.cumsum(quotients, dtype=np.int64)
    ends += np.arange(ends.size)
    bits = np.zeros(int(ends[-1]) + 1, dtype=np.bool_)
    bits[ends] = True
    return np.packbits(bits, bitorder="little").tobytes()


def _take_unary(data: memoryview, *, count: int, size: int, step: int) -> tuple[IntArray, int]:
    """Return each member's place if all remainders were 0, and the bytes that say so."""
    most = (count + (size - count) // step + 7) // 8
    bits = np.unpackbits(np.frombuffer(data[:most], dtype=np.uint8), bitorder="little")
    ends = np.flatnonzero(bits.view(np.bool_))
    if ends.size < count:
        raise CorruptSegment("a set has fewer members than announced")
    used = int(ends[count - 1]) // 8 + 1
    if ends.size > count and ends[count] < 8 * used:
        raise CorruptSegment("padding bits of a set are not zero")
    ends = ends[:count]
    if step == 1:
        return ends, used
    order = np.arange(count)
    places = ends - order
    places *= step
    places += order
    return places, used


def _unpack_remainders(
    data: memoryview, count: int, *, triple: bool, low_bits: int
) -> npt.NDArray[np.uint32]:
    rest = np.zeros(count, dtype=np.uint32)
    start = 0
    for width, shift in _planes(low_bits):
        end = start + packed_bytes(count, width=width)
        if width == _PLANES[0]:
            fields = np.frombuffer(data[start:end], dtype="<u2").astype(np.uint32)
        else:
            fields = unpack(data[start:end], count=count, width=width)
        rest |= fields << np.uint32(shift)
        start = end
    if triple:
        rest += _unpack_digits(data[start:], count).astype(np.uint32) << np.uint32(low_bits)
    return rest


def _unpack_digits(data: memoryview, count: int) -> npt.NDArray[np.uint8]:
    packed = np.frombuffer(data, dtype=np.uint8)
    if packed.max() >= len(_DIGIT_TABLE):
        raise CorruptSegment("a byte of base-3 digits is over 242")
    digits = _DIGIT_TABLE[packed].reshape(-1)
    if digits[count:].any():
        raise CorruptSegment("padding digits of a set are not zero")
    return digits[:count]
