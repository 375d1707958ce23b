from __future__ import annotations

import pytest

from tools.simulate.reconnect import busiest, come_back


@pytest.mark.parametrize("away_s", [1.0, 60.0, 600.0])
def test_a_fleet_of_5000_comes_back_over_two_minutes(away_s: float) -> None:
    """The busiest second has at most three times the mean over 120 s."""
    back = come_back(agents=5_000, away_s=away_s, spread_s=85.0, seed=1)
    assert back.ratio <= 3.0
    assert back.last_s <= 120.0


def test_without_a_spread_they_come_together() -> None:
    assert come_back(agents=5_000, away_s=1.0, spread_s=0.0, seed=1).ratio > 10.0


def test_the_busiest_moment_is_counted() -> None:
    assert busiest([0.0, 0.5, 0.9, 1.0, 3.0], 1.0) == 3
    assert busiest([], 1.0) == 0
