"""Ranges of tensors, most error avoided per bit first, packed into payloads until bytes run out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.codings import Coding
from codec.plus_classes import BLOCK, Classifier, blocks
from codec.plus_plan import to_scale
from codec.plus_slices import (
    CLASS_BITS,
    ONE_COORDINATE_BYTES,
    SCALE_BYTES,
    SCALED,
    Part,
    levels_of,
    pack_slice,
)
from codec.segment import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout
    from codec.plus_plan import Plan

    ClassArray = npt.NDArray[np.uint8]

# [coordinates] A tensor is looked at in ranges of at most this many, each with scales and a place
# in the order of its own.
CHUNK: Final = 4 * BLOCK

_HALF_LEVELS: Final = np.arange(8, dtype=np.float32) + np.float32(0.5)

# [coordinates] Tensors under this many share a slice with others that avoid as much per bit, up to
# about this many together: what a slice costs, some 12 bytes, is then small against what it holds.
_SMALL: Final = 8192


@dataclass(frozen=True, slots=True)
class Range:
    """A tensor or a range of one, before it is packed.

    Attributes:
        tensor_index: The tensor's place in the layout.
        begin: Its first coordinate within the tensor.
        length: How many coordinates.
        sent: How many of them are sent.
        bits: What they take, about.
        worth: The error they avoid, in units of the price of a bit.
    """

    tensor_index: int
    begin: int
    length: int
    sent: int
    bits: float
    worth: float


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What slices are made of.

    Attributes:
        delta: float32 (layout.size,).
        weights: float32 (layout.size,).
        classes: uint8 (layout.size,), 0 to 3.
        layout: The delta's layout.
        plan: Its scales are where fitting starts.
    """

    delta: FloatArray
    weights: FloatArray
    classes: ClassArray
    layout: Layout
    plan: Plan


def classify(
    delta: FloatArray, weights: FloatArray, plan: Plan, *, layout: Layout, seed: int
) -> tuple[Source, list[Range]]:
    """Return the class of every coordinate, and the ranges that send any, best first."""
    classes = np.zeros(layout.size, dtype=np.uint8)
    source = Source(delta, weights, classes, layout, plan)
    classifier = Classifier(seed=seed)
    ranges = []
    prices = plan.prices()
    for place, tensor in enumerate(layout.tensors):
        if plan.value_factors[place] == 0:
            continue
        for begin in range(0, tensor.size, CHUNK):
            found = _classify_range(source, classifier, place, begin, price=prices[place])
            if found.sent:
                ranges.append(found)
    ranges.sort(key=lambda each: (-each.worth / each.bits, each.tensor_index, each.begin))
    return source, ranges


def slices_of(ranges: Sequence[Range], *, layout: Layout) -> Iterator[list[Range]]:
    """Yield ranges that share a slice, in order; small tensors are gathered as they come."""
    small: list[Range] = []
    for each in ranges:
        if each.length < min(layout.tensors[each.tensor_index].size, CHUNK) or each.length > _SMALL:
            yield [each]
            continue
        small.append(each)
        if sum(one.length for one in small) > _SMALL:
            yield small
            small = []
    if small:
        yield small


@dataclass(slots=True)
class Fill:
    """Payloads that are filled until the bytes run out.

    Attributes:
        source: What slices are made of.
        payload_bytes: Most bytes of one payload.
        left: Bytes that are left of the update's budget.
        payloads: What there is so far, at least one.
        bits: What it was thought to take.
        worth: The error that it avoids, in units of the price of a bit.
        complete: Whether everything given found room.
    """

    source: Source
    payload_bytes: int
    left: int
    payloads: list[bytearray]
    coding: Coding = Coding.GOLOMB
    bits: float = 0.0
    worth: float = 0.0
    complete: bool = True

    @classmethod
    def of(
        cls,
        source: Source,
        *,
        payload_bytes: int,
        update_bytes: int,
        coding: Coding = Coding.GOLOMB,
    ) -> Fill:
        """Return a fill with one empty payload."""
        return cls(source, payload_bytes, update_bytes - HEADER_BYTES, [bytearray()], coding)

    @property
    def room(self) -> int:
        """How many bytes the payload that is being filled can take."""
        return min(self.payload_bytes - len(self.payloads[-1]), self.left)

    def add(self, ranges: list[Range]) -> bool:
        """Add the slice of these ranges, in pieces where need be; return whether all of it fits."""
        pieces = [sorted(ranges, key=lambda each: each.tensor_index)]
        while pieces:
            piece = pieces.pop()
            if self._is_full() and not self._open():
                self.complete = False
                return False
            data = _pack(self.source, piece, self.coding)
            if len(data) <= self.room:
                self.payloads[-1] += data
                self.left -= len(data)
                self.bits += sum(each.bits for each in piece)
                self.worth += sum(each.worth for each in piece)
                continue
            pieces += reversed(_cut(self.source, piece, share=0.97 * self.room / len(data)))
        return True

    def _is_full(self) -> bool:
        return self.room < ONE_COORDINATE_BYTES

    def _open(self) -> bool:
        """Start the next payload where the bytes allow one and this one holds anything."""
        if not self.payloads[-1] or self.left < HEADER_BYTES + ONE_COORDINATE_BYTES:
            return False
        self.payloads.append(bytearray())
        self.left -= HEADER_BYTES
        return True


