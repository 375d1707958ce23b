"""`fedfq`: 0, 2, 4 or 8 bits for each coordinate, where they make the error fall most.

Every width of every tensor has a step of its own, its largest magnitude over the top level; values
are rounded at random without bias, but those of 0 bits are lost. How many bits there are follows
from the byte budget; widths are told by sets in Golomb-coded gaps, of which the paper says nothing.
Runs go by energy per byte, most first.

The paper searches for widths by simulated annealing from a start that is sorted by magnitude. The
minimum that it approaches, of Σ Δ² / 4^bits at so many bits, is found here exactly and without
chance: it is what greedy steps lead to. One budget stands for the whole update. Levels are those of
b bits with their sign, -(2^(b - 1) - 1) to 2^(b - 1) - 1; the authors' code counts no sign.

Source: H. Li et al., "FedFQ: federated learning with fine-grained quantization", 2024
(arXiv 2408.08977), its quantiser and Constraint-Guided Simulated Annealing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.errors import CorruptSegment, NonFinite
from codec.inputs import byte_budget, check_delta
from codec.quantize import MAX_PEAK
from codec.reference.dense import from_bf16
from codec.reference.greedy import Steps
from codec.reference.scaled import round_stochastically, top_of
from codec.reference.sparse import Sent, SentRun, SparseFormat, cut_runs, fit, sent_once
from codec.segment import HEADER_BYTES, pack_all
from codec.sets import encode_set, set_bytes, take_set
from codec.splitmix import Use, stream_of, uniforms

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from codec.codec import Budget, FloatArray
    from codec.layout import Layout

    IntArray = npt.NDArray[np.int64]
    ClassArray = npt.NDArray[np.uint8]

WIDTHS: Final = (2, 4, 8)

# First flat coordinate, length of the run, how many have at least 2, 4 and 8 bits.
_HEAD: Final = struct.Struct("<IIIII")
_STEP_BYTES: Final = 2
_ROUNDING: Final = stream_of(Use.ROUNDING)

# [coordinates] Uniforms are drawn for so many at once, sent or not.
_DRAWN: Final = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class _Widths:
    """What is sent.

    Attributes:
        places: int64 (sent,), ascending flat coordinates.
        classes: uint8 (sent,), 1 to 3 for 2, 4 and 8 bits.
        owners: int64 (sent,), the tensor of each.
        fields: uint8 (sent,), level + top level of its width.
        steps: uint16 (tensors, widths), bf16 words.
    """

    places: IntArray
    classes: ClassArray
    owners: IntArray
    fields: ClassArray
    steps: npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class FedFq(SparseFormat):
    """Widths by magnitude, levels by chance."""

    name: str = "fedfq"
    codec_id: int = 15

    def encode(
        self,
        delta: FloatArray,
        fisher: FloatArray | None,  # noqa: ARG002 - magnitude alone decides
        *,
        layout: Layout,
        budget: Budget,
        seed: int,
    ) -> tuple[bytes, ...]:
        """Return as many bits as the budget holds, in segments, most important first.

        Args:
            delta: As `SparseCodec.encode`.
            fisher: Not used.
            layout: As `SparseCodec.encode`.
            budget: As `SparseCodec.encode`.
            seed: Seeds the rounding.

        Raises:
            InvalidInput: As `SparseCodec.encode`.
        """
        check_delta(delta, layout=layout)
        update_bytes = byte_budget(budget, codec=self.name)
        room = budget.segment_bytes - HEADER_BYTES
        flat = np.ascontiguousarray(delta)
        steps = Steps.of(np.abs(flat), widths=WIDTHS)

        def payloads(number: int) -> list[bytes]:
            widths = _widths(flat, steps.classes(number), layout=layout, seed=seed)
            rated = [_rated(widths, begin, run) for begin, run in _runs(widths, room)]
            return [data for _, _, data in sorted(rated)] or [_HEAD.pack(0, layout.size, 0, 0, 0)]

        packed = fit(
            payloads,
            lambda number: _about_bytes(steps.about(number), layout=layout, room=room),
            update_bytes=update_bytes,
            most=steps.count,
        )
        return pack_all(packed, codec_id=self.codec_id, layout=layout)

    def _parse(self, payloads: list[memoryview], *, layout: Layout) -> list[Sent]:
        ends = np.array([tensor.end for tensor in layout.tensors], dtype=np.int64)
        return sent_once([_parse_run(payload, ends) for payload in payloads])


def _about_bytes(at_least: IntArray, *, layout: Layout, room: int) -> int:
    body = _body_bytes(at_least, layout.size, tensors=len(layout.tensors))
    return body + max(1, -(-body // (room - _HEAD.size))) * (HEADER_BYTES + _HEAD.size)


def _body_bytes(at_least: IntArray, length: int, *, tensors: int) -> int:
    """Return the most bytes of sets, steps and fields of a run.

    Args:
        at_least: int64 (widths,), how many coordinates have at least each width.
        length: Of the run.
        tensors: How many tensors have coordinates sent in it.
    """
    counts = [int(count) for count in at_least]
    sizes = [length, *counts]
    total = 0
    for place, width in enumerate(WIDTHS):
        members = counts[place] - (*counts, 0)[place + 1]
        total += set_bytes(counts[place], sizes[place])
        total += packed_bytes(members, width=width) + _STEP_BYTES * min(members, tensors)
    return total


def _widths(delta: FloatArray, chosen: ClassArray, *, layout: Layout, seed: int) -> _Widths:
    places = np.flatnonzero(chosen)
    classes = chosen[places]
    ends = np.array([tensor.end for tensor in layout.tensors], dtype=np.int64)
    owners = ends.searchsorted(places, side="right")
    values = delta[places]
    steps = _steps(values, classes, owners, tensors=ends.size)
    chances = _chances(places, seed=seed)
    fields = np.empty(places.size, dtype=np.uint8)
    for place, width in enumerate(WIDTHS):
        members = classes == place + 1
        divisors = from_bf16(steps[:, place])[owners[members]]
        ratios = values[members] / divisors
        fields[members] = round_stochastically(ratios, chances[members], top=top_of(width))
    return _Widths(places, classes, owners, fields, steps)


def _steps(
    values: FloatArray, classes: ClassArray, owners: IntArray, *, tensors: int
) -> npt.NDArray[np.uint16]:
    """Return each tensor's step of each width, so that no value is over the top level."""
    peaks = np.zeros((tensors, len(WIDTHS)), dtype=np.float32)
    np.maximum.at(peaks, (owners, classes - 1), np.abs(values))
    tops = np.array([top_of(width) for width in WIDTHS], dtype=np.float32)
    bits = (np.minimum(peaks, MAX_PEAK) / tops).view(np.uint32)
    words: npt.NDArray[np.uint16] = ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)
    return words


