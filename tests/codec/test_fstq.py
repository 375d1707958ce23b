from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codec.fstq
from codec import limits
from codec.codec import Budget, Order
from codec.errors import CorruptSegment, InvalidInput, LayoutMismatch, UnsupportedVersion
from codec.fstq import PREAMBLE_BYTES, Fstq
from codec.layout import Layout
from codec.reference.dense import Dense
from codec.segment import parse

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
FSTQ = Fstq()


def encode(
    delta: np.ndarray,
    fisher: np.ndarray | None,
    layout: Layout,
    update_bytes: int,
    segment_bytes: int = 1024,
) -> tuple[bytes, ...]:
    budget = Budget(update_bytes, segment_bytes)
    return FSTQ.encode(delta, fisher, layout=layout, budget=budget, seed=0)


def decode(segments: dict[int, bytes], layout: Layout, count: int) -> np.ndarray:
    total = np.zeros(layout.size)
    FSTQ.accumulate(segments, layout=layout, segment_count=count, weight=1, total=total)
    return total


def round_trip(
    delta: np.ndarray, fisher: np.ndarray | None, layout: Layout, update_bytes: int
) -> np.ndarray:
    segments = encode(delta, fisher, layout, update_bytes)
    return decode(dict(enumerate(segments)), layout, len(segments))


def test_it_is_an_ordered_codec() -> None:
    assert (FSTQ.name, FSTQ.order) == ("fstq", Order.ORDERED)


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    update_bytes=st.integers(limits.MIN_SEGMENT_BYTES, 3000),
    segment_bytes=st.integers(limits.MIN_SEGMENT_BYTES, 1000),
    kind=st.sampled_from(["normal", "equal", "sparse", "heavy", "huge", "tiny"]),
    uniform=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_budget_is_never_exceeded_and_sending_never_hurts(
    *, sizes: list[int], update_bytes: int, segment_bytes: int, kind: str, uniform: bool, seed: int
) -> None:
    layout = Layout.from_shapes({f"{place:02}": [size] for place, size in enumerate(sizes)})
    random = np.random.default_rng(seed)
    normal = random.standard_normal(layout.size)
    drawn = {
        "normal": normal * 1e-3,
        "equal": np.sign(normal) * 2e-4,
        "sparse": np.where(random.random(layout.size) < 0.05, normal, 0),
        "heavy": random.standard_t(2, layout.size),
        "huge": normal * 1e37,
        "tiny": normal * 1e-37,
    }
    delta = drawn[kind].astype(np.float32)
    fisher = None if uniform else random.lognormal(0, 2, layout.size).astype(np.float32)
    segments = encode(delta, fisher, layout, update_bytes, segment_bytes)
    assert sum(map(len, segments)) <= update_bytes
    assert max(map(len, segments)) <= segment_bytes
    decoded = decode(dict(enumerate(segments)), layout, len(segments))
    error = np.abs(decoded - delta)
    assert (error <= np.abs(delta) * (1 + 1e-6)).all()


def test_a_plan_that_was_too_large_is_made_again(layout_of: LayoutOf, draw: Draw) -> None:
    """Five tiny tensors in segments of one or two slices: the ends cost more than was planned."""
    layout = layout_of([2] * 5)
    delta, fisher = draw(layout.size, 2)
    with patch.object(codec.fstq, "cut", wraps=codec.fstq.cut) as cut:
        segments = encode(delta, fisher, layout, 75, 69)
    assert cut.call_count == 2
    assert sum(map(len, segments)) <= 75


@pytest.mark.parametrize("bits", [0.5, 2, 4.8])
def test_the_budget_is_used(layout_of: LayoutOf, draw: Draw, bits: float) -> None:
    layout = layout_of([1500] * 12)
    delta, fisher = draw(layout.size, 1)
    budget = int(layout.size * bits / 8)
    assert sum(map(len, encode(delta, fisher, layout, budget, 8192))) > 0.985 * budget


def test_more_bytes_bring_the_delta_closer(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([700, 1, 33])
    delta, fisher = draw(layout.size, 2)
    errors = [
        float((fisher * (round_trip(delta, fisher, layout, size) - delta) ** 2).sum())
        for size in (64, 150, 300, 600, 1200, 2400)
    ]
    assert all(more > less for more, less in itertools.pairwise(errors))
    assert errors[-1] < 1e-5 * (fisher * delta**2).sum()


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [3, 1, 7, 129], [1023], [64, 64]])
def test_grid_values_come_back_as_they_were(layout_of: LayoutOf, sizes: list[int]) -> None:
    """Whole multiples, -7 to 7, of a dyadic step; in every tensor one of them is 7."""
    layout = layout_of(sizes)
    delta = np.random.default_rng(5).integers(-7, 8, layout.size).astype(np.float32)
    delta[[tensor.offset for tensor in layout.tensors]] = 7
    for step in (2.0**-30, 1.0, 2.0**40):
        grid = (delta * step).astype(np.float32)
        segments = encode(grid, None, layout, 10_000)
        np.testing.assert_array_equal(
            grid, decode(dict(enumerate(segments)), layout, len(segments))
        )
        assert sum(map(len, segments)) < 100 + 40 * len(sizes) + layout.size  # no 16 bits


