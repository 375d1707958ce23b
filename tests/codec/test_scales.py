from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from codec.layout import Layout
from codec.scales import class_scales

LayoutOf = Callable[[Sequence[int]], Layout]


def scales_of(values: list[float], weights: list[float], classes: list[int]) -> dict[int, float]:
    layout = Layout.from_shapes({"a": [len(values)]})
    (scales,) = class_scales(
        np.array(values, np.float32),
        np.array(weights, np.float32),
        np.array(classes, np.uint8),
        layout=layout,
    )
    return {number: float(scale) for number, scale in scales.items()}


def test_a_class_without_members_has_no_scale() -> None:
    assert scales_of([1, 2], [1, 1], [0, 3]) == {}
    assert scales_of([1, 2], [1, 1], [1, 0]).keys() == {1}
    assert scales_of([7, 2], [1, 1], [2, 2]) == {2: 1}


def test_the_tensors_maximum_keeps_its_grid() -> None:
    """7 goes with 2 bits; 6 and 3 lie on the tensor's grid of sevenths, not on their own."""
    assert scales_of([7, 6, 3], [1, 1, 1], [1, 2, 2]) == {1: 7, 2: 1}


def test_the_class_maximum_is_finer_where_the_largest_have_more_bits() -> None:
    scales = scales_of([700, -7, 3], [1, 1, 1], [3, 2, 2])
    assert scales == {2: 1}


def test_fisher_decides_between_the_two() -> None:
    """The tensor's grid, of 0.75, holds 2.25; the class's, of 0.5, holds 3.5."""
    values, classes = [5.25, 3.5, 2.25], [1, 2, 2]
    assert scales_of(values, [1, 1e-6, 1], classes)[2] == 0.75
    assert scales_of(values, [1, 1, 1e-6], classes)[2] == 0.5


def test_each_tensor_has_its_own(layout_of: LayoutOf) -> None:
    layout = layout_of([2, 2])
    values = np.array([7, 1, 14, 2], np.float32)
    scales = class_scales(values, np.ones(4, np.float32), np.full(4, 2, np.uint8), layout=layout)
    assert scales == [{2: 1}, {2: 2}]
