"""The payload of `fstq-r`: what one segment says of its tensors, and their coordinates by density.

`SPEC.md`, "Codec 4", is normative. A segment says once which tensors it holds and how each of them
is quantised. The coordinates of tensors that are about as dense as one another stand in one set, so
that the set's step fits and costs once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack
from codec.codings import Coding
from codec.errors import CorruptSegment, NonFinite
from codec.operating_points import LEVELLED, LOW_BITS, POINTS, TOP_LEVEL
from codec.rotated_fields import Reader, counted_set, near_bytes, sign_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    HalfArray = npt.NDArray[np.float16]

# The update's seed, groups, exponent of the reference, form.
_HEAD: Final = struct.Struct("<IHbB")

# [exponent] No coordinate of an update with this reference leaves float32, whatever its levels.
MAX_EXPONENT: Final = 64
MIN_EXPONENT: Final = -128
MAX_PEEL: Final = np.float32(2.0**96)
_PEEL_BYTES: Final = 4

# The form's lower half is the bits of a scale's mantissa, the upper one the points of a class - 1.
_HALF_BITS: Final = 4
MANTISSA_BITS: Final = range(2, 1 << _HALF_BITS)
MERGES: Final = range(1, (1 << _HALF_BITS) + 1)

RAW: Final = -1


@dataclass(frozen=True, slots=True)
class Head:
    """What a segment says before it says anything of its tensors.

    Attributes:
        seed: Of the rotations and of the deal, u32; all segments of an update have the same.
        groups: Into how many groups the tensors are dealt; the same in all segments, too.
        exponent: Scales, raw and peeled values count in units of 2 to this.
        mantissa_bits: Bits of a scale's mantissa.
        merge: How many operating points with one level share a class.
    """

    seed: int
    groups: int
    exponent: int
    mantissa_bits: int
    merge: int


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What a segment holds of one tensor.

    Attributes:
        tensor: The tensor's place in the layout.
        size: How many coordinates its share has, sent or not.
        number: The operating point's number, `RAW` where values are sent as they are.
        code: The scale's code.
        places: int64, ascending places within the share that are sent; empty for raw tensors.
        levels: int32, their levels, signed, never 0.
        values: float16 (size,) of a raw tensor, in units of its scale; else empty.
        peeled: int64, ascending places within the unrotated share that are sent apart.
        peels: float32, their values.
    """

    tensor: int
    size: int
    number: int
    code: int
    places: IntArray
    levels: npt.NDArray[np.int32]
    values: HalfArray
    peeled: IntArray
    peels: npt.NDArray[np.float32]


NO_PLACES: Final[npt.NDArray[np.int64]] = np.empty(0, dtype=np.int64)
NO_LEVELS: Final[npt.NDArray[np.int32]] = np.empty(0, dtype=np.int32)
NO_VALUES: Final[npt.NDArray[np.float16]] = np.empty(0, dtype=np.float16)
NO_PEELS: Final[npt.NDArray[np.float32]] = np.empty(0, dtype=np.float32)


def pack_shares(
    head: Head, shares: Sequence[Share], *, members: IntArray, coding: Coding = Coding.GOLOMB
) -> bytes:
    """Return the payload of these shares.

    Args:
        head: Its `merge` says which operating points share a class.
        shares: Of the tensors that are sent, in the layout's order.
        members: Places in the layout of all tensors of the segment's group, ascending.
        coding: Of the sets; a plain one joins no tensors in a class.
    """
    assert coding is Coding.GOLOMB or head.merge == 1
    form = head.mantissa_bits | (head.merge - 1) << _HALF_BITS
    parts = [_HEAD.pack(head.seed, head.groups, head.exponent, form)]
    tensors = np.array([share.tensor for share in shares], dtype=np.int64)
    present = np.searchsorted(members, tensors)
    parts.append(counted_set(present, size=members.size, coding=coding))
    raw = np.array([share.number == RAW for share in shares], dtype=np.bool_)
    rotated = [share for share in shares if share.number != RAW]
    parts.append(counted_set(np.flatnonzero(raw), size=raw.size, coding=coding))
    with_peels = np.array([share.peeled.size > 0 for share in rotated], dtype=np.bool_)
    peeled = np.flatnonzero(with_peels)
    parts.append(counted_set(peeled, size=with_peels.size, coding=coding))
    if rotated:
        parts.append(near_bytes(np.array([share.number for share in rotated])))
    if shares:
        parts.append(near_bytes(np.array([share.code for share in shares])))
    for number, of_class in _classes(rotated, merge=head.merge, coding=coding):
        parts.append(_pack_class(of_class, number=number, coding=coding))
    parts += [share.values.astype("<f2").tobytes() for share in shares if share.number == RAW]
    for share in rotated:
        if share.peeled.size:
            parts += [
                counted_set(share.peeled, size=share.size, coding=coding),
                share.peels.astype("<f4").tobytes(),
            ]
    return b"".join(parts)


