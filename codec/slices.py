"""The payload of `fstq`: slices of tensors, each with its scales, support, tags and values.

`SPEC.md`, "Codec 2", is normative. A slice is a range of one tensor's coordinates. Every
coordinate that it sends has a class: 1, 2 and 3 stand for 2, 4 and 16 bits; 0 is not sent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.errors import CorruptSegment, NonFinite
from codec.quantize import dequantize, quantize, to_half, top_level

if TYPE_CHECKING:
    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout, TensorSpec

    IntArray = npt.NDArray[np.int64]
    ClassArray = npt.NDArray[np.uint8]

CLASS_BITS: Final = (0, 2, 4, 16)
TAG_BITS: Final = 2

COUNT: Final = struct.Struct("<H")  # slices in the payload
_HEAD: Final = struct.Struct("<HB")  # tensor index, form
_RANGE: Final = struct.Struct("<II")  # begin and length within the tensor
_SENT: Final = struct.Struct("<I")  # coordinates sent
_SCALE: Final = struct.Struct("<f")

_SUPPORT_MASK: Final = 0b0000_0011
_PARTIAL: Final = 0b0000_0100
_SCALED: Final = {1: 0b0000_1000, 2: 0b0001_0000}  # class → its scale is there
_RESERVED: Final = 0b1110_0000

# What one coordinate in a slice of its own takes at most: the room below which a segment is full.
ONE_COORDINATE_BYTES: Final = _HEAD.size + _RANGE.size + _SCALE.size + 2
# What cutting a slice in two adds at most: a second head, both ranges, both scales, padding.
CUT_BYTES: Final = _HEAD.size + 2 * _RANGE.size + 2 * _SCALE.size + 5


class Support(IntEnum):
    """How a slice says which of its coordinates it sends, by its number on the wire."""

    TAGS = 0  # a tag for every coordinate, 0 where it is not sent
    BITMAP = 1  # a bit for every coordinate, a tag for those sent
    INDICES = 2  # an index and a tag for those sent


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A decoded slice.

    Attributes:
        begin: Its first flat coordinate.
        end: The flat coordinate that follows its last.
        positions: int64, ascending flat coordinates that it sends.
        values: float32, the value of each.
    """

    begin: int
    end: int
    positions: IntArray
    values: FloatArray


def slice_bytes(lengths: IntArray, sent: IntArray, *, partial: bool) -> IntArray:
    """Return how many bytes each slice takes in its smallest form; 0 where it sends nothing.

    Args:
        lengths: int64 (slices,), coordinates in each.
        sent: int64 (slices, 3), how many of them go with 2, 4 and 16 bits.
        partial: Whether the slices are less than their tensors.
    """
    heads = np.where(lengths > 0, _HEAD.size + partial * _RANGE.size, 0)
    heads = heads + _SCALE.size * ((sent[:, 0] > 0).astype(np.int64) + (sent[:, 1] > 0))
    values = (2 * sent[:, 0] + 7) // 8 + (4 * sent[:, 1] + 7) // 8 + 2 * sent[:, 2]
    total = sent.sum(axis=1)
    return np.where(total > 0, heads + values + _support_bytes(lengths, total).min(axis=0), 0)


def tag_and_support_bits(support: Support, *, length: int) -> int:
    """Return what a further coordinate costs besides its value, in a slice of this length."""
    match support:
        case Support.TAGS:
            return 0
        case Support.BITMAP:
            return TAG_BITS
        case Support.INDICES:
            return TAG_BITS + index_width(length)


def index_width(length: int) -> int:
    """Return how many bits an index into `length` coordinates takes."""
    return (length - 1).bit_length()


