"""`flasc`: the coordinates of largest magnitude in the whole adapter, as they are.

Values are float32, unquantised, as in the paper; indices are a bitmap or of one width, whichever
is smaller for a run of coordinates. How many are sent follows from the byte budget. Runs go by
energy per byte, most first.

`top-k` is the same choice with 16-bit values and Golomb-coded gaps. Left out, since it is not an
update codec's to do: the sparse download, which has a mask of its own (the largest weights), the
dense local training on it, and FedAdam on the server. The paper counts values; here indices and
headers count as well.

Source: K. Kuo, A. Raje, K. Rajesh and V. Smith, "Federated LoRA with sparse communication", 2024
(arXiv 2406.05233), Algorithm 1, upload: Top-k of the client's delta by magnitude.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.errors import CorruptSegment, NonFinite
from codec.plain_sets import encode_plain_set, plain_set_bytes, take_plain_set
from codec.reference.largest import largest
from codec.reference.sparse import Sent, SentRun, SparseCodec, cut_runs, sent_once
from codec.segment import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout

    IntArray = npt.NDArray[np.int64]

_HEAD: Final = struct.Struct("<III")  # first flat coordinate, length of the run, coordinates sent
_VALUE_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Flasc(SparseCodec):
    """The largest magnitudes, wherever they are, as float32."""

    name: str = "flasc"
    codec_id: int = 16

    def _about_bytes(self, count: int, *, layout: Layout, room: int) -> int:
        # About as many payloads as values fill, each over as long a run as the others.
        each = room - _HEAD.size
        runs = max(1, -(-_VALUE_BYTES * count // each))
        length = max(1, layout.size // runs)
        support = runs * plain_set_bytes(min(count // runs, length), length)
        return support + _VALUE_BYTES * count + runs * (HEADER_BYTES + _HEAD.size)

    def _payloads(self, delta: FloatArray, count: int, *, layout: Layout, room: int) -> list[bytes]:
        places = largest(delta, count)
        rated = [_rated(places[run], delta, begin) for begin, run in _runs(places, room)]
        return [payload for _, _, payload in sorted(rated)] or [_HEAD.pack(0, layout.size, 0)]

    def _parse(self, payloads: list[memoryview], *, layout: Layout) -> list[Sent]:
        return sent_once([_parse_run(payload, layout) for payload in payloads])


def _runs(places: IntArray, room: int) -> Iterator[tuple[int, slice]]:
    """Yield each run's first flat coordinate and which are sent of it; its last one is."""

    def cost(begin: int, run: slice) -> int:
        length = int(places[run.stop - 1]) + 1 - begin
        number: int = run.stop - run.start
        return _HEAD.size + plain_set_bytes(number, length) + _VALUE_BYTES * number

    return cut_runs(places, cost, room=room)


def _rated(places: IntArray, delta: FloatArray, begin: int) -> tuple[float, int, bytes]:
    """Return a run's energy per byte, negative, where it begins, and its payload."""
    values = delta[places]
    length = int(places[-1]) + 1 - begin
    payload = b"".join(
        (
            _HEAD.pack(begin, length, places.size),
            encode_plain_set(places - begin, size=length),
            values.astype("<f4").tobytes(),
        )
    )
    return -float(np.square(values, dtype=np.float64).sum()) / len(payload), begin, payload


def _parse_run(payload: memoryview, layout: Layout) -> SentRun:
    if len(payload) < _HEAD.size:
        raise CorruptSegment(f"{len(payload)} bytes hold no start, length and count")
    begin, length, count = _HEAD.unpack_from(payload)
    if length < 1 or begin + length > layout.size or count > length:
        raise CorruptSegment(f"{count} of {length} coordinates from {begin} of {layout.size}")
    if len(payload) != _HEAD.size + plain_set_bytes(count, length) + _VALUE_BYTES * count:
        raise CorruptSegment(f"{len(payload)} bytes are not those of {count:,} values")
    places, used = take_plain_set(payload[_HEAD.size :], count=count, size=length)
    values = np.frombuffer(payload, dtype="<f4", offset=_HEAD.size + used).astype(np.float32)
    if not np.isfinite(values).all():
        raise NonFinite("a value is NaN or infinite")
    return SentRun(begin, begin + length, Sent(places + begin, values))


FLASC: Final = Flasc()
