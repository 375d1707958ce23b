from __future__ import annotations

import random
from collections import Counter

import pytest

from transport.errors import Loss
from transport.reconnect import Reconnect

DEVICES = 5000
SPREAD_S = 85.0


def comebacks(outage_s: float, *, seed: int, spread_s: float = SPREAD_S) -> list[float]:
    """When each device is back, in seconds after its broker is: a dead broker refuses at once."""
    rng = random.Random(seed)
    reconnect = Reconnect(spread_s=spread_s)
    reconnect.cause = Loss.BROKER
    moments = []
    for _ in range(DEVICES):
        moment, failures = 0.0, 1
        while (moment := moment + reconnect.delay_s(failures, rng)) < outage_s:
            failures += 1
        moments.append(moment - outage_s)
    return moments


def peak(moments: list[float]) -> float:
    """The busiest second against the mean over 120 s."""
    busiest = max(Counter(int(moment) for moment in moments).values())
    return busiest / (len(moments) / 120.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("outage_s", [0.0, 1.0, 10.0, 45.0, 60.0, 600.0])
def test_5000_devices_do_not_storm_a_broker_that_restarted(outage_s: float, seed: int) -> None:
    moments = comebacks(outage_s, seed=seed)
    assert max(moments) < 120.0
    assert peak(moments) <= 3.0


def test_without_a_spread_they_would() -> None:
    assert peak(comebacks(1.0, seed=1, spread_s=0.0)) > 20.0


@pytest.mark.parametrize(
    ("cause", "longest_s"), [(Loss.SILENT, 60.0), (Loss.OFFLINE, 10.0), (Loss.BROKER, 114.75)]
)
def test_no_wait_is_longer_than_its_cause_warrants(cause: Loss, longest_s: float) -> None:
    reconnect, rng = Reconnect(spread_s=SPREAD_S), random.Random(1)
    reconnect.cause = cause
    waits = [reconnect.delay_s(failures, rng) for failures in range(1, 1000)]
    assert 0.9 * longest_s < max(waits) <= longest_s


@pytest.mark.parametrize("cause", [Loss.SILENT, Loss.OFFLINE])
def test_a_device_on_a_link_that_flaps_comes_back_at_once(cause: Loss) -> None:
    reconnect, rng = Reconnect(spread_s=SPREAD_S), random.Random(1)
    reconnect.cause = cause
    assert all(reconnect.delay_s(1, rng) <= 1.0 for _ in range(100))


def test_a_link_that_comes_back_within_minutes_is_not_missed() -> None:
    """Each try takes 8 s of its own; a link that is gone for longer is tried ever more rarely."""
    reconnect, rng = Reconnect(spread_s=SPREAD_S), random.Random(1)
    reconnect.cause = Loss.SILENT
    soon = [reconnect.delay_s(failures, rng) for failures in range(1, 21) for _ in range(50)]
    assert max(soon) <= 2.0
    late = [reconnect.delay_s(failures, rng) for failures in range(26, 100)]
    assert sum(late) / len(late) > 20.0


def test_the_service_that_all_wait_for_does_not_spread() -> None:
    reconnect, rng = Reconnect(), random.Random(1)
    reconnect.cause = Loss.BROKER
    assert all(reconnect.delay_s(1, rng) <= 1.0 for _ in range(100))
    assert all(reconnect.delay_s(50, rng) <= 10.0 for _ in range(100))
