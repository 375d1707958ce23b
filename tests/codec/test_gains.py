from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codec.gains import blocks, captured, class_gains, thresholds
from codec.layout import Layout
from codec.slices import CLASS_BITS, Support, tag_and_support_bits

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def plain_slopes(gains: list[float], bits: list[int]) -> list[float]:
    """Gain per bit of the hull's step up to each class, walked from corner to corner."""
    points = [(0, 0.0), *zip(bits, gains, strict=True)]
    slopes = [0.0] * len(bits)
    corner = 0
    while corner < len(bits):
        rises = {
            number: (points[number][1] - points[corner][1])
            / (points[number][0] - points[corner][0])
            for number in range(corner + 1, len(points))
        }
        following = max(rises, key=lambda number: (rises[number], number))
        if rises[following] <= 0:
            break
        slopes[corner:following] = [rises[following]] * (following - corner)
        corner = following
    return slopes


@pytest.mark.parametrize("support", Support)
def test_keys_are_the_hull_walked_from_corner_to_corner(
    layout_of: LayoutOf, draw: Draw, support: Support
) -> None:
    layout = layout_of([40, 300])
    delta, weights = draw(layout.size, 1)
    steps = thresholds(delta, weights, layout=layout, support=support)
    for place, tensor in enumerate(layout.tensors):
        window = slice(tensor.offset, tensor.end)
        extra = tag_and_support_bits(support, length=tensor.size)
        gains = class_gains(delta[window], weights[window], peak=np.abs(delta[window]).max())
        expected = [
            plain_slopes(column.tolist(), [width + extra for width in CLASS_BITS[1:]])
            for column in gains.T
        ]
        keys = steps.keys(place, window).view(np.float32)
        np.testing.assert_allclose(
            keys.T, np.sqrt(np.array(expected) / steps.unit), rtol=1e-6, atol=1e-12
        )
        assert (np.diff(keys, axis=0) <= 0).all()


def test_keys_of_a_few_coordinates_are_those_of_all(layout_of: LayoutOf, draw: Draw) -> None:
    """Bit for bit: what is worked out again must be what it was."""
    layout = layout_of([5, 1000])
    delta, weights = draw(layout.size, 2)
    steps = thresholds(delta, weights, layout=layout, support=Support.BITMAP)
    few = np.array([5, 17, 18, 400, 1004])
    whole = steps.keys(1, slice(5, 1005))
    np.testing.assert_array_equal(whole[:, few - 5], steps.keys(1, few))


def test_no_key_is_above_one(layout_of: LayoutOf, draw: Draw) -> None:
    delta, weights = draw(500, 3)
    delta *= np.float32(1e36)
    steps = thresholds(delta, weights, layout=layout_of([500]), support=Support.TAGS)
    assert (steps.keys(0, slice(0, 500)).view(np.float32) <= 1).all()


def test_magnitudes_that_count_as_zero_gain_nothing(layout_of: LayoutOf) -> None:
    layout = layout_of([3, 2])
    delta = np.array([1e-40, 0, -1e-40, 1, 1], dtype=np.float32)
    ones = np.ones(5, np.float32)
    steps = thresholds(delta, ones, layout=layout, support=Support.TAGS)
    assert not steps.keys(0, slice(0, 3)).any()
    assert captured(np.full(5, 3, np.uint8), delta, ones, layout=layout).tolist() == [0, 2]


def test_captured_is_the_gain_of_the_classes_chosen(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([70_000, 9])
    delta, weights = draw(layout.size, 4)
    classes = np.random.default_rng(5).integers(0, 4, layout.size).astype(np.uint8)
    sums = captured(classes, delta, weights, layout=layout)
    for tensor, total in zip(layout.tensors, sums, strict=True):
        window = slice(tensor.offset, tensor.end)
        gains = class_gains(delta[window], weights[window], peak=np.abs(delta[window]).max())
        chosen = np.concatenate((np.zeros((1, tensor.size)), gains))
        expected = np.take_along_axis(chosen, classes[None, window].astype(np.int64), axis=0).sum()
        assert total == pytest.approx(expected, rel=1e-12)


def test_blocks_cover_a_tensor_once(layout_of: LayoutOf) -> None:
    _, tensor = layout_of([3, 100_000]).tensors
    for size in (1000, 1 << 14, 100_000, 100_001):
        parts = list(blocks(tensor, size=size))
        assert (parts[0].start, parts[-1].stop) == (3, 100_003)
        assert all(before.stop == after.start for before, after in itertools.pairwise(parts))
        assert all(0 < part.stop - part.start <= size for part in parts)