def _chances(places: IntArray, *, seed: int) -> FloatArray:
    """Return the uniform of each of these coordinates, float32, those of ascending places."""
    chances = np.empty(places.size, dtype=np.float32)
    size = int(places[-1]) + 1 if places.size else 0
    for start in range(0, size, _DRAWN):
        drawn = uniforms(seed, stream=_ROUNDING, start=start, count=min(_DRAWN, size - start))
        first, last = places.searchsorted((start, start + _DRAWN))
        chances[first:last] = drawn[places[first:last] - start]
    return chances


def _runs(widths: _Widths, room: int) -> Iterator[tuple[int, slice]]:
    """Yield each run's first flat coordinate and which are sent of it; its last one is."""
    upto = np.zeros((widths.places.size + 1, len(WIDTHS)), dtype=np.int64)
    for place in range(len(WIDTHS)):
        np.cumsum(widths.classes > place, out=upto[1:, place])
    tensors = np.cumsum(np.diff(widths.owners, prepend=-1) > 0)

    def cost(begin: int, run: slice) -> int:
        last = run.stop - 1
        length = int(widths.places[last]) + 1 - begin
        some = int(tensors[last] - tensors[run.start]) + 1
        return _HEAD.size + _body_bytes(upto[run.stop] - upto[run.start], length, tensors=some)

    return cut_runs(widths.places, cost, room=room)