def pack_slice(
    values: FloatArray,
    classes: ClassArray,
    *,
    tensor_index: int,
    begin: int,
    partial: bool,
    scales: dict[int, np.float32],
) -> bytes:
    """Return the bytes of one slice, in the form that takes the fewest.

    Args:
        values: float32 (length,), the slice's part of the delta.
        classes: uint8 (length,), the class of each coordinate, at least one of them not 0.
        tensor_index: The tensor's place in the layout.
        begin: The slice's first coordinate within its tensor.
        partial: Whether it is less than its tensor.
        scales: The step of classes 1 and 2 in this tensor.
    """
    positions = np.flatnonzero(classes)
    tags = classes[positions]
    length = classes.size
    sent = np.array([positions.size], dtype=np.int64)
    support = Support(int(_support_bytes(np.array([length]), sent)[:, 0].argmin()))
    present = {number: bool((tags == number).any()) for number in _SCALED}
    form = support | (_PARTIAL if partial else 0)
    form |= sum(bit for number, bit in _SCALED.items() if present[number])
    parts = [_HEAD.pack(tensor_index, form)]
    if partial:
        parts.append(_RANGE.pack(begin, length))
    parts += [_SCALE.pack(scales[number]) for number in _SCALED if present[number]]
    match support:
        case Support.TAGS:
            parts.append(pack(classes, width=TAG_BITS))
        case Support.BITMAP:
            parts += [pack(classes.astype(np.bool_).view(np.uint8), width=1)]
            parts += [pack(tags, width=TAG_BITS)]
        case Support.INDICES:
            indices = positions.astype(np.uint32)
            parts += [_SENT.pack(positions.size), pack(indices, width=index_width(length))]
            parts += [pack(tags, width=TAG_BITS)]
    return b"".join(parts) + _pack_values(values[positions], tags, scales)


def parse_slices(payload: memoryview, *, layout: Layout) -> list[Slice]:
    """Return the slices of a payload.

    Raises:
        CorruptSegment: A field, a length or a padding bit is not legal.
        NonFinite: A scale or a value is NaN or infinite.
    """
    reader = _Reader(payload)
    (count,) = COUNT.unpack(reader.take(COUNT.size))
    slices: list[Slice] = []
    last = -1
    for _ in range(count):
        tensor_index, form = _HEAD.unpack(reader.take(_HEAD.size))
        if not last < tensor_index < len(layout.tensors):
            raise CorruptSegment(f"tensor {tensor_index} follows {last} in a segment")
        last = tensor_index
        slices.append(_parse_slice(reader, form, layout.tensors[tensor_index]))
    if reader.left:
        raise CorruptSegment(f"{reader.left:,} bytes follow the last slice")
    return slices


class _Reader:
    """Takes bytes from a payload, never more than there are."""

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._payload) - self._position

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise CorruptSegment("the payload ends within a slice")
        taken = self._payload[self._position : self._position + size]
        self._position += size
        return taken


def _support_bytes(lengths: IntArray, sent: IntArray) -> IntArray:
    """Return what support and tags take in each form, int64 (forms, slices), by `Support`."""
    # frexp's exponent of n - 1 is its bit length: exact, where a logarithm may round.
    widths = np.frexp((lengths - 1).astype(np.float64))[1].astype(np.int64)
    tags = (TAG_BITS * sent + 7) // 8
    return np.stack(
        (
            (TAG_BITS * lengths + 7) // 8,
            (lengths + 7) // 8 + tags,
            _SENT.size + (widths * sent + 7) // 8 + tags,
        )
    )


def _pack_values(values: FloatArray, tags: ClassArray, scales: dict[int, np.float32]) -> bytes:
    parts = []
    for number in _SCALED:
        members = values[tags == number]
        if members.size:
            width = CLASS_BITS[number]
            levels = quantize(members, scales[number], width=width) + top_level(width)
            parts.append(pack(levels.view(np.uint8), width=width))
    parts.append(to_half(values[tags == len(CLASS_BITS) - 1]).tobytes())
    return b"".join(parts)


