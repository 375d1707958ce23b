"""`sparseloco`: the largest of each chunk of 4096, as 2 bits and an index of 12.

Every chunk sends the same share, which follows from the byte budget. Two bits are a sign and one of
two magnitudes, which are the chunk's own. Indices go with a fixed width, as in the paper, whose 146
times (1.56 % of all, 14 bits each) count neither scales nor headers; here everything counts.
Segments go by energy per byte, most first. Biased, and meant to be used with error feedback.

Left out, since it is not an update codec's to do: error feedback and its decay of 0.95 (the
residual does that), the outer step, and the many local steps. Chunks are runs of a tensor's
coordinates; the authors' code also cuts matrices into squares of 64 by 64. The paper leaves the
levels of its 2 bits open: here they are fitted to what the chunk sends.

Source: A. Sarfi et al., "Communication efficient LLM pre-training with SparseLoCo", 2025
(arXiv 2508.15706), Algorithm 1: Q(Top-k(e)) of each chunk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.bitstream import pack, packed_bytes, unpack
from codec.errors import CorruptSegment, NonFinite
from codec.quantize import MAX_PEAK
from codec.reference.dense import from_bf16, to_bf16
from codec.reference.largest import largest
from codec.reference.sparse import Sent, SparseCodec, check_apart, most_that_fit
from codec.segment import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout

    IntArray = npt.NDArray[np.int64]

# [coordinates] The paper's chunk: an index takes 12 bits.
CHUNK: Final = 1 << 12

_HEAD: Final = struct.Struct("<III")  # share, number of the first entry, entries
_INDEX_BITS: Final = 12
_VALUE_BITS: Final = 2
_MAGNITUDES_BYTES: Final = 4
_NEGATIVE: Final = np.uint8(0b01)
_UPPER: Final = np.uint8(0b10)

# A share of 1.
_WHOLE_BITS: Final = 31

# How often the bound between lower and upper magnitudes is moved to the middle of their means.
_MOVES: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Entries:
    """What an update sends.

    Attributes:
        places: int64 (entries,), ascending flat coordinates.
        owners: int64 (entries,), the chunk of each.
        starts: int64 (chunks,), the first flat coordinate of each chunk.
        fields: uint8 (entries,), 2 bits each.
        levels: uint16 (chunks, 2), bf16 words of lower and upper magnitudes.
    """

    places: IntArray
    owners: IntArray
    starts: IntArray
    fields: npt.NDArray[np.uint8]
    levels: npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class SparseLoCo(SparseCodec):
    """The same share of every chunk, as one of two magnitudes with a sign."""

    name: str = "sparseloco"
    codec_id: int = 14

    def _about_bytes(self, count: int, *, layout: Layout, room: int) -> int:
        chunks = sum(-(-tensor.size // CHUNK) for tensor in layout.tensors)
        body = _payload_bytes(count, min(count, chunks)) - _HEAD.size
        return body + max(1, -(-body // (room - _HEAD.size))) * (HEADER_BYTES + _HEAD.size)

    def _payloads(self, delta: FloatArray, count: int, *, layout: Layout, room: int) -> list[bytes]:
        if not count or not delta.any():
            return [_HEAD.pack(0, 0, 0)]
        share = -(-(count << _WHOLE_BITS) // layout.size)
        entries = _entries(delta, share, layout)
        rated = [_rated(entries, share, run) for run in _runs(entries, room)]
        return [payload for _, _, payload in sorted(rated)]

    def _parse(self, payloads: list[memoryview], *, layout: Layout) -> list[Sent]:
        heads = [_head(payload) for payload in payloads]
        if len({share for share, _, _ in heads}) > 1:
            raise CorruptSegment("segments of different updates: their shares differ")
        if not heads:
            return []
        bounds = _bounds(layout)
        upto = _entries_upto(bounds, heads[0][0])
        parts = [
            _parse_entries(payload, first, count, bounds=bounds, upto=upto)
            for payload, (_, first, count) in zip(payloads, heads, strict=True)
        ]
        check_apart(parts, layout=layout)
        return parts


def _bounds(layout: Layout) -> IntArray:
    """Return where each chunk begins, and where the last one ends, int64 (chunks + 1,)."""
    starts = [
        np.arange(tensor.offset, tensor.end, CHUNK, dtype=np.int64) for tensor in layout.tensors
    ]
    return np.concatenate([*starts, np.array([layout.size], dtype=np.int64)])


def _entries_upto(bounds: IntArray, share: int) -> IntArray:
    """Return how many entries the chunks before each bound have, int64 (chunks + 1,)."""
    upto: IntArray = (bounds * share) >> _WHOLE_BITS
    return upto


def _entries(delta: FloatArray, share: int, layout: Layout) -> _Entries:
    bounds = _bounds(layout)
    upto = _entries_upto(bounds, share)
    places = np.empty(int(upto[-1]), dtype=np.int64)
    for (start, stop), (first, last) in zip(
        pairwise(bounds.tolist()), pairwise(upto.tolist()), strict=True
    ):
        if first < last:
            places[first:last] = _largest(delta[start:stop], last - first) + start
    owners = np.repeat(np.arange(bounds.size - 1), np.diff(upto))
    values = delta[places]
    magnitudes = np.minimum(np.abs(values), MAX_PEAK)
    levels, upper = _fitted(magnitudes, owners, chunks=bounds.size - 1)
    fields = np.signbit(values) * _NEGATIVE | upper * _UPPER
    return _Entries(places, owners, bounds[:-1], fields, levels)


def _largest(values: FloatArray, count: int) -> IntArray:
    """Return the places of exactly so many, zeros among them where there is nothing else."""
    places = largest(values, count)
    if places.size < count:
        zeros = np.flatnonzero(values == 0)[: count - places.size]
        places = np.sort(np.concatenate((places, zeros)))
    return places


def _fitted(
    magnitudes: FloatArray, owners: IntArray, *, chunks: int
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """Return lower and upper magnitude of each chunk as bf16, and which entries have the upper.

    Sums go entry by entry in float64, so that they are the same on every platform.
    """
    wide = magnitudes.astype(np.float64)
    bounds = _means(wide, owners, chunks)
    for _ in range(_MOVES):
        upper = wide >= bounds[owners]
        lows = _means(wide[~upper], owners[~upper], chunks)
        bounds = (lows + _means(wide[upper], owners[upper], chunks)) / 2
    upper = wide >= bounds[owners]
    lows = _means(wide[~upper], owners[~upper], chunks)
    highs = _means(wide[upper], owners[upper], chunks)
    return to_bf16(np.stack((lows, highs), axis=1).astype(np.float32)), upper


def _means(
    values: npt.NDArray[np.float64], owners: IntArray, chunks: int
) -> npt.NDArray[np.float64]:
    sums = np.bincount(owners, weights=values, minlength=chunks)
    means: npt.NDArray[np.float64] = sums / np.maximum(np.bincount(owners, minlength=chunks), 1)
    return means


def _payload_bytes(count: int, chunks: int) -> int:
    fields = packed_bytes(count, width=_INDEX_BITS) + packed_bytes(count, width=_VALUE_BITS)
    return _HEAD.size + _MAGNITUDES_BYTES * chunks + fields


def _runs(entries: _Entries, room: int) -> Iterator[slice]:
    """Yield the entries of each payload, as many as fit."""
    total = entries.owners.size
    ranks = np.cumsum(np.diff(entries.owners, prepend=-1) > 0)  # chunks that have an entry

    def cost(number: int) -> int:
        chunks = int(ranks[first + number - 1] - ranks[first]) + 1 if number else 0
        return _payload_bytes(number, chunks)

    first = 0
    while first < total:
        number = most_that_fit(cost, room=room, most=total - first)
        assert number > 0
        yield slice(first, first + number)
        first += number


def _rated(entries: _Entries, share: int, run: slice) -> tuple[float, int, bytes]:
    """Return a run's energy per byte, negative, its first entry, and its payload."""
    owners, fields = entries.owners[run], entries.fields[run]
    levels = entries.levels[owners[np.diff(owners, prepend=-1) > 0]]
    indices = (entries.places[run] - entries.starts[owners]).astype(np.uint32)
    payload = b"".join(
        (
            _HEAD.pack(share, run.start, owners.size),
            levels.astype("<u2").tobytes(),
            pack(indices, width=_INDEX_BITS),
            pack(fields, width=_VALUE_BITS),
        )
    )
    energies = from_bf16(entries.levels)[owners, fields >> np.uint8(1)].astype(np.float64)
    np.square(energies, out=energies)
    return -float(energies.sum()) / len(payload), run.start, payload


