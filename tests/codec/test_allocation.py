from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.allocation import Counts, allocate
from codec.gains import captured, class_gains, thresholds
from codec.layout import Layout
from codec.slices import CLASS_BITS, Support, tag_and_support_bits

LayoutOf = Callable[[Sequence[int]], Layout]


def costs(layout: Layout, support: Support) -> np.ndarray:
    """Bits of a coordinate in each class, (tensors, 4)."""
    rows = []
    for tensor in layout.tensors:
        extra = tag_and_support_bits(support, length=tensor.size)
        rows.append([0, *(width + extra for width in CLASS_BITS[1:])])
    return np.array(rows)


def run(
    delta: np.ndarray, weights: np.ndarray, layout: Layout, support: Support, bits: int
) -> np.ndarray:
    price = costs(layout, support)[:, 1:]

    def fits(counts: Counts) -> bool:
        return int((counts * price).sum()) <= bits

    steps = thresholds(delta, weights, layout=layout, support=support)
    return allocate(steps, fits=fits, seed=0)


def gains_of(delta: np.ndarray, weights: np.ndarray, layout: Layout) -> np.ndarray:
    """Gain of each class, (4, size), from the same scales."""
    gains = np.zeros((4, layout.size))
    for tensor in layout.tensors:
        window = slice(tensor.offset, tensor.end)
        gains[1:, window] = class_gains(
            delta[window], weights[window], peak=np.abs(delta[window]).max()
        )
    return gains


def spent(classes: np.ndarray, layout: Layout, support: Support) -> int:
    price = costs(layout, support)
    return sum(
        int(price[place, classes[tensor.offset : tensor.end]].sum())
        for place, tensor in enumerate(layout.tensors)
    )


def best_by_force(gains: np.ndarray, layout: Layout, support: Support, bits: int) -> float:
    size = layout.size
    return max(
        float(gains[classes, range(size)].sum())
        for classes in itertools.product(range(4), repeat=size)
        if spent(np.array(classes), layout, support) <= bits
    )


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(5,), (1, 4), (2, 3)]),
    st.sampled_from(Support),
    st.integers(0, 100),
)
def test_allocation_is_optimal_for_what_it_spends(
    seed: int, sizes: tuple[int, ...], support: Support, bits: int
) -> None:
    """Against brute force: nothing gains more with as many bits; the rest holds no whole step."""
    layout = Layout.from_shapes({f"{place}": [size] for place, size in enumerate(sizes)})
    random = np.random.default_rng(seed)
    delta = random.standard_normal(layout.size).astype(np.float32)
    weights = random.lognormal(0, 1, layout.size).astype(np.float32)
    classes = run(delta, weights, layout, support, bits)
    gains = gains_of(delta, weights, layout)
    gained = gains[classes, range(layout.size)].sum()
    used = spent(classes, layout, support)
    assert used <= bits
    assert gained == pytest.approx(best_by_force(gains, layout, support, used), rel=1e-6)
    one_step = gains.max()
    assert best_by_force(gains, layout, support, bits) <= gained + one_step + 1e-9
    assert captured(classes, delta, weights, layout=layout).sum() == pytest.approx(gained)


def test_more_budget_never_gains_less(layout_of: LayoutOf) -> None:
    layout = layout_of([40, 7, 1])
    random = np.random.default_rng(3)
    delta = random.standard_normal(layout.size).astype(np.float32)
    weights = random.random(layout.size).astype(np.float32)
    gained = [
        captured(
            run(delta, weights, layout, Support.BITMAP, bits), delta, weights, layout=layout
        ).sum()
        for bits in range(0, 1000, 20)
    ]
    assert all(less <= more + 1e-12 for less, more in itertools.pairwise(gained))
    assert gained[0] == 0 < gained[-1]


def test_values_under_half_the_maximum_never_get_two_bits(layout_of: LayoutOf) -> None:
    """A max-scaled class of 2 bits would send them as zero."""
    layout = layout_of([100])
    delta = np.linspace(-1, 1, 100).astype(np.float32)
    weights = np.ones(100, dtype=np.float32)
    for bits in range(0, 2000, 50):
        classes = run(delta, weights, layout, Support.TAGS, bits)
        assert (np.abs(delta[classes == 1]) > 0.5).all()


def test_importance_decides_where_magnitudes_are_equal(layout_of: LayoutOf) -> None:
    layout = layout_of([6])
    delta = np.full(6, 0.5, dtype=np.float32)
    weights = np.array([1, 5, 2, 9, 0, 3], dtype=np.float32)
    classes = run(delta, weights, layout, Support.BITMAP, 3 * (2 + 2))
    assert np.flatnonzero(classes).tolist() == [1, 3, 5]


def test_what_matters_nothing_is_never_sent(layout_of: LayoutOf) -> None:
    layout = layout_of([4, 2])
    delta = np.array([1, 0, 1, 1, 0, 0], dtype=np.float32)
    weights = np.array([1, 1, 0, 1, 1, 1], dtype=np.float32)
    classes = run(delta, weights, layout, Support.TAGS, 10**6)
    assert np.flatnonzero(classes).tolist() == [0, 3]


def test_values_on_the_grid_get_no_more_bits_than_they_need(layout_of: LayoutOf) -> None:
    layout = layout_of([15])
    delta = np.arange(-7, 8).astype(np.float32)
    weights = np.ones(15, dtype=np.float32)
    classes = run(delta, weights, layout, Support.TAGS, 10**6)
    assert classes.tolist() == [1, *[2] * 6, 0, *[2] * 6, 1]


def test_magnitudes_that_would_need_subnormal_scales_count_as_zero(layout_of: LayoutOf) -> None:
    layout = layout_of([3])
    delta = np.full(3, 1e-40, dtype=np.float32)
    classes = run(delta, np.ones(3, np.float32), layout, Support.TAGS, 10**6)
    assert not classes.any()


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_equal_coordinates_share_what_is_left_evenly(layout_of: LayoutOf, seed: int) -> None:
    """Deltas after few Adam steps have one magnitude: no tensor may take all of the budget."""
    layout = layout_of([500] * 8)
    signs = np.where(np.arange(layout.size) % 3 == 0, -1, 1).astype(np.float32)
    weights = np.ones(layout.size, dtype=np.float32)

    def fits(counts: Counts) -> bool:
        return int(counts.sum()) <= 400

    steps = thresholds(signs, weights, layout=layout, support=Support.BITMAP)
    classes = allocate(steps, fits=fits, seed=seed)
    shares = [np.count_nonzero(classes[t.offset : t.end]) for t in layout.tensors]
    assert sum(shares) == 400
    assert min(shares) > 40
    assert max(shares) < 60


def test_another_seed_chooses_others_among_equals(layout_of: LayoutOf) -> None:
    layout = layout_of([100])
    ones = np.ones(100, dtype=np.float32)
    steps = thresholds(ones, ones, layout=layout, support=Support.BITMAP)

    def chosen(seed: int) -> set[int]:
        classes = allocate(steps, fits=lambda counts: int(counts.sum()) <= 10, seed=seed)
        return set(np.flatnonzero(classes).tolist())

    assert chosen(1) == chosen(1)
    assert len(chosen(1)) == len(chosen(2)) == 10
    assert chosen(1) != chosen(2)
