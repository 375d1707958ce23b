from __future__ import annotations

import random

import pytest

from transport.transfer_policy import TransferPolicy


@pytest.mark.parametrize(
    ("failures", "interval_s"), [(0, 8.0), (1, 16.0), (2, 32.0), (3, 60.0), (10_000, 60.0)]
)
def test_timers_double_up_to_their_cap_and_scatter_around_it(
    failures: int, interval_s: float
) -> None:
    policy = TransferPolicy(jitter=0.25)
    rng = random.Random(0)
    delays = [policy.after(100.0, 8.0, 60.0, failures=failures, rng=rng) for _ in range(2000)]
    assert 100 + interval_s * 0.75 <= min(delays) < 100 + interval_s * 0.76
    assert 100 + interval_s * 1.24 < max(delays) <= 100 + interval_s * 1.25


def test_the_windows_and_waits_are_in_order() -> None:
    policy = TransferPolicy()
    assert 1 <= policy.window_min <= policy.window_max
    assert policy.have_every < policy.window_max
    assert policy.have_delay_s < policy.announce_wait_s < policy.resend_s < policy.resend_cap_s
    assert policy.receipt_s < policy.receipt_cap_s
    assert policy.fetch_s < policy.fetch_cap_s


def test_a_full_window_is_answered_without_waiting_for_the_delay() -> None:
    policy = TransferPolicy()
    assert policy.have_every <= policy.window_min
