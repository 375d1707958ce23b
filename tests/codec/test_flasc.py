from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codec.codec import Budget, Order
from codec.errors import CodecError, CorruptSegment, NonFinite
from codec.layout import Layout
from codec.plain_sets import encode_plain_set
from codec.reference.flasc import FLASC
from codec.segment import pack

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def encode(delta: np.ndarray, layout: Layout, budget: Budget) -> tuple[bytes, ...]:
    return FLASC.encode(delta, None, layout=layout, budget=budget, seed=0)


def decode(segments: dict[int, bytes], layout: Layout, count: int) -> np.ndarray:
    total = np.zeros(layout.size)
    FLASC.accumulate(segments, layout=layout, segment_count=count, weight=1, total=total)
    return total


def test_it_is_an_ordered_codec() -> None:
    assert (FLASC.name, FLASC.codec_id) == ("flasc", 16)
    assert (FLASC.order, FLASC.dense) == (Order.ORDERED, False)


def test_at_the_papers_density_of_a_quarter_a_bitmap_says_which(
    layout_of: LayoutOf, draw: Draw
) -> None:
    layout = layout_of([40_000])
    delta, _ = draw(layout.size, 2)
    segments = encode(delta, layout, Budget(45_000 + 300, 16_384))
    density = np.count_nonzero(decode(dict(enumerate(segments)), layout, len(segments))) / 40_000
    assert 0.245 < density < 0.255


def test_a_delta_of_zeros_is_one_segment_that_sends_nothing(layout_of: LayoutOf) -> None:
    segments = encode(np.zeros(50, np.float32), layout_of([50]), Budget(500, 500))
    assert [len(segment) for segment in segments] == [44]


def payload_of(
    places: list[int], values: list[float], *, begin: int = 0, length: int = 20
) -> bytes:
    coded = encode_plain_set(np.array(places, dtype=np.int64), size=length)
    head = struct.pack("<III", begin, length, len(places))
    return head + coded + np.array(values, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (bytes(11), CorruptSegment),
        (struct.pack("<III", 0, 0, 0), CorruptSegment),
        (struct.pack("<III", 1, 20, 0), CorruptSegment),
        (struct.pack("<III", 0, 20, 21), CorruptSegment),
        (struct.pack("<III", 0, 20, 20), CorruptSegment),
        (payload_of([1, 5], [1, 2])[:-1], CorruptSegment),
        (payload_of([1, 5], [1, 2]) + b"\0", CorruptSegment),
        (payload_of([1, 25], [1, 2], length=30), CorruptSegment),
        (payload_of([1, 5], [1, np.inf]), NonFinite),
        (payload_of([1, 5], [np.nan, 1]), NonFinite),
    ],
)
def test_a_payload_that_is_not_legal_is_refused(
    layout_of: LayoutOf, payload: bytes, error: type[CodecError]
) -> None:
    layout = layout_of([20])
    segment = pack(payload, codec_id=16, index=0, count=1, layout=layout)
    with pytest.raises(error):
        decode({0: segment}, layout, 1)


def test_runs_that_overlap_are_refused(layout_of: LayoutOf) -> None:
    layout = layout_of([20])
    runs = (payload_of([1], [1], length=9), payload_of([1], [1], begin=8, length=9))
    segments = {
        index: pack(payload, codec_id=16, index=index, count=2, layout=layout)
        for index, payload in enumerate(runs)
    }
    with pytest.raises(CorruptSegment):
        decode(segments, layout, 2)
