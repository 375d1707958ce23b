"""The payload of `fstq+`: slices, each of one or more parts that share their support's code.

`SPEC.md`, "Codec 3", is normative. A part is a tensor or a range of one; the parts of a slice lie
behind one another on one axis. Every coordinate sent has a class: 1, 2 and 3 stand for 2, 4 and 16
bits. Class 0 already says "zero", so that levels lie at (index + 1/2) times a scale, either sign.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.codings import Coding
from codec.errors import CorruptSegment, NonFinite

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout

    IntArray = npt.NDArray[np.int64]
    ClassArray = npt.NDArray[np.uint8]

CLASS_BITS: Final = (0, 2, 4, 16)
SCALED: Final = (1, 2)  # the classes that have scales
_HALVES: Final = 3  # the class that has none
SCALE_BYTES: Final = 2

# What a slice of one coordinate takes at most: form, three varints, count, parameter, f16.
ONE_COORDINATE_BYTES: Final = 1 + 3 + 4 + 1 + 1 + 8

_FORM: Final = struct.Struct("<B")
_EXPONENT: Final = struct.Struct("<b")
_HAS: Final = {1: 0b0000_0001, 2: 0b0000_0010, 3: 0b0000_0100}  # class → it has members
_RANGE: Final = 0b0000_1000  # a range of one tensor, not whole tensors
_SHARED: Final = {1: 0b0001_0000, 2: 0b0010_0000}  # class → one scale for all parts
_RESERVED: Final = 0b1100_0000

# Of class 3: of the largest float32, and where 2^-e is still one.
_TOP_EXPONENT: Final = 113
_LOWEST_EXPONENT: Final = -126

_VARINT_BYTES: Final = 5  # what 32 bits take, 7 in a byte


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A tensor or a range of one, and what is sent of it.

    Attributes:
        tensor_index: The tensor's place in the layout.
        begin: Its first coordinate within the tensor.
        length: How many coordinates it has.
        places: int64 (sent,), ascending, within the part.
        classes: uint8 (sent,), 1 to 3.
        members: Per class that there is, its values, float32, in the order of their places.
        scales: The scale of each class that has scales and members here.
    """

    tensor_index: int
    begin: int
    length: int
    places: IntArray
    classes: ClassArray
    members: dict[int, FloatArray]
    scales: dict[int, np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A decoded part: its range of flat coordinates, which of them are sent, and their values."""

    begin: int
    end: int
    positions: IntArray
    values: FloatArray


def levels_of(values: FloatArray, scale: np.float32, *, width: int) -> npt.NDArray[np.uint8]:
    """Return each value's field: its sign in the lowest bit, ⌊|value| / scale⌋ clipped over it."""
    with np.errstate(over="ignore"):  # an overflow is infinite, and clipped like any other
        steps = np.floor(np.abs(values) / scale)
    fields = np.minimum(steps, (1 << (width - 1)) - 1, out=steps).astype(np.uint8)
    fields <<= np.uint8(1)
    fields |= np.signbit(values)
    return fields


def values_of(fields: npt.NDArray[np.uint8], scales: FloatArray | np.float32) -> FloatArray:
    """Return ±(index + 1/2)·scale of each field, in float32 and exact but for its ends."""
    halves = _SIGNED_HALVES[fields]
    with np.errstate(over="ignore"):  # found as a value that is not finite
        values: FloatArray = np.multiply(halves, scales, dtype=np.float32)
    return values


_SIGNED_HALVES: Final = np.array(
    [(field // 2 + 0.5) * (-1) ** field for field in range(16)], dtype=np.float32
)


def pack_slice(
    parts: Sequence[Part],
    *,
    layout: Layout,
    shared: frozenset[int],
    coding: Coding = Coding.GOLOMB,
) -> bytes:
    """Return the bytes of one slice.

    Args:
        parts: One range of a tensor, or whole tensors, ascending; each sends something.
        layout: Their layout.
        shared: The classes of which all parts have the same scale.
        coding: Of the sets.
    """
    places, length = _joined(parts)
    classes = np.concatenate([part.classes for part in parts])
    counts = np.bincount(classes, minlength=len(CLASS_BITS))
    ranged = parts[0].length < layout.tensors[parts[0].tensor_index].size
    assert len(parts) == 1 or not ranged
    form = sum(bit for number, bit in _HAS.items() if counts[number])
    form |= sum(bit for number, bit in _SHARED.items() if number in shared and counts[number])
    chunks = [_FORM.pack(form | ranged * _RANGE)]
    if ranged:
        chunks += map(_varint, (parts[0].tensor_index, parts[0].begin, length))
    else:
        indices = [part.tensor_index for part in parts]
        steps = (after - before - 1 for before, after in zip([-1, *indices], indices, strict=False))
        chunks += map(_varint, (len(parts) - 1, *steps))
    chunks += [_varint(int(count) - 1) for count in counts[1:] if count]
    chunks += _pack_sets(places, classes, length, coding)
    chunks += _pack_scales(parts, shared)
    chunks += _pack_values(parts)
    return b"".join(chunks)


def parse_slices(
    payload: memoryview, *, layout: Layout, coding: Coding = Coding.GOLOMB
) -> list[Decoded]:
    """Return the parts of all slices of a payload.

    Raises:
        CorruptSegment: A field, a length or a padding bit is not legal.
        NonFinite: A scale or a value is NaN or infinite.
    """
    reader = _Reader(payload, coding)
    parts = []
    while reader.left:
        parts += _parse_slice(reader, layout)
    return parts


def half_exponent(peak: float) -> int:
    """Return e, so that values up to `peak` are float16 numbers times 2^e with room to round."""
    return max(int(np.frexp(peak)[1]) - 15, _LOWEST_EXPONENT)


class _Reader:
    """Takes bytes from a payload, never more than there are."""

    def __init__(self, payload: memoryview, coding: Coding) -> None:
        self._rest = payload
        self._coding = coding

    @property
    def left(self) -> int:
        return len(self._rest)

    def take(self, size: int) -> memoryview:
        if size > len(self._rest):
            raise CorruptSegment("the payload ends within a slice")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def varint(self, most: int) -> int:
        """Return a number that is at most `most`, in the fewest bytes that hold it."""
        number = 0
        for place in range(_VARINT_BYTES):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:  # noqa: PLR2004 - the bit that says: more follow
                if place and not byte:
                    raise CorruptSegment("a number is padded")
                if number > most:
                    raise CorruptSegment(f"a number is {number:,}, at most {most:,} is legal here")
                return number
        raise CorruptSegment("a number is longer than 32 bits")

    def set_of(self, count: int, size: int) -> IntArray:
        places, used = self._coding.take_set(self._rest, count=count, size=size)
        self._rest = self._rest[used:]
        return places

    def fields(self, count: int, width: int) -> npt.NDArray[np.uint8]:
        taken = self.take(packed_bytes(count, width=width))
        return unpack(taken, count=count, width=width).astype(np.uint8)


def _varint(number: int) -> bytes:
    taken = bytearray()
    while number >= 0x80:  # noqa: PLR2004 - seven bits in a byte
        taken.append(number & 0x7F | 0x80)
        number >>= 7
    taken.append(number)
    return bytes(taken)


def _joined(parts: Sequence[Part]) -> tuple[IntArray, int]:
    """Return the places of all parts on their common axis, and its length."""
    starts = np.cumsum([0, *(part.length for part in parts)])
    places = [part.places + start for part, start in zip(parts, starts[:-1], strict=True)]
    return np.concatenate(places), int(starts[-1])


def _pack_sets(places: IntArray, classes: ClassArray, length: int, coding: Coding) -> list[bytes]:
    chunks = [coding.encode_set(places, size=length)]
    for number in (2, 3):  # which of those that have at least the class before
        classes = classes[classes >= number - 1]
        members = np.flatnonzero(classes >= number)
        chunks.append(coding.encode_set(members, size=classes.size))
    return chunks


def _pack_scales(parts: Sequence[Part], shared: frozenset[int]) -> list[bytes]:
    chunks = []
    for number in SCALED:
        scales = [part.scales[number] for part in parts if number in part.scales]
        if number in shared:
            scales = scales[:1]
        chunks.append((np.array(scales, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes())
    return chunks


def _pack_values(parts: Sequence[Part]) -> list[bytes]:
    chunks = []
    for number in SCALED:
        width = CLASS_BITS[number]
        fields = [
            levels_of(part.members[number], part.scales[number], width=width)
            for part in parts
            if number in part.members
        ]
        if fields:
            chunks.append(pack(np.concatenate(fields), width=width))
    halves = [part.members[_HALVES] for part in parts if _HALVES in part.members]
    return chunks + _pack_halves(np.concatenate(halves)) if halves else chunks


def _pack_halves(values: FloatArray) -> list[bytes]:
    exponent = half_exponent(float(np.abs(values).max()))
    halves = (values * np.float32(2.0**-exponent)).astype("<f2")
    # The number above this one is 2^15, which times 2^113 would be no float32.
    top = np.float16(32752)
    if exponent == _TOP_EXPONENT:
        halves = np.clip(halves, -top, top)
    return [_EXPONENT.pack(exponent), halves.tobytes()]


def _parse_slice(reader: _Reader, layout: Layout) -> list[Decoded]:
    form = reader.take(1)[0]
    if form & _RESERVED or not form & sum(_HAS.values()):
        raise CorruptSegment(f"slice form {form:#04x} is reserved")
    for number, bit in _SHARED.items():
        if form & bit and not form & _HAS[number]:
            raise CorruptSegment(f"class {number} shares a scale and has no member")
    begins, lengths = _take_range(reader, layout) if form & _RANGE else _take_whole(reader, layout)
    length = int(lengths.sum())
    counts = [1 + reader.varint(length - 1) if form & bit else 0 for bit in _HAS.values()]
    if sum(counts) > length:
        raise CorruptSegment(f"a slice of {length:,} coordinates sends {sum(counts):,}")
    # A few bytes can announce a full set of any size; the values that it needs are the limit.
    widths = zip(counts, CLASS_BITS[1:], strict=True)
    least = sum(packed_bytes(count, width=width) for count, width in widths)
    if least > reader.left:
        raise CorruptSegment("the payload ends within a slice")
    places = reader.set_of(sum(counts), length)
    classes = _take_classes(reader, counts)
    ends = np.cumsum(lengths)
    owners = np.searchsorted(ends, places, side="right")
    bounds = np.searchsorted(places, ends)
    if (np.diff(bounds, prepend=0) == 0).any():
        raise CorruptSegment("a part of a slice sends no coordinate")
    values = np.empty(places.size, dtype=np.float32)
    scales = [_take_scales(reader, form, number, owners[classes == number]) for number in SCALED]
    for number, scale in zip(SCALED, scales, strict=True):
        if form & _HAS[number]:
            fields = reader.fields(counts[number - 1], CLASS_BITS[number])
            values[classes == number] = values_of(fields, scale)
    if form & _HAS[_HALVES]:
        values[classes == _HALVES] = _take_halves(reader, counts[-1])
    if not np.isfinite(values).all():
        raise NonFinite("a value is NaN or infinite")
    places += (begins - (ends - lengths))[owners]
    starts = [0, *bounds[:-1].tolist()]
    return [
        Decoded(int(begin), int(begin + size), places[start:end], values[start:end])
        for begin, size, start, end in zip(begins, lengths, starts, bounds.tolist(), strict=True)
    ]


def _take_range(reader: _Reader, layout: Layout) -> tuple[IntArray, IntArray]:
    tensor = layout.tensors[reader.varint(len(layout.tensors) - 1)]
    begin = reader.varint(tensor.size - 1)
    length = reader.varint(tensor.size - begin)
    if not 1 <= length < tensor.size:
        raise CorruptSegment(f"a range has {length} of a tensor's {tensor.size} coordinates")
    return np.array([begin + tensor.offset]), np.array([length])


def _take_whole(reader: _Reader, layout: Layout) -> tuple[IntArray, IntArray]:
    number = 1 + reader.varint(len(layout.tensors) - 1)
    begins, lengths = np.empty((2, number), dtype=np.int64)
    index = -1
    for place in range(number):
        index += 1 + reader.varint(len(layout.tensors) - 1)
        if index >= len(layout.tensors):
            raise CorruptSegment(f"there is no tensor {index}")
        begins[place] = layout.tensors[index].offset
        lengths[place] = layout.tensors[index].size
    return begins, lengths


def _take_classes(reader: _Reader, counts: list[int]) -> ClassArray:
    """Return the class of each coordinate sent: which have the second or more, which the third."""
    classes = np.ones(sum(counts), dtype=np.uint8)
    higher = reader.set_of(counts[1] + counts[2], classes.size)
    classes[higher] = 2
    classes[higher[reader.set_of(counts[2], higher.size)]] = 3
    return classes


def _take_scales(reader: _Reader, form: int, number: int, owners: IntArray) -> FloatArray:
    """Return the scale of each coordinate of a class, float32 (coordinates,)."""
    if not form & _HAS[number]:
        return np.empty(0, dtype=np.float32)
    first = np.diff(owners, prepend=-1) > 0
    some = 1 if form & _SHARED[number] else int(np.count_nonzero(first))
    raw = np.frombuffer(reader.take(SCALE_BYTES * some), dtype="<u2").astype(np.uint32)
    scales = (raw << np.uint32(16)).view(np.float32)
    if not np.isfinite(scales).all():
        raise NonFinite("a scale is NaN or infinite")
    if (scales <= 0).any():
        raise CorruptSegment("a scale is positive")
    return np.broadcast_to(scales, owners.shape) if some == 1 else scales[np.cumsum(first) - 1]


def _take_halves(reader: _Reader, count: int) -> FloatArray:
    (exponent,) = _EXPONENT.unpack(reader.take(1))
    halves = np.frombuffer(reader.take(2 * count), dtype="<f2")
    with np.errstate(over="ignore", invalid="ignore"):  # found as a value that is not finite
        values: FloatArray = np.ldexp(halves.astype(np.float32), exponent)
    return values