def _parse_slice(reader: _Reader, form: int, tensor: TensorSpec) -> Slice:
    if form & _RESERVED or form & _SUPPORT_MASK not in tuple(Support):
        raise CorruptSegment(f"slice form {form:#04x} is reserved")
    begin, length = 0, tensor.size
    if form & _PARTIAL:
        begin, length = _RANGE.unpack(reader.take(_RANGE.size))
        if not (1 <= length < tensor.size and begin + length <= tensor.size):
            raise CorruptSegment(f"{length} coordinates from {begin} of a tensor of {tensor.size}")
    scales = {number: _take_scale(reader) for number, bit in _SCALED.items() if form & bit}
    positions, tags = _take_support(reader, Support(form & _SUPPORT_MASK), length)
    if not positions.size:
        raise CorruptSegment("a slice sends no coordinate")
    values = _take_values(reader, tags, scales)
    begin += tensor.offset
    return Slice(begin, begin + length, positions + begin, values)


def _take_scale(reader: _Reader) -> np.float32:
    scale: np.float32 = np.frombuffer(reader.take(_SCALE.size), dtype="<f4").astype(np.float32)[0]
    if not np.isfinite(scale):
        raise NonFinite("a scale is NaN or infinite")
    if scale <= 0:
        raise CorruptSegment(f"a scale is positive, not {scale}")
    return scale


def _take_support(reader: _Reader, support: Support, length: int) -> tuple[IntArray, ClassArray]:
    """Return which coordinates of the slice are sent, ascending, and their classes."""
    match support:
        case Support.TAGS:
            every = _take_fields(reader, length, TAG_BITS).astype(np.uint8)
            positions = np.flatnonzero(every)
            return positions, every[positions]
        case Support.BITMAP:
            positions = np.flatnonzero(_take_fields(reader, length, 1))
        case Support.INDICES:
            positions = _take_indices(reader, length)
    tags = _take_fields(reader, positions.size, TAG_BITS).astype(np.uint8)
    if not tags.all():
        raise CorruptSegment("a coordinate that is sent has tag 0")
    return positions, tags


def _take_indices(reader: _Reader, length: int) -> IntArray:
    (sent,) = _SENT.unpack(reader.take(_SENT.size))
    if sent > length:
        raise CorruptSegment(f"a slice of {length} coordinates sends {sent}")
    indices = _take_fields(reader, sent, index_width(length)).astype(np.int64)
    if sent and (indices[-1] >= length or (np.diff(indices) <= 0).any()):
        raise CorruptSegment("indices do not ascend, or leave their slice")
    return indices


def _take_fields(reader: _Reader, count: int, width: int) -> npt.NDArray[np.uint32]:
    return unpack(reader.take(packed_bytes(count, width=width)), count=count, width=width)


def _take_values(reader: _Reader, tags: ClassArray, scales: dict[int, np.float32]) -> FloatArray:
    values = np.empty(tags.size, dtype=np.float32)
    for number in _SCALED:
        members = np.flatnonzero(tags == number)
        if (number in scales) != bool(members.size):
            raise CorruptSegment(f"class {number} has a scale and no member, or none and members")
        if members.size:
            values[members] = _take_levels(reader, members.size, number, scales[number])
    members = np.flatnonzero(tags == len(CLASS_BITS) - 1)
    values[members] = np.frombuffer(reader.take(2 * members.size), dtype="<f2")
    if not np.isfinite(values).all():
        raise NonFinite("a value is NaN or infinite")
    return values


def _take_levels(reader: _Reader, count: int, number: int, scale: np.float32) -> FloatArray:
    width = CLASS_BITS[number]
    fields = _take_fields(reader, count, width)
    if fields.max() > 2 * top_level(width):
        raise CorruptSegment(f"a level of {width} bits is the reserved one")
    with np.errstate(over="ignore"):  # an overflow is found as a value that is not finite
        return dequantize(fields.astype(np.int8) - np.int8(top_level(width)), scale)