def _classify_range(
    source: Source, classifier: Classifier, place: int, begin: int, *, price: np.float32
) -> Range:
    plan, tensor = source.plan, source.layout.tensors[place]
    end = min(begin + CHUNK, tensor.size)
    factors = plan.value_factors[place], plan.weight_factors[place]
    rule = plan.rule(place)
    saved = 0.0
    for block in blocks(tensor, begin, end):
        values, weights = source.delta[block], source.weights[block]
        normal = classifier.normal(values, weights, factors=factors, price=price)
        saved += classifier.classify(*normal, rule, out=source.classes[block])
    classes = source.classes[tensor.offset + begin : tensor.offset + end]
    members = [int(np.count_nonzero(classes == number)) for number in range(1, len(CLASS_BITS))]
    counts = np.array([classes.size - sum(members), *members])
    bits = float((counts * plan.bits[:, place].astype(np.float64)).sum())
    beyond = bits - classes.size * float(plan.bits[0, place])
    return Range(place, begin, end - begin, sum(members), bits, max(saved + beyond, 0.0))


def _pack(source: Source, ranges: Sequence[Range], coding: Coding) -> bytes:
    """Return the slice of these ranges, each class's scale fitted to what it holds."""
    parts, fits = [], []
    for each in ranges:
        part, fit = _part(source, each)
        parts.append(part)
        fits.append(fit)
    shared = frozenset(
        number
        for number in SCALED
        if _sharing_pays([fit[number] for fit in fits if number in fit], source.plan.bit_price)
    )
    for part, fit in zip(parts, fits, strict=True):
        for number in part.scales:
            of = [other[number] for other in fits if number in other]
            part.scales[number] = _scale(
                of if number in shared else [fit[number]], otherwise=part.scales[number]
            )
    return pack_slice(parts, layout=source.layout, shared=shared, coding=coding)


def _part(source: Source, each: Range) -> tuple[Part, dict[int, _Fit]]:
    """Return what is sent of a range with the plan's scales, and what fits them better."""
    start = source.layout.tensors[each.tensor_index].offset + each.begin
    classes = source.classes[start : start + each.length]
    places = np.flatnonzero(classes != 0)
    chosen = classes[places]
    plan, scales, members, fits = source.plan, {}, {}, {}
    for number in range(1, len(CLASS_BITS)):
        found = np.flatnonzero(chosen == number)
        if not found.size:
            continue
        found = places if found.size == places.size else places[found]
        found = found + start
        members[number] = source.delta[found]
        if number in SCALED:
            inverse = 1 / float(plan.value_factors[each.tensor_index])
            scale = _legal(float(plan.scales[number - 1, each.tensor_index]) * inverse)
            weights = source.weights[found] * plan.weight_factors[each.tensor_index]
            unit = 1 / float(plan.weight_factors[each.tensor_index])
            scales[number] = scale
            fits[number] = _Fit.of(members[number], weights, scale, number=number, unit=unit)
    part = Part(each.tensor_index, each.begin, each.length, places, chosen, members, scales)
    return part, fits


@dataclass(frozen=True, slots=True)
class _Fit:
    """Sums from which the best scale of some coordinates follows: above / below.

    With it the error is less by above² / below than if nothing were sent.
    """

    above: float
    below: float

    @classmethod
    def of(
        cls,
        values: FloatArray,
        weights: FloatArray,
        scale: np.float32,
        *,
        number: int,
        unit: float,
    ) -> _Fit:
        fields = levels_of(values, scale, width=CLASS_BITS[number])
        halves = _HALF_LEVELS[fields >> np.uint8(1)]
        weighed = (halves * weights).astype(np.float64)
        below = float((weighed * halves).sum()) * unit
        weighed *= np.abs(values)
        return cls(float(weighed.sum()) * unit, below)


def _sharing_pays(fits: Sequence[_Fit], price: float) -> bool:
    """Return whether one scale for all costs less error than the bits of the others are worth."""
    some = [fit for fit in fits if fit.below > 0]
    if len(some) < 2 or len(some) < len(fits):  # noqa: PLR2004 - one scale is shared with nobody
        return False
    # x * x is the same on every platform; a power is the C library's.
    apart = sum(fit.above * fit.above / fit.below for fit in some)
    above = sum(fit.above for fit in some)
    together = above * above / sum(fit.below for fit in some)
    return apart - together < price * 8 * SCALE_BYTES * (len(some) - 1)


def _scale(fits: Sequence[_Fit], *, otherwise: np.float32) -> np.float32:
    above, below = sum(fit.above for fit in fits), sum(fit.below for fit in fits)
    return _legal(above / below) if above > 0 and below > 0 else otherwise


def _legal(scale: float) -> np.float32:
    """Return the nearest scale that the format has; levels at it are finite."""
    inside = min(max(scale, 2.0**-126), 2.0**125)
    legal: np.float32 = to_scale(np.array([inside]))[0]
    return legal


def _cut(source: Source, ranges: list[Range], *, share: float) -> list[list[Range]]:
    """Return the ranges in two, the first with about this share of what is sent.

    A single coordinate becomes a range of its own, which always fits.
    """
    if len(ranges) > 1:
        sent = np.cumsum([each.sent for each in ranges])
        first = int(np.clip(np.searchsorted(sent, share * sent[-1]), 1, len(ranges) - 1))
        return [ranges[:first], ranges[first:]]
    (each,) = ranges
    start = source.layout.tensors[each.tensor_index].offset + each.begin
    places = np.flatnonzero(source.classes[start : start + each.length] != 0)
    if places.size == 1:
        assert each.length > 1
        return [[_of_sent(each, places)]]
    first = int(np.clip(int(share * places.size), 1, places.size - 1))
    return [[_of_sent(each, places[:first])], [_of_sent(each, places[first:])]]


def _of_sent(each: Range, places: npt.NDArray[np.int64]) -> Range:
    """Return the least range that holds these of its places, and its share of what it has."""
    share = places.size / each.sent
    return Range(
        each.tensor_index,
        each.begin + int(places[0]),
        int(places[-1] - places[0]) + 1,
        places.size,
        each.bits * share,
        each.worth * share,
    )
