from __future__ import annotations

import contextlib
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import limits
from codec.errors import CorruptSegment, NonFinite
from codec.layout import Layout
from codec.slices import (
    COUNT,
    ONE_COORDINATE_BYTES,
    Slice,
    Support,
    index_width,
    pack_slice,
    parse_slices,
    slice_bytes,
    tag_and_support_bits,
)

SCALES = {1: np.float32(0.5), 2: np.float32(0.25)}
HALF = struct.pack("<e", 1.5)
F32 = struct.pack("<f", 0.5)


def parse_one(body: bytes, size: int, *, slices: int = 1) -> list[Slice]:
    layout = Layout.from_shapes({"a": [3], "b": [size]})
    return parse_slices(memoryview(COUNT.pack(slices) + body), layout=layout)


def smallest(classes: list[int], *, partial: bool) -> int:
    """Count a slice's bytes from the table in SPEC.md."""
    n, k = len(classes), sum(map(bool, classes))
    tags = math.ceil(2 * k / 8)
    width = math.ceil(math.log2(n))
    forms = (
        math.ceil(2 * n / 8),
        math.ceil(n / 8) + tags,
        4 + math.ceil(width * k / 8) + tags,
    )
    values = math.ceil(classes.count(1) / 4) + math.ceil(classes.count(2) / 2)
    scales = 4 * ((1 in classes) + (2 in classes))
    return 3 + 8 * partial + scales + min(forms) + values + 2 * classes.count(3)


CLASSES = st.one_of(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.tuples(st.integers(1, 300), st.integers(1, 3)).map(lambda c: [0] * c[0] + [c[1]]),
    st.tuples(st.integers(1, 60), st.integers(1, 3)).map(lambda c: [c[1], 0, 0] * c[0]),
).filter(any)


