"""What Fisher hooks cost: the kinds of steps, the ratios and the bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tools.bench.hooks import (
    FISHER,
    KINDS,
    MASKED,
    PLAIN,
    REFRESH,
    Subject,
    measure,
    mixed_ratio,
    peak_bytes,
)
from tools.bench.subjects import DEMO, open_subject
from tools.demo.options import PLAN

SMALL = replace(PLAN, batch_size=2, max_tokens=32)


def silent(_text: str, _share: float) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def demo() -> Subject:
    torch.set_num_threads(1)
    return open_subject(DEMO, max_tokens=SMALL.max_tokens)


def test_a_mixture_weighs_its_kinds() -> None:
    plain = np.array([1.0, 2, 4])
    times = {PLAIN: plain, REFRESH: 2 * plain, MASKED: plain}
    assert mixed_ratio(times, {REFRESH: 0.1, MASKED: 0.9}) == pytest.approx((1.1, 1.1, 1.1))


def test_pairs_of_one_turn_are_compared() -> None:
    """A turn that another program slowed tells nothing."""
    plain = np.array([1.0, 100, 1, 1, 1])
    times = {PLAIN: plain, FISHER: 1.02 * plain}
    ratio, low, high = mixed_ratio(times, {FISHER: 1.0})
    assert (ratio, low, high) == pytest.approx((1.02, 1.02, 1.02))


def test_the_interval_holds_the_ratio_and_widens_with_noise() -> None:
    generator = np.random.default_rng(0)
    plain = np.ones(40)
    narrow = mixed_ratio({PLAIN: plain, FISHER: 1 + 0.001 * generator.random(40)}, {FISHER: 1.0})
    wide = mixed_ratio({PLAIN: plain, FISHER: 1 + 0.5 * generator.random(40)}, {FISHER: 1.0})
    for ratio, low, high in (narrow, wide):
        assert low <= ratio <= high
    assert wide[2] - wide[1] > narrow[2] - narrow[1]


@pytest.mark.torch
def test_the_diagonal_costs_its_own_size_of_memory(demo: Subject) -> None:
    """Four bytes for each coordinate, and nothing like a second copy."""
    peak_bytes(demo, SMALL, PLAIN)  # first use
    extra = peak_bytes(demo, SMALL, FISHER) - peak_bytes(demo, SMALL, PLAIN)
    own = 4 * demo.model.layout.size
    assert own * 0.9 <= extra <= own * 1.5


@pytest.mark.torch
def test_rows_say_what_was_measured(demo: Subject) -> None:
    rows = measure(demo, SMALL, turns=2, on_progress=silent)
    assert [row.mask for row in rows] == ["off", "hard", "hard, all kept"]
    assert {row.model for row in rows} == {DEMO}
    for row in rows:
        assert row.parameters == 2_545_728
        assert row.turns == 2
        assert row.plain_ms > 0
        assert row.time_ratio_low <= row.time_ratio <= row.time_ratio_high
        assert row.memory_ratio == row.hooked_peak_bytes / row.plain_peak_bytes
        assert row.memory_ratio > 1
    assert len(KINDS) == 5
