from __future__ import annotations

import numpy as np
import pytest

from codec.importance import fisher_or_uniform, importance


def test_importance_is_fisher_times_the_square() -> None:
    values = np.array([1, -2, 0, 3], dtype=np.float32)
    weights = np.array([1, 0.5, 7, 0], dtype=np.float32)
    assert importance(values, weights).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("magnitude", [1e-38, 1e-30, 1e30, 3e38])
def test_squares_neither_vanish_nor_overflow(magnitude: float) -> None:
    """Float32 squares leave their range beyond 1e-23 and 1e19."""
    values = np.array([magnitude], dtype=np.float32)
    result = importance(values, values)
    assert result.dtype == np.float64
    assert result[0] == pytest.approx(float(values[0]) ** 3, rel=1e-12)


@pytest.mark.parametrize("fisher", [None, np.zeros(3, dtype=np.float32)])
def test_a_fisher_that_says_nothing_weights_all_alike(fisher: np.ndarray | None) -> None:
    assert fisher_or_uniform(fisher, size=3).tolist() == [1, 1, 1]


def test_a_fisher_that_says_something_is_taken_as_it_is() -> None:
    fisher = np.array([0, 0, 2], dtype=np.float32)
    assert fisher_or_uniform(fisher, size=3) is fisher
