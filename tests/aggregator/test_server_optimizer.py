from __future__ import annotations

import numpy as np
import pytest

from aggregator.server_optimizer import step


def test_it_moves_by_the_step_times_the_mean_and_rounds_once() -> None:
    adapter = np.array([1.0, -2.0], dtype=np.float32)
    moved = step(adapter, np.array([2.0**-25, 4.0]), server_step=0.5)
    assert moved.dtype == np.float32
    assert moved.tolist() == [1.0, 0.0]


def test_a_result_beyond_float32_names_the_setting() -> None:
    adapter = np.full(2, 3e38, dtype=np.float32)
    with pytest.raises(OverflowError, match="server_step"):
        step(adapter, np.full(2, 3e38), server_step=1.0)


def test_no_negative_zero_is_left_for_devices_to_lose() -> None:
    adapter = np.array([-0.0, 1e-40], dtype=np.float32)
    moved = step(adapter, np.array([-0.0, -1e-40 - 1e-60]), server_step=1.0)
    assert moved.tolist() == [0.0, 0.0]
    assert not np.signbit(moved).any()
