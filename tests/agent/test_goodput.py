from __future__ import annotations

import itertools
import random

import pytest

from agent.goodput import HYSTERESIS, OUTAGE_S, SMOOTHING_S, Goodput


def send(goodput: Goodput, rate_bps: float, *, seconds: float, now: float = 0.0) -> float:
    """Have one acceptance every second, and return when the last one was."""
    goodput.begin(now)
    for _ in range(int(seconds)):
        now += 1.0
        goodput.note(int(rate_bps / 8), now=now)
    return now


def used(goodput: Goodput) -> float:
    assert goodput.bits_per_second is not None
    return goodput.bits_per_second


def test_nothing_is_known_before_anything_was_accepted() -> None:
    goodput = Goodput()
    assert goodput.bits_per_second is None
    goodput.begin(0.0)
    goodput.end()
    assert goodput.bits_per_second is None
    goodput.note(10**6, now=1.0)  # sent before this start: nobody knows when
    assert goodput.bits_per_second is None


def test_the_rate_is_what_was_accepted_over_the_time_of_sending() -> None:
    goodput = Goodput()
    send(goodput, 80_000, seconds=30)
    assert used(goodput) == pytest.approx(80_000)


def test_bytes_that_come_with_the_first_moment_are_no_rate() -> None:
    goodput = Goodput()
    goodput.begin(5.0)
    goodput.note(1000, now=5.0)
    assert goodput.bits_per_second is None


def test_idle_time_is_not_counted() -> None:
    goodput = Goodput()
    for hour in range(5):
        send(goodput, 80_000, seconds=10, now=3600.0 * hour)
        goodput.end()
    assert used(goodput) == pytest.approx(80_000)


def test_beginning_again_within_a_stretch_changes_nothing() -> None:
    goodput = Goodput()
    goodput.begin(0.0)
    goodput.begin(9.0)
    goodput.note(1000, now=10.0)
    assert used(goodput) == 800


def test_a_link_that_fades_is_followed_within_minutes() -> None:
    goodput = Goodput()
    now = send(goodput, 1_000_000, seconds=300)
    send(goodput, 40_000, seconds=300, now=now)
    assert 40_000 <= used(goodput) <= 40_000 * HYSTERESIS**2


def test_breaths_of_the_link_change_nothing() -> None:
    """Rates that scatter by a fifth move neither budget nor segment size."""
    goodput = Goodput()
    rng = random.Random(1)
    now = send(goodput, 100_000, seconds=60)
    before = used(goodput)
    for _ in range(600):
        now = send(goodput, 100_000 * rng.uniform(0.8, 1.2), seconds=1, now=now)
    assert used(goodput) == before


def test_each_change_is_larger_than_the_band() -> None:
    goodput = Goodput()
    values: list[float] = []
    now = 0.0
    for step in range(2000):
        now = send(goodput, 50_000 if step % 400 < 200 else 400_000, seconds=1, now=now)
        if not values or used(goodput) != values[-1]:
            values.append(used(goodput))
    ratios = [max(a / b, b / a) for a, b in itertools.pairwise(values)]
    assert ratios
    assert min(ratios) > HYSTERESIS


def test_a_link_that_is_up_half_of_the_time_is_half_as_fast() -> None:
    goodput = Goodput()
    now = 0.0
    for _ in range(20):
        now = send(goodput, 1_000_000, seconds=20, now=now) + 20.0
    assert used(goodput) == pytest.approx(500_000, rel=0.35)


def test_a_night_without_a_network_counts_as_half_a_minute() -> None:
    goodput = Goodput()
    now = send(goodput, 1_000_000, seconds=600)
    night, moment = Goodput(), Goodput()
    for other in (night, moment):
        send(other, 1_000_000, seconds=600)
    night.note(10_000, now=now + 8 * 3600)
    moment.note(10_000, now=now + OUTAGE_S)
    assert used(night) == used(moment)
    assert used(night) > 1_000_000 / 3


def test_short_updates_outweigh_what_was_measured_on_another_link() -> None:
    """50 KB on a fast link are over in a blink; some of them must be enough."""
    goodput = Goodput()
    send(goodput, 40_000, seconds=600)
    goodput.end()
    for _ in range(12):
        goodput.begin(0.0)
        goodput.note(50_000, now=0.1)
        goodput.end()
    assert used(goodput) == pytest.approx(4_000_000, rel=0.3)


def test_what_was_in_use_is_remembered_over_a_restart() -> None:
    goodput = Goodput(remembered_bps=64_000.0)
    assert used(goodput) == 64_000
    now = send(goodput, 640_000, seconds=1)
    assert used(goodput) < 640_000 / 2, "a second does not outweigh the past"
    send(goodput, 640_000, seconds=5 * SMOOTHING_S, now=now)
    assert used(goodput) > 640_000 / HYSTERESIS**2


def test_a_clock_that_stands_still_is_no_division_by_zero() -> None:
    goodput = Goodput(remembered_bps=1000.0)
    goodput.begin(1.0)
    goodput.note(10, now=1.0)
    goodput.note(10, now=1.0)
    assert used(goodput) == 1000
