from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.cutting import best_first, cut
from codec.layout import Layout
from codec.slices import COUNT, parse_slices

LayoutOf = Callable[[Sequence[int]], Layout]
ONES = {1: np.float32(1), 2: np.float32(1)}


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=5),
    st.integers(32, 400),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_payloads_hold_every_coordinate_once_and_never_outgrow(
    sizes: list[int], payload_bytes: int, density: float, seed: int
) -> None:
    layout = Layout.from_shapes({f"{place:02}": [size] for place, size in enumerate(sizes)})
    random = np.random.default_rng(seed)
    delta = (random.random(layout.size) + 0.5).astype(np.float32)
    kinds = random.integers(1, 4, layout.size)
    classes = np.where(random.random(layout.size) < density, kinds, 0).astype(np.uint8)
    order = [
        int(place)
        for place in random.permutation(len(sizes))
        if classes[layout.tensors[place].offset : layout.tensors[place].end].any()
    ]
    payloads = cut(
        delta,
        classes,
        layout=layout,
        order=order,
        scales=[ONES] * len(sizes),
        payload_bytes=payload_bytes,
    )
    assert max(map(len, payloads)) <= payload_bytes
    parts = [p for payload in payloads for p in parse_slices(memoryview(payload), layout=layout)]
    sent = np.sort(np.concatenate([part.positions for part in parts] or [np.array([], int)]))
    assert np.flatnonzero(classes).tolist() == sent.tolist()
    tensors = [_tensor_of(layout, part.begin) for part in parts]
    assert list(dict.fromkeys(sorted(tensors))) == sorted(order)


def _tensor_of(layout: Layout, coordinate: int) -> int:
    return next(place for place, tensor in enumerate(layout.tensors) if coordinate < tensor.end)


def test_nothing_to_send_is_one_payload_without_slices(layout_of: LayoutOf) -> None:
    delta, classes = np.zeros(3, np.float32), np.zeros(3, np.uint8)
    payloads = cut(delta, classes, layout=layout_of([3]), order=[], scales=[{}], payload_bytes=32)
    assert payloads == [COUNT.pack(0)]


def test_tensors_come_in_the_order_asked_for(layout_of: LayoutOf) -> None:
    layout = layout_of([100, 100, 100])
    ones, classes = np.ones(300, np.float32), np.full(300, 3, np.uint8)
    payloads = cut(
        ones, classes, layout=layout, order=[2, 0, 1], scales=[{}] * 3, payload_bytes=240
    )
    firsts = [parse_slices(memoryview(p), layout=layout)[0].begin for p in payloads]
    assert firsts[0] == 200
    parts = [p for payload in payloads for p in parse_slices(memoryview(payload), layout=layout)]
    assert parts[-1].end == 200


def test_a_cut_tensor_has_the_same_scales_in_all_of_its_slices(layout_of: LayoutOf) -> None:
    layout = layout_of([400])
    delta = np.linspace(0.1, 7, 400).astype(np.float32)
    payloads = cut(
        delta,
        np.full(400, 2, np.uint8),
        layout=layout,
        order=[0],
        scales=[ONES],
        payload_bytes=100,
    )
    assert len(payloads) > 1
    parts = [p for payload in payloads for p in parse_slices(memoryview(payload), layout=layout)]
    np.testing.assert_array_equal(
        np.concatenate([part.values for part in parts]), np.rint(delta).astype(np.float32)
    )


def test_the_error_avoided_per_byte_decides_which_tensor_is_first(layout_of: LayoutOf) -> None:
    layout = layout_of([10, 10, 400, 10])
    classes = np.zeros(layout.size, dtype=np.uint8)
    classes[[0, 1]] = 1
    classes[20:420] = 3
    classes[420] = 1
    assert best_first(classes, np.array([5.0, 0.0, 9.0, 8.0]), layout=layout) == [3, 0, 2]
    assert best_first(classes * 0, np.zeros(4), layout=layout) == []
