"""`stc`: sparse ternary compression.

Of each tensor the same share of coordinates, those of largest magnitude, each as a sign times the
mean of their magnitudes; their positions in Golomb-coded gaps. The share follows from the byte
budget. Segments are runs of the flat array, those that carry the most energy per byte first.
Biased, and meant to be used with error feedback. The server's own ternary compression is the
downlink's business.

Source: Sattler et al., "Robust and communication-efficient federated learning from non-IID data",
IEEE TNNLS 2019 (arXiv 1903.02891), Algorithms 1 and 2. The paper keeps at least one coordinate of
every tensor; here small shares round to none, since a budget may not hold them.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.errors import CorruptSegment, NonFinite
from codec.quantize import MAX_PEAK
from codec.reference.largest import Ranking
from codec.reference.sparse import Sent, SentRun, SparseCodec, most_that_fit, sent_once
from codec.segment import HEADER_BYTES
from codec.sets import encode_set, set_bytes, take_set

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout

    BoolArray = npt.NDArray[np.bool_]
    IntArray = npt.NDArray[np.int64]

_HEAD: Final = struct.Struct("<III")  # first flat coordinate, length of the run, coordinates sent
_MAGNITUDE_BYTES: Final = 4


# [coordinates] Counted at once; within such a block, places are looked for.
_BLOCK: Final = 1 << 12

# [coordinates] Summed up at once.
_SUMMED: Final = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class _Ternary:
    """What is sent.

    Places instead of a byte per coordinate would take up to twice the delta's memory.

    Attributes:
        chosen: bool (layout.size,), which coordinates.
        magnitudes: By tensor of the layout.
        ends: int64, where each tensor ends.
    """

    chosen: BoolArray
    magnitudes: FloatArray
    ends: IntArray


@dataclass(frozen=True, slots=True)
class Stc(SparseCodec):
    """The same share of every tensor, as one magnitude with a sign."""

    name: str = "stc"
    codec_id: int = 10

    def _about_bytes(self, count: int, *, layout: Layout, room: int) -> int:
        magnitudes = _MAGNITUDE_BYTES * min(count, len(layout.tensors))
        body = set_bytes(count, layout.size) + packed_bytes(count, width=1) + magnitudes
        return body + -(-body // (room - _HEAD.size)) * (HEADER_BYTES + _HEAD.size)

    def _payloads(self, delta: FloatArray, count: int, *, layout: Layout, room: int) -> list[bytes]:
        ternary = _ternary(delta, count, layout)
        rated = [_rated(ternary, delta, run) for run in _runs(ternary, room)]
        return [payload for _, _, payload in sorted(rated)] or [_HEAD.pack(0, layout.size, 0)]

    def _parse(self, payloads: list[memoryview], *, layout: Layout) -> list[Sent]:
        ends = np.array([tensor.end for tensor in layout.tensors], dtype=np.int64)
        return sent_once([_parse_run(payload, ends) for payload in payloads])


def _ternary(delta: FloatArray, count: int, layout: Layout) -> _Ternary:
    """Return the largest of every tensor, `count` in all tensors but for rounding."""
    magnitudes = np.zeros(len(layout.tensors), dtype=np.float32)
    chosen = np.zeros(layout.size, dtype=np.bool_)
    for place, tensor in enumerate(layout.tensors):
        # Rounded half up in integers: alike on every platform.
        share = (2 * tensor.size * count + layout.size) // (2 * layout.size)
        values, mine = delta[tensor.offset : tensor.end], chosen[tensor.offset : tensor.end]
        ranking = Ranking(values)
        cut = ranking.cut(share)
        if cut.count:
            for window, taken in ranking.marks(cut):
                mine[window] = taken
            mean = _sum_of_magnitudes(values[mine]) / cut.count
            magnitudes[place] = np.minimum(np.float32(mean), MAX_PEAK)
    ends = np.array([tensor.end for tensor in layout.tensors], dtype=np.int64)
    return _Ternary(chosen, magnitudes, ends)


def _sum_of_magnitudes(values: FloatArray) -> np.float64:
    """Return what numpy's pairwise sum of all in float64 gives, a part in float64 at a time.

    Halves are parted where numpy parts them, so that the last bit is the same.
    """
    if values.size <= _SUMMED:
        total: np.float64 = np.abs(values.astype(np.float64)).sum()
        return total
    half = values.size // 2
    half -= half % 8
    return _sum_of_magnitudes(values[:half]) + _sum_of_magnitudes(values[half:])


def _runs(ternary: _Ternary, room: int) -> Iterator[slice]:
    """Yield the flat coordinates of each run; its last one is sent."""
    chosen, ends = ternary.chosen, ternary.ends.tolist()
    blocks = range(0, chosen.size, _BLOCK)
    upto = list(accumulate(int(np.count_nonzero(chosen[at : at + _BLOCK])) for at in blocks))

    def place(rank: int) -> int:
        """Return the flat coordinate that is sent after `rank` others."""
        block = bisect_right(upto, rank)
        inside = rank - (upto[block - 1] if block else 0)
        start = block * _BLOCK
        return start + int(np.flatnonzero(chosen[start : start + _BLOCK])[inside])

    def cost(number: int) -> int:
        signs = packed_bytes(number, width=1)
        if _HEAD.size + signs > room:
            return _HEAD.size + signs
        end = place(sent + number - 1) + 1
        tensors = bisect_right(ends, end - 1) - first + 1
        return _HEAD.size + set_bytes(number, end - begin) + signs + _MAGNITUDE_BYTES * tensors

    begin = sent = 0
    while sent < upto[-1]:
        first = bisect_right(ends, place(sent))
        number = most_that_fit(cost, room=room, most=upto[-1] - sent)
        assert number > 0
        sent += number
        end = place(sent - 1) + 1
        yield slice(begin, end)
        begin = end


def _rated(ternary: _Ternary, delta: FloatArray, run: slice) -> tuple[float, int, bytes]:
    """Return a run's energy per byte, negative, where it begins, and its payload."""
    chosen = ternary.chosen[run]
    places = np.flatnonzero(chosen)
    first, last = ternary.ends.searchsorted(places[[0, -1]] + run.start, side="right")
    ends = ternary.ends[first : last + 1] - run.start
    members = np.diff(places.searchsorted(ends), prepend=0)
    magnitudes = ternary.magnitudes[first : last + 1][members > 0]
    payload = b"".join(
        (
            _HEAD.pack(run.start, chosen.size, places.size),
            encode_set(places, size=chosen.size),
            pack((delta[run] < 0)[chosen].view(np.uint8), width=1),
            magnitudes.astype("<f4").tobytes(),
        )
    )
    del places  # twice the memory of what they are the places of
    energies = np.repeat(magnitudes.astype(np.float64), members[members > 0])
    np.square(energies, out=energies)
    return -float(energies.sum()) / len(payload), run.start, payload