def _rated(widths: _Widths, begin: int, run: slice) -> tuple[float, int, bytes]:
    """Return a run's energy per byte, negative, where it begins, and its payload."""
    places, classes, owners = widths.places[run], widths.classes[run], widths.owners[run]
    length = int(places[-1]) + 1 - begin
    sets = [encode_set(places - begin, size=length)]
    for place in range(1, len(WIDTHS)):
        classes_left = classes[classes >= place]
        sets.append(encode_set(np.flatnonzero(classes_left > place), size=classes_left.size))
    counts = [int(np.count_nonzero(classes > place)) for place in range(len(WIDTHS))]
    steps, fields, energy = [], [], 0.0
    for place, width in enumerate(WIDTHS):
        members = classes == place + 1
        of = owners[members]
        words = widths.steps[:, place]
        steps.append(words[of[np.diff(of, prepend=-1) > 0]].astype("<u2").tobytes())
        fields.append(pack(widths.fields[run][members], width=width))
        levels = widths.fields[run][members].astype(np.float64) - top_of(width)
        energy += float(np.square(levels * from_bf16(words)[of]).sum())
    payload = b"".join((_HEAD.pack(begin, length, *counts), *sets, *steps, *fields))
    return -energy / len(payload), begin, payload


def _parse_run(payload: memoryview, ends: IntArray) -> SentRun:
    if len(payload) < _HEAD.size:
        raise CorruptSegment(f"{len(payload)} bytes hold no start, length and counts")
    begin, length, *counts = _HEAD.unpack_from(payload)
    if length < 1 or begin + length > ends[-1]:
        raise CorruptSegment(f"{length} coordinates from {begin} of {ends[-1]}")
    if not length >= counts[0] >= counts[1] >= counts[2]:
        raise CorruptSegment(f"of {length:,} coordinates {counts} have at least 2, 4 and 8 bits")
    members = [more - less for more, less in zip(counts, [*counts[1:], 0], strict=True)]
    sizes = [packed_bytes(one, width=width) for one, width in zip(members, WIDTHS, strict=True)]
    # A few bytes can announce a full set of any size; the fields that it needs are the limit.
    if _HEAD.size + sum(sizes) > len(payload):
        raise CorruptSegment(f"{sum(counts):,} fields do not fit {len(payload):,} bytes")
    rest = payload[_HEAD.size :]
    places, used = take_set(rest, count=counts[0], size=length)
    places += begin
    classes = np.ones(counts[0], dtype=np.uint8)
    inner = np.arange(counts[0])
    for count in counts[1:]:
        rest = rest[used:]
        taken, used = take_set(rest, count=count, size=inner.size)
        inner = inner[taken]
        classes[inner] += np.uint8(1)
    values = _values(rest[used:], classes, ends.searchsorted(places, side="right"))
    return SentRun(begin, begin + length, Sent(places, values))


def _values(data: memoryview, classes: ClassArray, owners: IntArray) -> FloatArray:
    """Return the value of each coordinate from the steps and fields that are left."""
    values = np.empty(classes.size, dtype=np.float32)
    groups = [np.flatnonzero(classes == place + 1) for place in range(len(WIDTHS))]
    turns = [np.diff(owners[members], prepend=-1) > 0 for members in groups]
    steps_bytes = [_STEP_BYTES * int(np.count_nonzero(turn)) for turn in turns]
    at, fields_at = 0, sum(steps_bytes)
    for members, turn, size, width in zip(groups, turns, steps_bytes, WIDTHS, strict=True):
        field_bytes = packed_bytes(members.size, width=width)
        if fields_at + field_bytes > len(data):
            raise CorruptSegment("the payload ends within steps and fields")
        steps = _take_steps(data[at : at + size], top=top_of(width))
        fields = unpack(data[fields_at : fields_at + field_bytes], count=members.size, width=width)
        if (fields == (1 << width) - 1).any():
            raise CorruptSegment(f"a level of {width} bits is the reserved one")
        levels = fields.astype(np.float32) - np.float32(top_of(width))
        values[members] = levels * steps[np.cumsum(turn) - 1]
        at, fields_at = at + size, fields_at + field_bytes
    if fields_at != len(data):
        raise CorruptSegment(f"{len(data) - fields_at:,} bytes follow the last field")
    return values


def _take_steps(data: memoryview, *, top: int) -> FloatArray:
    steps = from_bf16(np.frombuffer(data, dtype="<u2"))
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(steps * np.float32(top)).all():
            raise NonFinite("a step is NaN or infinite, or its multiples are")
    if np.signbit(steps).any():
        raise CorruptSegment("a step is negative")
    return steps


FEDFQ: Final = FedFq()