@pytest.mark.parametrize(
    "shapes",
    [
        {"only": []},
        {"only": [1]},
        {"odd": [3, 7], "one": [1, 1]},
        {"lora_A": [16, 64], "lora_B": [48, 16]},
        {"a": [5, 1, 2], "b": [1], "c": [257]},
    ],
)
def test_ample_budgets_bring_varied_layouts_back(shapes: dict[str, list[int]], draw: Draw) -> None:
    layout = Layout.from_shapes(shapes)
    delta, fisher = draw(layout.size, 3)
    decoded = round_trip(delta, fisher, layout, 100_000)
    error = float((fisher * (decoded - delta) ** 2).sum())
    assert error <= 1e-4 * float((fisher * delta**2).sum())


def test_any_subset_of_segments_decodes_to_its_part(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([300, 90, 1, 210])
    delta, fisher = draw(layout.size, 4)
    segments = dict(enumerate(encode(delta, fisher, layout, 560, 128)))
    count = len(segments)
    assert count >= 4
    alone = [decode({index: segments[index]}, layout, count) for index in segments]
    assert all(
        (first == 0)[second != 0].all() for first, second in itertools.combinations(alone, 2)
    )
    for size in range(count + 1):
        for chosen in itertools.combinations(segments, size):
            part = decode({index: segments[index] for index in chosen}, layout, count)
            expected = sum((alone[index] for index in chosen), np.zeros(layout.size))
            np.testing.assert_array_equal(expected, part)


def test_what_matters_most_comes_first(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([400] * 6)
    delta, _ = draw(layout.size, 6)
    fisher = np.repeat(np.array([1, 100, 10, 1e-3, 1e4, 1e-2], np.float32), 400)
    segments = encode(delta, fisher, layout, 1500, 400)
    avoided = []
    for index, segment in enumerate(segments):
        part = decode({index: segment}, layout, len(segments))
        gain = fisher * (delta.astype(np.float64) ** 2 - (delta - part) ** 2)
        avoided.append(gain.sum() / len(segment))
    # Whole tensors are ordered; the pieces of one tensor differ a little among themselves.
    assert all(first > 0.9 * second for first, second in itertools.pairwise(avoided))
    assert avoided[0] > 10 * avoided[-1]
    first = decode({0: segments[0]}, layout, len(segments))
    assert first[1600:2000].any()


def test_fisher_decides_what_is_sent(layout_of: LayoutOf) -> None:
    layout = layout_of([200])
    delta = np.full(200, 0.01, dtype=np.float32)
    fisher = np.full(200, 1e-6, dtype=np.float32)
    fisher[[3, 77, 140]] = 1
    decoded = round_trip(delta, fisher, layout, 64)
    assert {3, 77, 140} <= set(np.flatnonzero(decoded).tolist())


@pytest.mark.parametrize("fisher", [None, np.zeros(50, np.float32), np.full(50, 7, np.float32)])
def test_a_flat_fisher_is_like_none(
    layout_of: LayoutOf, draw: Draw, fisher: np.ndarray | None
) -> None:
    layout = layout_of([50])
    delta, _ = draw(50, 7)
    assert encode(delta, fisher, layout, 90) == encode(delta, None, layout, 90)


def test_the_sign_goes_through(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([90, 31])
    delta, fisher = draw(layout.size, 8)
    for budget in (64, 100, 400):
        np.testing.assert_array_equal(
            -round_trip(delta, fisher, layout, budget), round_trip(-delta, fisher, layout, budget)
        )


@pytest.mark.parametrize("power", [-6, -1, 1, 6])
def test_powers_of_two_go_through(layout_of: LayoutOf, power: int) -> None:
    """As long as float16's normal range holds the values."""
    layout = layout_of([90, 31])
    random = np.random.default_rng(9)
    delta = (random.uniform(0.05, 1, layout.size) * random.choice([-1, 0, 1], layout.size)).astype(
        np.float32
    )
    fisher = random.random(layout.size).astype(np.float32)
    factor = np.float32(2.0**power)
    for budget in (64, 100, 400):
        np.testing.assert_array_equal(
            factor * round_trip(delta, fisher, layout, budget),
            round_trip(factor * delta, fisher, layout, budget),
        )


def test_the_scale_of_fisher_does_not_matter(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([90, 31])
    delta, fisher = draw(layout.size, 10)
    for factor in (2.0**-60, 2.0**60):
        scaled = (fisher * np.float32(factor)).astype(np.float32)
        assert encode(delta, scaled, layout, 150) == encode(delta, fisher, layout, 150)


def test_a_zero_delta_is_one_segment_without_slices(layout_of: LayoutOf) -> None:
    layout = layout_of([9])
    (segment,) = encode(np.zeros(9, np.float32), None, layout, 64)
    assert len(segment) == PREAMBLE_BYTES
    assert not decode({0: segment}, layout, 1).any()


def test_the_smallest_budget_sends_something_of_any_layout(layout_of: LayoutOf) -> None:
    layout = layout_of([limits.MAX_COORDINATES // 512])
    delta = np.zeros(layout.size, np.float32)
    delta[layout.size // 2] = 0.25
    (segment,) = encode(delta, None, layout, limits.MIN_SEGMENT_BYTES, limits.MIN_SEGMENT_BYTES)
    np.testing.assert_array_equal(delta, decode({0: segment}, layout, 1))


def test_the_same_input_gives_the_same_bytes(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([200, 200])
    delta, fisher = draw(layout.size, 11)
    kept = delta.copy(), fisher.copy()
    assert encode(delta, fisher, layout, 200) == encode(delta, fisher, layout, 200)
    np.testing.assert_array_equal(kept, (delta, fisher))


def test_weights_scale_what_is_added(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([60])
    delta, fisher = draw(60, 12)
    segments = dict(enumerate(encode(delta, fisher, layout, 120)))
    total = np.ones(60)
    FSTQ.accumulate(segments, layout=layout, segment_count=len(segments), weight=2.5, total=total)
    np.testing.assert_allclose(total, 1 + 2.5 * decode(segments, layout, len(segments)))


def test_no_segments_add_nothing(layout_of: LayoutOf) -> None:
    assert not decode({}, layout_of([5]), 3).any()


@pytest.fixture
def update(layout_of: LayoutOf, draw: Draw) -> tuple[Layout, dict[int, bytes]]:
    layout = layout_of([300, 40])
    delta, fisher = draw(layout.size, 13)
    return layout, dict(enumerate(encode(delta, fisher, layout, 300, 128)))


def test_nothing_is_added_where_one_segment_is_damaged(
    update: tuple[Layout, dict[int, bytes]],
) -> None:
    layout, segments = update
    last = max(segments)
    segments[last] = segments[last][:-1] + bytes([segments[last][-1] ^ 1])
    total = np.zeros(layout.size)
    with pytest.raises(CorruptSegment):
        FSTQ.accumulate(segments, layout=layout, segment_count=len(segments), weight=1, total=total)
    assert not total.any()


def test_a_coordinate_that_comes_twice_is_refused(
    update: tuple[Layout, dict[int, bytes]], reseal: Callable[[bytes], bytes]
) -> None:
    layout, segments = update
    again = bytearray(segments[0])
    again[8] = 1
    segments[1] = reseal(bytes(again))
    with pytest.raises(CorruptSegment, match="two parts"):
        decode(segments, layout, len(segments))


def test_segments_out_of_place_are_refused(update: tuple[Layout, dict[int, bytes]]) -> None:
    layout, segments = update
    count = len(segments)
    with pytest.raises(CorruptSegment):
        decode({1: segments[0]}, layout, count)
    with pytest.raises(CorruptSegment):
        decode(segments, layout, count + 1)
    with pytest.raises(LayoutMismatch):
        decode(segments, Layout.from_shapes({"other": [layout.size]}), count)


def test_another_codecs_segments_are_refused(layout_of: LayoutOf) -> None:
    layout = layout_of([4])
    delta = np.ones(4, np.float32)
    (segment,) = Dense().encode(delta, None, layout=layout, budget=Budget(None, 1024), seed=0)
    with pytest.raises(UnsupportedVersion):
        decode({0: segment}, layout, 1)


def test_budgets_that_no_update_fits_are_refused(layout_of: LayoutOf) -> None:
    layout = layout_of([9])
    delta = np.ones(9, np.float32)
    for budget in (Budget(None, 1024), Budget(63, 1024), Budget(64, 63)):
        with pytest.raises(InvalidInput):
            FSTQ.encode(delta, None, layout=layout, budget=budget, seed=0)


def test_wrong_arrays_are_refused(layout_of: LayoutOf) -> None:
    layout = layout_of([3])
    good = np.ones(3, np.float32)
    for delta, fisher in ((good[:2], None), (good, good[:1]), (good, -good), (good * np.nan, good)):
        with pytest.raises(InvalidInput):
            encode(delta, fisher, layout, 100)


def test_more_segments_than_an_update_may_have_are_refused(
    layout_of: LayoutOf, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of([300])
    delta, fisher = draw(300, 14)
    monkeypatch.setattr(limits, "MAX_SEGMENTS", 2)
    with pytest.raises(InvalidInput, match="larger segments"):
        encode(delta, fisher, layout, 700, 64)


def test_all_support_forms_are_used_where_they_are_smallest(layout_of: LayoutOf) -> None:
    layout = layout_of([4000])
    random = np.random.default_rng(15)
    forms = []
    for density in (0.01, 0.2, 1.0):
        sent = random.random(4000) < density
        delta = np.where(sent, random.choice([-1.0, 1.0], 4000), 0).astype(np.float32)
        (segment,) = encode(delta, None, layout, 10_000, 20_000)
        np.testing.assert_array_equal(delta, decode({0: segment}, layout, 1))
        forms.append(parse(segment).payload[4] & 3)
    assert forms == [2, 1, 0]
