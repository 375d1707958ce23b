from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import limits
from codec.codec import Budget, Order
from codec.errors import CodecError, CorruptSegment, InvalidInput, NonFinite, UnsupportedVersion
from codec.layout import Layout
from codec.reference.dense import Dense, dense_bytes
from codec.segment import pack

LayoutOf = Callable[[Sequence[int]], Layout]
DENSE = Dense()


def encode(delta: np.ndarray, layout: Layout, budget: Budget) -> tuple[bytes, ...]:
    return DENSE.encode(delta, None, layout=layout, budget=budget, seed=0)


def decode(segments: dict[int, bytes], layout: Layout, count: int) -> np.ndarray:
    total = np.zeros(layout.size)
    DENSE.accumulate(segments, layout=layout, segment_count=count, weight=1, total=total)
    return total


def test_it_is_an_ordered_codec() -> None:
    assert (DENSE.name, DENSE.order) == ("fp32", Order.ORDERED)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(64, 300), st.data())
def test_every_value_comes_back_exactly(
    sizes: list[int], segment_bytes: int, data: st.DataObject
) -> None:
    layout = Layout.from_shapes({str(place): [size] for place, size in enumerate(sizes)})
    seed = data.draw(st.integers(0, 2**32 - 1))
    bits = np.random.default_rng(seed).integers(0, 2**32, layout.size, dtype=np.uint32)
    delta = bits.view(np.float32)
    delta = np.where(np.isfinite(delta), delta, 0).astype(np.float32)
    segments = encode(delta, layout, Budget(None, segment_bytes))
    assert max(map(len, segments)) <= segment_bytes
    assert sum(map(len, segments)) == dense_bytes(layout, segment_bytes=segment_bytes)
    decoded = decode(dict(enumerate(segments)), layout, len(segments))
    np.testing.assert_array_equal(decoded, delta)


def test_any_subset_decodes_to_its_slices(layout_of: LayoutOf) -> None:
    layout = layout_of([20])
    delta = np.arange(1, 21).astype(np.float32)
    segments = encode(delta, layout, Budget(None, 64))
    assert len(segments) == 3
    decoded = decode({2: segments[2], 0: segments[0]}, layout, 3)
    assert decoded.tolist() == [*range(1, 8), *[0] * 7, *range(15, 21)]


def test_a_budget_that_holds_it_is_no_obstacle(layout_of: LayoutOf) -> None:
    layout = layout_of([10])
    delta = np.ones(10, np.float32)
    size = dense_bytes(layout, segment_bytes=1024)
    assert size == 76
    assert encode(delta, layout, Budget(size, 1024)) == encode(delta, layout, Budget(None, 1024))
    with pytest.raises(InvalidInput, match="76 bytes"):
        encode(delta, layout, Budget(size - 1, 1024))


def test_wrong_arrays_are_refused(layout_of: LayoutOf) -> None:
    with pytest.raises(InvalidInput):
        encode(np.ones(3, np.float32), layout_of([4]), Budget(None, 1024))
    with pytest.raises(InvalidInput):
        encode(np.full(4, np.inf, np.float32), layout_of([4]), Budget(None, 1024))


def test_more_segments_than_an_update_may_have_are_refused(
    layout_of: LayoutOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_SEGMENTS", 2)
    with pytest.raises(InvalidInput, match="larger segments"):
        encode(np.ones(30, np.float32), layout_of([30]), Budget(None, 64))


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", CorruptSegment),
        (struct.pack("<I", 0), CorruptSegment),
        (struct.pack("<If", 0, 1) + b"\0", CorruptSegment),
        (struct.pack("<If", 4, 1), CorruptSegment),
        (struct.pack("<I5f", 0, 1, 1, 1, 1, 1), CorruptSegment),
        (struct.pack("<If", 0xFFFF_FFFF, 1), CorruptSegment),
        (struct.pack("<If", 0, float("nan")), NonFinite),
        (struct.pack("<If", 0, float("inf")), NonFinite),
    ],
)
def test_a_payload_that_is_not_legal_is_refused(
    layout_of: LayoutOf, payload: bytes, error: type[CodecError]
) -> None:
    layout = layout_of([4])
    with pytest.raises(error):
        decode({0: pack(payload, codec_id=1, index=0, count=1, layout=layout)}, layout, 1)


def test_coordinates_that_come_twice_are_refused_and_nothing_is_added(
    layout_of: LayoutOf,
) -> None:
    layout = layout_of([4])
    segments = {
        index: pack(
            struct.pack("<I2f", start, 1, 1), codec_id=1, index=index, count=2, layout=layout
        )
        for index, start in enumerate((0, 1))
    }
    total = np.zeros(4)
    with pytest.raises(CorruptSegment, match="two parts"):
        DENSE.accumulate(segments, layout=layout, segment_count=2, weight=1, total=total)
    assert not total.any()


def test_another_codecs_segments_are_refused(layout_of: LayoutOf) -> None:
    layout = layout_of([4])
    segment = pack(struct.pack("<If", 0, 1), codec_id=2, index=0, count=1, layout=layout)
    with pytest.raises(UnsupportedVersion):
        decode({0: segment}, layout, 1)
