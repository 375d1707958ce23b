from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import limits
from codec.errors import CodecError, CorruptSegment, InvalidInput, LimitExceeded
from codec.layout import Layout

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
SHAPES = st.lists(st.integers(1, 4), max_size=4)
LAYOUTS = st.dictionaries(NAMES, SHAPES, min_size=1, max_size=6).map(Layout.from_shapes)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def test_tensors_are_sorted_and_lie_side_by_side() -> None:
    layout = Layout.from_shapes({"b": [2, 3], "a": [4], "c": []})
    assert [(t.name, t.shape, t.offset, t.size, t.end) for t in layout.tensors] == [
        ("a", (4,), 0, 4, 4),
        ("b", (2, 3), 4, 6, 10),
        ("c", (), 10, 1, 11),
    ]
    assert layout.size == 11


def test_digest_is_the_hash_of_the_specified_description() -> None:
    layout = Layout.from_shapes({"b": [2, 3], "a": [4]})
    description = b"fedfstq layout\0\1" + bytes([2, 0, 0, 0])
    description += b"\1\0a" + bytes([1, 4, 0, 0, 0])
    description += b"\1\0b" + bytes([2, 2, 0, 0, 0, 3, 0, 0, 0])
    assert layout.digest == hashlib.sha256(description).digest()


def test_digest_tells_shapes_of_one_size_apart() -> None:
    digests = {
        Layout.from_shapes(shapes).digest
        for shapes in ({"a": [6]}, {"a": [2, 3]}, {"a": [3, 2]}, {"a": [6, 1]}, {"b": [6]})
    }
    assert len(digests) == 5


@settings(deadline=None, max_examples=60)
@given(LAYOUTS)
def test_json_brings_the_same_layout_back(layout: Layout) -> None:
    assert Layout.from_json(layout.to_json()) == layout
    assert Layout.from_json(layout.to_json()[::-1]) == layout


@settings(deadline=None, max_examples=60)
@given(LAYOUTS, st.integers(0, 2**32 - 1))
def test_flatten_and_unflatten_are_inverse(layout: Layout, seed: int) -> None:
    flat = np.random.default_rng(seed).standard_normal(layout.size).astype(np.float32)
    tensors = layout.unflatten(flat)
    assert {name: array.shape for name, array in tensors.items()} == {
        tensor.name: tensor.shape for tensor in layout.tensors
    }
    np.testing.assert_array_equal(flat, layout.flatten(tensors))


def test_unflatten_gives_writable_copies() -> None:
    layout = Layout.from_shapes({"a": [2, 2]})
    flat = np.zeros(4, dtype=np.float32)
    layout.unflatten(flat)["a"][:] = 1
    assert not flat.any()


def test_flatten_takes_other_dtypes_and_orders_of_memory() -> None:
    layout = Layout.from_shapes({"a": [2, 3], "b": [1]})
    a = np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3))
    flat = layout.flatten({"b": np.array([7], dtype=np.int16), "a": a})
    assert flat.dtype == np.float32
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "names"),
        ({"a": np.zeros((2, 2)), "b": np.zeros(1)}, "'b'"),
        ({"a": np.zeros((1,))}, "shape"),  # numpy would broadcast it
        ({"a": np.zeros((4,))}, "shape"),
        ({"a": np.zeros((2, 2), dtype=np.complex64)}, "dtype"),
        ({"a": np.zeros((2, 2), dtype=object)}, "dtype"),
    ],
)
def test_flatten_refuses_other_tensors(tensors: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        Layout.from_shapes({"a": [2, 2]}).flatten(tensors)


@pytest.mark.parametrize("flat", [np.zeros(3, np.float32), np.zeros(4), np.zeros((1, 4))])
def test_unflatten_refuses_another_size_or_dtype(flat: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match=r"float32 \(4,\)"):
        Layout.from_shapes({"a": [4]}).unflatten(flat)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"": [1]},
        {"é" * 128: [1]},
        {"\ud800": [1]},
        {"a": [0]},
        {"a": [-1]},
        {"a": [1] * 9},
        {"a": [limits.MAX_COORDINATES + 1]},
        {"a": [limits.MAX_COORDINATES], "b": [1]},
    ],
)
def test_shapes_that_no_adapter_has_are_refused(shapes: dict[str, list[int]]) -> None:
    with pytest.raises(InvalidInput):
        Layout.from_shapes(shapes)


def test_too_many_tensors_are_refused() -> None:
    shapes = {str(place): [1] for place in range(limits.MAX_TENSORS + 1)}
    with pytest.raises(InvalidInput, match="16,384"):
        Layout.from_shapes(shapes)
    with pytest.raises(LimitExceeded, match="16,384"):
        Layout.from_json([[name, [1]] for name in shapes])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "ab",
        [["a"]],
        [["a", [1], 2]],
        [["a", "1"]],
        [[1, [1]]],
        [["a", [1]], ["a", [1]]],
        [["a", [0]]],
        [["a", [True]]],
        [["a", [1.0]]],
        [["", [1]]],
        [["\ud800", [1]]],
    ],
)
def test_a_peers_malformed_layout_is_corrupt(value: object) -> None:
    with pytest.raises(CorruptSegment):
        Layout.from_json(value)


@pytest.mark.parametrize(
    "value",
    [
        [["a", [1] * 9]],
        [["a" * 256, [1]]],
        [["a", [1 << 60]]],
        [["a", [1 << 20, 1 << 20]]],
        [["a", [limits.MAX_COORDINATES]], ["b", [1]]],
    ],
)
def test_a_peers_oversized_layout_exceeds_a_limit(value: object) -> None:
    with pytest.raises(LimitExceeded):
        Layout.from_json(value)


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_any_other_json_is_a_layout_or_a_typed_error(value: object) -> None:
    try:
        layout = Layout.from_json(value)
    except CodecError:
        return
    assert layout.size == sum(math.prod(tensor.shape) for tensor in layout.tensors)