def _parse_run(payload: memoryview, ends: IntArray) -> SentRun:
    if len(payload) < _HEAD.size:
        raise CorruptSegment(f"{len(payload)} bytes hold no start, length and count")
    begin, length, count = _HEAD.unpack_from(payload)
    if length < 1 or begin + length > ends[-1] or count > length:
        raise CorruptSegment(f"{count} of {length} coordinates from {begin} of {ends[-1]}")
    if packed_bytes(count, width=1) > len(payload):
        raise CorruptSegment(f"{count:,} signs do not fit {len(payload):,} bytes")
    places, used = take_set(payload[_HEAD.size :], count=count, size=length)
    places += begin
    signs_at = _HEAD.size + used
    magnitudes_at = signs_at + packed_bytes(count, width=1)
    tensors, members = np.unique(ends.searchsorted(places, side="right"), return_counts=True)
    if len(payload) != magnitudes_at + _MAGNITUDE_BYTES * tensors.size:
        raise CorruptSegment("signs and magnitudes do not end with the payload")
    negative = unpack(payload[signs_at:magnitudes_at], count=count, width=1)
    magnitudes = np.frombuffer(payload, dtype="<f4", offset=magnitudes_at).astype(np.float32)
    if not np.isfinite(magnitudes).all():
        raise NonFinite("a magnitude is NaN or infinite")
    if (magnitudes <= 0).any():
        raise CorruptSegment("a magnitude is not positive")
    values = np.repeat(magnitudes, members)
    values[negative.astype(np.bool_)] *= np.float32(-1)
    return SentRun(begin, begin + length, Sent(places, values))


STC: Final = Stc()
