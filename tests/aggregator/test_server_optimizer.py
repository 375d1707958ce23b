from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.server_optimizer import step


def test_it_moves_by_the_step_times_the_mean_and_rounds_once() -> None:
    adapter = np.array([1.0, -2.0], dtype=np.float32)
    moved = step(adapter, np.array([2.0**-25, 4.0]), server_step=0.5)
    assert moved.dtype == np.float32
    assert moved.tolist() == [1.0, 0.0]


@given(st.integers(1, 12), st.floats(0, 0.95), st.floats(0.1, 2))
def test_the_two_last_versions_are_all_that_momentum_has_to_know(
    rounds: int, momentum: float, server_step: float
) -> None:
    """It is v ← βv + mean, Θ ← Θ + ηv, as their paper has it."""
    means = np.random.default_rng(rounds).normal(0, 0.01, (rounds, 5))
    velocity, expected = np.zeros(5), np.zeros(5)
    before, adapter = None, np.zeros(5, dtype=np.float32)
    for mean in means:
        velocity = momentum * velocity + mean
        expected = expected + server_step * velocity
        moved = step(adapter, mean, server_step=server_step, momentum=momentum, before=before)
        before, adapter = adapter, moved
    np.testing.assert_allclose(adapter, expected, rtol=1e-4, atol=1e-7)


def test_a_result_beyond_float32_names_the_setting() -> None:
    adapter = np.full(2, 3e38, dtype=np.float32)
    with pytest.raises(OverflowError, match="server_step"):
        step(adapter, np.full(2, 3e38), server_step=1.0)


def test_no_negative_zero_is_left_for_devices_to_lose() -> None:
    adapter = np.array([-0.0, 1e-40], dtype=np.float32)
    moved = step(adapter, np.array([-0.0, -1e-40 - 1e-60]), server_step=1.0)
    assert moved.tolist() == [0.0, 0.0]
    assert not np.signbit(moved).any()
