from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codec.codec import Budget, Order
from codec.errors import CodecError, CorruptSegment, InvalidInput, NonFinite
from codec.layout import Layout
from codec.reference.top_k import TOP_K
from codec.segment import pack
from codec.sets import encode_set

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def encode(delta: np.ndarray, layout: Layout, budget: Budget) -> tuple[bytes, ...]:
    return TOP_K.encode(delta, None, layout=layout, budget=budget, seed=0)


def decode(segments: dict[int, bytes], layout: Layout, count: int) -> np.ndarray:
    total = np.zeros(layout.size)
    TOP_K.accumulate(segments, layout=layout, segment_count=count, weight=1, total=total)
    return total


def payload_of(places: list[int], values: list[float], size: int) -> bytes:
    coded = encode_set(np.array(places, dtype=np.int64), size=size)
    return struct.pack("<I", len(places)) + coded + np.array(values, dtype="<f2").tobytes()


def test_it_is_an_ordered_codec() -> None:
    assert (TOP_K.name, TOP_K.codec_id) == ("top-k", 9)
    assert (TOP_K.order, TOP_K.dense) == (Order.ORDERED, False)


def test_segments_hold_falling_magnitudes(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([5000])
    delta, _ = draw(5000, 2)
    segments = encode(delta, layout, Budget(3000, 500))
    assert len(segments) > 3
    least = np.inf
    for index, segment in enumerate(segments):
        decoded = np.abs(decode({index: segment}, layout, len(segments)))
        assert decoded.max() <= least
        least = decoded[decoded > 0].min()


def test_a_delta_of_zeros_is_one_segment_that_sends_nothing(layout_of: LayoutOf) -> None:
    segments = encode(np.zeros(50, np.float32), layout_of([50]), Budget(500, 500))
    assert [len(segment) for segment in segments] == [36]


def test_it_needs_a_budget(layout_of: LayoutOf) -> None:
    with pytest.raises(InvalidInput, match="budget of bytes"):
        encode(np.ones(5, np.float32), layout_of([5]), Budget(None, 500))


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"\0\0\0", CorruptSegment),
        (struct.pack("<I", 21), CorruptSegment),
        (struct.pack("<I", 0xFFFF_FFFF), CorruptSegment),
        (struct.pack("<I", 2) + bytes(3), CorruptSegment),
        (payload_of([1, 5], [1, 2], 20)[:-2], CorruptSegment),
        (payload_of([1, 5], [1, 2], 20) + b"\0", CorruptSegment),
        (payload_of([1, 25], [1, 2], 30), CorruptSegment),
        (payload_of([1, 5], [1, np.inf], 20), NonFinite),
        (payload_of([1, 5], [np.nan, 1], 20), NonFinite),
    ],
)
def test_a_payload_that_is_not_legal_is_refused(
    layout_of: LayoutOf, payload: bytes, error: type[CodecError]
) -> None:
    layout = layout_of([20])
    segment = pack(payload, codec_id=9, index=0, count=1, layout=layout)
    with pytest.raises(error):
        decode({0: segment}, layout, 1)


def test_a_coordinate_in_two_segments_is_refused_and_nothing_is_added(layout_of: LayoutOf) -> None:
    layout = layout_of([20])
    segments = {
        index: pack(payload_of(places, [1, 1], 20), codec_id=9, index=index, count=2, layout=layout)
        for index, places in enumerate(([1, 5], [5, 7]))
    }
    total = np.zeros(20)
    with pytest.raises(CorruptSegment, match="same coordinate"):
        TOP_K.accumulate(segments, layout=layout, segment_count=2, weight=1, total=total)
    assert not total.any()
