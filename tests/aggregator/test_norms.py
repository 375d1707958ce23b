"""The bound on an update's length: what it follows, and what it never does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aggregator.norms import MIN_NORMS, norm_bound, update_norm
from codec.codec import Budget, Order
from codec.layout import Layout
from codec.registry import codec_named


def test_nothing_is_bounded_before_enough_norms_are_known() -> None:
    assert norm_bound([[1.0]] * (MIN_NORMS - 1), factor=10.0) is None
    assert norm_bound([[1.0]] * MIN_NORMS, factor=10.0) == 10.0
    assert norm_bound([[1.0]] * MIN_NORMS, factor=None) is None


def test_the_bound_is_a_multiple_of_the_median_over_all_rounds() -> None:
    assert norm_bound([[1.0, 3.0, 2.0], [4.0] * 6], factor=2.0) == 8.0


def test_fewer_than_half_of_the_devices_cannot_move_it_beyond_what_the_others_send() -> None:
    honest, evil = [1.0, 1.1, 0.9, 1.0, 1.05], [1e9] * 4
    bound = norm_bound([honest, evil], factor=10.0)
    assert bound is not None
    assert bound <= 11.0


def test_a_fleet_that_learns_nothing_bounds_nothing() -> None:
    assert norm_bound([[0.0] * 20], factor=10.0) is None


@pytest.mark.parametrize("order", list(Order))
def test_a_whole_update_has_the_norm_of_its_delta(order: Any) -> None:
    delta = np.random.default_rng(1).normal(size=5001)
    assert update_norm(delta, order=order, share=1.0) == pytest.approx(np.linalg.norm(delta))


def test_a_part_of_an_exchangeable_update_has_about_the_norm_of_the_whole() -> None:
    layout = Layout.from_shapes({"w": (64, 128)})
    codec = codec_named("fstq-r")
    delta = np.random.default_rng(2).normal(size=layout.size).astype(np.float32)
    budget = Budget(update_bytes=layout.size, segment_bytes=256)
    bodies = codec.encode(delta, None, layout=layout, budget=budget, seed=3)
    assert len(bodies) >= 20
    for count in (len(bodies) // 4, len(bodies) // 2, len(bodies)):
        total = np.zeros(layout.size)
        codec.accumulate(
            dict(enumerate(bodies[:count])),
            layout=layout,
            segment_count=len(bodies),
            weight=1.0,
            total=total,
        )
        norm = update_norm(total, order=codec.order, share=count / len(bodies))
        assert norm == pytest.approx(np.linalg.norm(delta), rel=0.1)
        if count < len(bodies):
            assert np.linalg.norm(total) > 1.3 * np.linalg.norm(delta)
