from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.server_optimizer import CURVATURE_RATIO, arrivals_factor, relative_variance, step
from codec.codec import Order


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


FEW = st.floats(1e-3, 1.5)


@given(FEW, st.floats(0.01, 20), st.integers(1, 20))
def test_a_step_is_shorter_the_fewer_updates_arrive_and_never_longer_than_a_full_rounds(
    bits: float, arrived: float, goal: int
) -> None:
    factor = arrivals_factor(bits, arrived=arrived, goal=goal, order=Order.EXCHANGEABLE)
    fewer = arrivals_factor(bits, arrived=arrived / 2, goal=goal, order=Order.EXCHANGEABLE)
    assert 0 < fewer <= factor <= 1
    assert factor == 1 or arrived < goal
    assert factor < 1 or arrived > 0.999 * goal  # rounding may hide what lies between
    assert factor >= min(1.0, arrived / goal) * (1 - 1e-12)


def test_very_few_bits_make_it_the_share_of_the_goal_and_many_leave_it_whole() -> None:
    few, middle, many = (
        arrivals_factor(bits, arrived=1, goal=5, order=Order.EXCHANGEABLE)
        for bits in (1e-6, 0.5, 4.0)
    )
    assert few == pytest.approx(0.2, rel=1e-4)
    assert 0.2 < middle < 1
    assert many == 1


def test_what_an_ordered_codec_drops_is_no_noise() -> None:
    assert arrivals_factor(0.01, arrived=1, goal=5, order=Order.ORDERED) == 1


@pytest.mark.parametrize("arrived", [1, 2, 3])
def test_it_is_the_step_that_gains_most_against_the_noise(arrived: int) -> None:
    """Of a unit gradient and unit curvature: gain(η) = η - η²/2 · (1 + (w/m) / c)."""
    bits, goal = 0.1, 5
    noise = relative_variance(bits) / CURVATURE_RATIO
    best = {m: 1 / (1 + noise / m) for m in (arrived, goal)}
    steps = np.linspace(0, 1, 10_001)
    for m, found in best.items():
        gain = steps - steps**2 / 2 * (1 + noise / m)
        assert steps[gain.argmax()] == pytest.approx(found, abs=1e-4)
    factor = arrivals_factor(bits, arrived=arrived, goal=goal, order=Order.EXCHANGEABLE)
    assert factor == pytest.approx(best[arrived] / best[goal])