def parse_head(payload: memoryview, *, coding: Coding = Coding.GOLOMB) -> tuple[Head, Reader]:
    """Return what a payload starts with, and the reader of what follows.

    Raises:
        CorruptSegment: A field is not legal.
    """
    reader = Reader(payload, coding)
    seed, groups, exponent, form = _HEAD.unpack(reader.take(_HEAD.size))
    mantissa_bits, merge = form & ((1 << _HALF_BITS) - 1), (form >> _HALF_BITS) + 1
    if not groups or exponent > MAX_EXPONENT or mantissa_bits not in MANTISSA_BITS:
        raise CorruptSegment(f"{groups} groups, exponent {exponent}, form {form:#04x}")
    if coding is Coding.PLAIN and merge > 1:
        raise CorruptSegment(f"form {form:#04x} joins tensors")
    return Head(seed, groups, exponent, mantissa_bits, merge), reader


def parse_shares(reader: Reader, head: Head, *, members: IntArray, sizes: IntArray) -> list[Share]:
    """Return the shares that follow a payload's head.

    Args:
        reader: From `parse_head`.
        head: From `parse_head`.
        members: Places in the layout of all tensors of the segment's group, ascending.
        sizes: int64, of each of them, how many coordinates the segment's share has.

    Raises:
        CorruptSegment: A field, a length or a padding bit is not legal.
        NonFinite: A value is NaN or infinite.
    """
    present = reader.counted_set(size=members.size)
    tensors, sizes = members[present], sizes[present]
    raw = np.zeros(tensors.size, dtype=np.bool_)
    raw[reader.counted_set(size=tensors.size)] = True
    rotated = np.flatnonzero(~raw)
    with_peels = rotated[reader.counted_set(size=rotated.size)]
    numbers = np.full(tensors.size, RAW)
    if rotated.size:
        numbers[rotated] = reader.near(rotated.size)
    codes = reader.near(tensors.size) if tensors.size else NO_PLACES
    if numbers.max(initial=0) >= POINTS or numbers.min(initial=0) < RAW:
        raise CorruptSegment(f"operating point {numbers.max()} of {POINTS}")
    placed: dict[int, tuple[IntArray, npt.NDArray[np.int32]]] = {}
    for of_class in _members(numbers, rotated, merge=head.merge, coding=reader.coding):
        number = int(numbers[of_class].max())
        placed |= _parse_class(reader, of_class, sizes[of_class], number=number)
    values = {int(i): _halves(reader, int(sizes[i])) for i in np.flatnonzero(raw)}
    peels = {}
    for i in with_peels:
        size = int(sizes[i])
        count = reader.count(most=size)
        if not count:
            raise CorruptSegment("a tensor with coordinates sent apart sends none")
        # A full set takes no bytes, its values do: they are what a count has to be backed by.
        if count * _PEEL_BYTES > reader.left:
            raise CorruptSegment(f"{reader.left:,} bytes do not hold {count:,} values")
        peels[int(i)] = (reader.set_of(count, size=size), _peels(reader, count))
    if reader.left:
        raise CorruptSegment(f"{reader.left:,} bytes follow the last field")
    return [
        Share(
            int(tensors[i]),
            int(sizes[i]),
            int(numbers[i]),
            int(codes[i]),
            *placed.get(i, (NO_PLACES, NO_LEVELS)),
            values.get(i, NO_VALUES),
            *peels.get(i, (NO_PLACES, NO_PEELS)),
        )
        for i in range(tensors.size)
    ]


def _class_of(number: int, merge: int) -> int:
    """Return the class of an operating point; classes of more levels have one point each."""
    return number // merge if number < LEVELLED else number


def _members(
    numbers: IntArray, rotated: IntArray, *, merge: int, coding: Coding
) -> list[list[int]]:
    """Return which tensors share a class, class by class."""
    if coding is Coding.PLAIN:
        return [[int(i)] for i in rotated]
    classes = np.array([_class_of(int(number), merge) for number in numbers[rotated]])
    return [[int(i) for i in rotated[classes == key]] for key in sorted({*classes.tolist()})]