def _head(payload: memoryview) -> tuple[int, int, int]:
    """Return share, number of the first entry and entries of a payload."""
    if len(payload) < _HEAD.size:
        raise CorruptSegment(f"{len(payload)} bytes hold no share, start and count")
    share, first, count = _HEAD.unpack_from(payload)
    if share >> _WHOLE_BITS and share != 1 << _WHOLE_BITS:
        raise CorruptSegment(f"a share of {share} / 2^{_WHOLE_BITS}")
    return share, first, count


def _parse_entries(
    payload: memoryview, first: int, count: int, *, bounds: IntArray, upto: IntArray
) -> Sent:
    if first + count > upto[-1] or _payload_bytes(count, min(count, 1)) > len(payload):
        raise CorruptSegment(f"{count:,} entries from {first:,} of {upto[-1]:,}")
    owners = upto.searchsorted(np.arange(first, first + count), side="right") - 1
    begins = np.diff(owners, prepend=-1) > 0
    chunks = int(np.count_nonzero(begins))
    if len(payload) != _payload_bytes(count, chunks):
        raise CorruptSegment(f"{len(payload)} bytes are not those of {count:,} entries")
    indices_at = _HEAD.size + _MAGNITUDES_BYTES * chunks
    fields_at = indices_at + packed_bytes(count, width=_INDEX_BITS)
    levels = _magnitudes(payload[_HEAD.size : indices_at])
    indices = unpack(payload[indices_at:fields_at], count=count, width=_INDEX_BITS)
    fields = unpack(payload[fields_at:], count=count, width=_VALUE_BITS).astype(np.uint8)
    places = indices.astype(np.int64) + bounds[owners]
    # Chunks lie behind one another: within its chunk, ascending means ascending throughout.
    if (places >= bounds[owners + 1]).any() or (np.diff(places) <= 0).any():
        raise CorruptSegment("places do not ascend, or leave their chunk")
    values = levels[np.cumsum(begins) - 1, fields >> np.uint8(1)]
    values[(fields & _NEGATIVE).astype(np.bool_)] *= np.float32(-1)
    return Sent(places, values)


def _magnitudes(data: memoryview) -> FloatArray:
    levels = from_bf16(np.frombuffer(data, dtype="<u2")).reshape(-1, 2)
    if not np.isfinite(levels).all():
        raise NonFinite("a magnitude is NaN or infinite")
    if np.signbit(levels).any():
        raise CorruptSegment("a magnitude is negative")
    return levels


SPARSELOCO: Final = SparseLoCo()
