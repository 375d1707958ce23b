from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codec import limits
from codec.codec import Budget
from codec.errors import InvalidInput
from codec.inputs import (
    byte_budget,
    check_budget,
    check_delta,
    check_fisher,
    check_sum,
    weighted_budget,
)
from codec.layout import Layout

LAYOUT = Layout.from_shapes({"a": [4]})


@pytest.mark.parametrize(
    "delta",
    [
        np.zeros(3, np.float32),
        np.zeros((4, 1), np.float32),
        np.zeros((1,), np.float32),
        np.zeros(4, np.float64),
        np.array([0, np.nan, 0, 0], np.float32),
        np.array([np.inf, -np.inf, 0, 0], np.float32),
    ],
)
def test_a_delta_of_another_form_or_not_finite_is_refused(delta: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="delta"):
        check_delta(delta, layout=LAYOUT)


def test_a_delta_whose_sum_overflows_is_finite_all_the_same() -> None:
    check_delta(np.full(4, 3e38, np.float32), layout=LAYOUT)


def test_an_update_is_weighted_by_a_diagonal_or_by_none() -> None:
    delta, budget = np.ones(4, np.float32), Budget(70, 64)
    for fisher in (None, delta):
        assert weighted_budget(delta, fisher, layout=LAYOUT, budget=budget, codec="fstq") == 70
    refused = ((delta[:3], None, budget), (delta, -delta, budget), (delta, None, Budget(None, 64)))
    for values, fisher, other in refused:
        with pytest.raises(InvalidInput):
            weighted_budget(values, fisher, layout=LAYOUT, budget=other, codec="fstq")


def test_a_negative_fisher_is_refused() -> None:
    check_fisher(np.zeros(4, np.float32), layout=LAYOUT)
    with pytest.raises(InvalidInput, match="negative"):
        check_fisher(np.array([0, 1, -1e-30, 0], np.float32), layout=LAYOUT)


@pytest.mark.parametrize("segment_bytes", [0, 63, limits.MAX_SEGMENT_BYTES + 1])
def test_a_segment_size_out_of_range_is_refused(segment_bytes: int) -> None:
    with pytest.raises(InvalidInput, match="segment"):
        check_budget(Budget(None, segment_bytes))


@pytest.mark.parametrize("update_bytes", [-1, 0, 63])
def test_an_update_size_that_holds_nothing_is_refused(update_bytes: int) -> None:
    check_budget(Budget(64, 64))
    with pytest.raises(InvalidInput, match="update"):
        check_budget(Budget(update_bytes, 1024))


def test_a_sum_of_another_form_and_a_weight_that_is_not_finite_are_refused() -> None:
    check_sum(np.zeros(4), weight=0.5, layout=LAYOUT)
    with pytest.raises(InvalidInput, match="sum"):
        check_sum(np.zeros(1), weight=1, layout=LAYOUT)
    single: Any = np.zeros(4, np.float16)
    with pytest.raises(InvalidInput, match="sum"):
        check_sum(single, weight=1, layout=LAYOUT)
    with pytest.raises(InvalidInput, match="weight"):
        check_sum(np.zeros(4), weight=float("nan"), layout=LAYOUT)


def test_a_codec_that_needs_a_budget_of_bytes_says_so() -> None:
    assert byte_budget(Budget(update_bytes=900, segment_bytes=100), codec="fstq") == 900
    with pytest.raises(InvalidInput, match="codec fstq needs a budget of bytes per update"):
        byte_budget(Budget(update_bytes=None, segment_bytes=100), codec="fstq")