@settings(deadline=None, max_examples=200)
@given(classes=CLASSES, partial=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_a_slice_comes_back_and_has_the_size_foretold(
    *, classes: list[int], partial: bool, seed: int
) -> None:
    tags = np.array(classes, dtype=np.uint8)
    grid = np.random.default_rng(seed).integers(0, 3, tags.size) - 1
    values = (grid * 0.5).astype(np.float32)
    begin = 5 if partial else 0
    packed = pack_slice(
        values, tags, tensor_index=1, begin=begin, partial=partial, scales=SCALES
    )  # fmt: skip
    assert len(packed) == smallest(classes, partial=partial)
    sent = np.array([[classes.count(c) for c in (1, 2, 3)]], dtype=np.int64)
    lengths = np.array([tags.size], dtype=np.int64)
    assert slice_bytes(lengths, sent, partial=partial).tolist() == [len(packed)]

    (part,) = parse_one(packed, tags.size + 9 * partial)
    assert (part.begin, part.end) == (3 + begin, 3 + begin + tags.size)
    assert (part.positions - part.begin).tolist() == np.flatnonzero(tags).tolist()
    np.testing.assert_array_equal(values[tags > 0], part.values)


def test_nothing_sent_takes_nothing() -> None:
    lengths = np.array([1, 9], dtype=np.int64)
    assert slice_bytes(lengths, np.zeros((2, 3), np.int64), partial=True).tolist() == [0, 0]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_coordinate_in_a_slice_of_its_own_fits_the_room_that_counts_as_full(number: int) -> None:
    packed = pack_slice(
        np.array([0.5], np.float32),
        np.array([number], np.uint8),
        tensor_index=0,
        begin=2,
        partial=True,
        scales=SCALES,
    )
    assert len(packed) <= ONE_COORDINATE_BYTES


@pytest.mark.parametrize(("length", "width"), [(1, 0), (2, 1), (3, 2), (256, 8), (257, 9)])
def test_indices_take_as_many_bits_as_their_slice_needs(length: int, width: int) -> None:
    assert index_width(length) == width
    assert tag_and_support_bits(Support.INDICES, length=length) == 2 + width
    assert tag_and_support_bits(Support.BITMAP, length=length) == 2
    assert tag_and_support_bits(Support.TAGS, length=length) == 0


def head(form: int, tensor: int = 1) -> bytes:
    return struct.pack("<HB", tensor, form)


TAGS, BITMAP, INDICES, PARTIAL, ONE, TWO = 0, 1, 2, 4, 8, 16
WHOLE = head(TAGS) + b"\x03" + HALF

CORRUPT = {
    "reserved support": head(3) + b"\x03" + HALF,
    "reserved bits": head(0x20) + b"\x03" + HALF,
    "tensor out of the layout": head(TAGS, 2) + b"\x03" + HALF,
    "range of no length": head(PARTIAL) + struct.pack("<II", 0, 0) + HALF,
    "range over the whole": head(PARTIAL) + struct.pack("<II", 0, 4) + b"\x03" + HALF,
    "range beyond the end": head(PARTIAL) + struct.pack("<II", 2, 3) + b"\x03" + HALF,
    "huge range": head(PARTIAL) + struct.pack("<II", 0xFFFF_FFFF, 0xFFFF_FFFF) + b"\x03" + HALF,
    "nothing sent": head(TAGS) + b"\0",
    "no index": head(INDICES) + struct.pack("<I", 0),
    "huge count of indices": head(INDICES) + struct.pack("<I", 0xFFFF_FFFF) + b"\0",
    "indices that repeat": head(INDICES) + struct.pack("<I", 2) + b"\x05\x0f" + 2 * HALF,
    "indices that fall": head(INDICES) + struct.pack("<I", 2) + b"\x01\x0f" + 2 * HALF,
    "tag 0 after a bitmap": head(BITMAP) + b"\x03\x03" + HALF,
    "tag 0 after indices": head(INDICES) + struct.pack("<I", 1) + b"\x01\x00",
    "padding of a bitmap": head(BITMAP) + b"\x13\x0f" + 2 * HALF,
    "padding of tags": head(BITMAP) + b"\x01\xf3" + HALF,
    "scale without members": head(TAGS | ONE) + F32 + b"\x03" + HALF,
    "members without a scale": head(TAGS) + b"\x01\x02",
    "scale of zero": head(TAGS | ONE) + struct.pack("<f", 0) + b"\x01\x02",
    "negative scale": head(TAGS | ONE) + struct.pack("<f", -1) + b"\x01\x02",
    "reserved level of 2 bits": head(TAGS | ONE) + F32 + b"\x01\x03",
    "reserved level of 4 bits": head(TAGS | TWO) + F32 + b"\x02\x0f",
    "bytes after the last slice": WHOLE + b"\0",
    "cut short": WHOLE[:-1],
    "nothing at all": b"",
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_slice_that_is_not_legal_is_corrupt(name: str) -> None:
    assert len(parse_one(WHOLE, 4)) == 1
    with pytest.raises(CorruptSegment):
        parse_one(CORRUPT[name], 4)


@pytest.mark.parametrize("name", CORRUPT)
def test_no_lie_about_a_length_takes_memory(name: str) -> None:
    """In the largest tensor that there can be, of which no field may be believed."""
    tracemalloc.start()
    try:
        # Two of the ranges are legal here.
        with contextlib.suppress(CorruptSegment):
            parse_one(CORRUPT[name], limits.MAX_COORDINATES - 3)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_index_beyond_its_slice_is_corrupt() -> None:
    body = head(INDICES) + struct.pack("<I", 1) + b"\x03\x03" + HALF
    assert parse_one(body, 4)[0].positions.tolist() == [6]
    with pytest.raises(CorruptSegment, match="leave their slice"):
        parse_one(body, 3)


@pytest.mark.parametrize("order", [(1, 1), (1, 0)])
def test_tensors_of_a_segment_must_ascend(order: tuple[int, int]) -> None:
    body = b"".join(head(TAGS, tensor) + b"\x03" + HALF for tensor in order)
    with pytest.raises(CorruptSegment, match="follows"):
        parse_one(body, 4, slices=2)


@pytest.mark.parametrize(
    "body",
    [
        head(TAGS | ONE) + struct.pack("<f", math.inf) + b"\x01\x02",
        head(TAGS | ONE) + struct.pack("<f", math.nan) + b"\x01\x02",
        head(TAGS | TWO) + struct.pack("<f", 3e38) + b"\x02\x0e",
        head(TAGS) + b"\x03" + struct.pack("<e", math.inf),
        head(TAGS) + b"\x03" + struct.pack("<e", math.nan),
    ],
)
def test_scales_and_values_that_are_not_finite_are_refused(body: bytes) -> None:
    with pytest.raises(NonFinite):
        parse_one(body, 4)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.integers(1, 50))
def test_any_bytes_are_slices_or_a_typed_error(body: bytes, size: int) -> None:
    try:
        parts = parse_one(body, size, slices=2)
    except (CorruptSegment, NonFinite):
        return
    assert all(np.isfinite(part.values).all() for part in parts)