def _classes(
    rotated: Sequence[Share], *, merge: int, coding: Coding
) -> list[tuple[int, list[Share]]]:
    """Return the members of each class, ascending, with its highest operating point."""
    if coding is Coding.PLAIN:
        return [(share.number, [share]) for share in rotated]
    classes: dict[int, list[Share]] = {}
    for share in rotated:
        classes.setdefault(_class_of(share.number, merge), []).append(share)
    return [(max(share.number for share in classes[key]), classes[key]) for key in sorted(classes)]


def _pack_class(shares: Sequence[Share], *, number: int, coding: Coding) -> bytes:
    starts = np.cumsum([0, *(share.size for share in shares)])
    places = np.concatenate(
        [share.places + start for share, start in zip(shares, starts[:-1], strict=True)]
    )
    levels = np.concatenate([share.levels for share in shares])
    support = counted_set(places, size=int(starts[-1]), coding=coding)
    parts = [support, sign_bytes(levels < 0)]
    if number >= LEVELLED and places.size:
        rest = np.abs(levels) - 1
        low_bits = LOW_BITS[number]
        steps = rest >> low_bits
        parts.append(_pack_plain(steps) if coding is Coding.PLAIN else _pack_steps(steps))
        parts.append(pack((rest & ((1 << low_bits) - 1)).astype(np.uint32), width=low_bits))
    return b"".join(parts)


def _pack_steps(steps: npt.NDArray[np.int32]) -> bytes:
    """Return, for 1, 2, …, which of those at least so high but one are also that high."""
    parts = []
    for height in range(1, TOP_LEVEL):
        higher = np.flatnonzero(steps >= height)
        parts.append(counted_set(higher, size=steps.size))
        steps = steps[higher]
        if not steps.size:
            break
    return b"".join(parts)


def _pack_plain(steps: npt.NDArray[np.int32]) -> bytes:
    width = int(steps.max()).bit_length()
    return bytes((width,)) + pack(steps.astype(np.uint32), width=width)


def _parse_class(
    reader: Reader, keys: list[int], sizes: IntArray, *, number: int
) -> dict[int, tuple[IntArray, npt.NDArray[np.int32]]]:
    """Return places and levels of each tensor of a class, by these keys."""
    starts = np.cumsum([0, *sizes])
    size = int(starts[-1])
    count = reader.count(most=size)
    if count > 8 * reader.left:
        raise CorruptSegment(f"{reader.left:,} bytes do not hold {count:,} signs")
    places = reader.set_of(count, size=size)
    negative = reader.fields(count, width=1).astype(np.bool_)
    levels = np.ones(count, dtype=np.int32)
    if number >= LEVELLED and count:
        low_bits = LOW_BITS[number]
        levels += _parse_steps(reader, count) << low_bits
        levels += reader.fields(count, width=low_bits).astype(np.int32)
    np.negative(levels, out=levels, where=negative)
    cuts = np.searchsorted(places, starts)
    return {
        key: (places[cut:end] - start, levels[cut:end])
        for key, cut, end, start in zip(keys, cuts, cuts[1:], starts, strict=False)
    }


def _parse_plain(reader: Reader, count: int) -> npt.NDArray[np.int32]:
    width = reader.take(1)[0]
    if width > (TOP_LEVEL - 1).bit_length():
        raise CorruptSegment(f"steps of {width} bits")
    steps = reader.fields(count, width=width).astype(np.int32)
    if int(steps.max()) >= TOP_LEVEL:
        raise CorruptSegment(f"a step is at most {TOP_LEVEL - 1}")
    return steps


def _parse_steps(reader: Reader, count: int) -> npt.NDArray[np.int32]:
    if reader.coding is Coding.PLAIN:
        return _parse_plain(reader, count)
    steps = np.zeros(count, dtype=np.int32)
    high = np.arange(count)
    for _ in range(1, TOP_LEVEL):
        high = high[reader.counted_set(size=high.size)]
        steps[high] += 1
        if not high.size:
            break
    return steps


def _halves(reader: Reader, count: int) -> HalfArray:
    values = np.frombuffer(reader.take(2 * count), dtype="<f2").astype(np.float16)
    if not np.isfinite(values).all():
        raise NonFinite("a value is NaN or infinite")
    return values


def _peels(reader: Reader, count: int) -> npt.NDArray[np.float32]:
    values = np.frombuffer(reader.take(_PEEL_BYTES * count), dtype="<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise NonFinite("a value is NaN or infinite")
    if (np.abs(values) > MAX_PEEL).any():
        raise CorruptSegment(f"a value is over {MAX_PEEL}")
    return values
