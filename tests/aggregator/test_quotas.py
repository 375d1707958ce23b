"""What one device may cost, and that no honest one meets it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregator.quotas as quotas_file
from aggregator.admission import Refusal
from aggregator.quotas import MIN_ROUND_BYTES, QuotaPolicy, Quotas
from transport import limits

POLICY = QuotaPolicy(segments_per_s=10.0, burst_segments=5, round_factor=2.0, disk_bytes=1000)


def taken(quotas: Any, count: int, *, now: float, client_id: str = "a") -> list[Any]:
    return [quotas.take(client_id, 100, now=now) for _ in range(count)]


def test_a_burst_is_let_in_and_what_is_above_it_waits_for_its_tokens() -> None:
    quotas = Quotas(POLICY)
    assert taken(quotas, 7, now=0.0) == [None] * 5 + [Refusal.QUOTA_RATE] * 2
    assert taken(quotas, 2, now=0.1) == [None, Refusal.QUOTA_RATE]
    assert taken(quotas, 6, now=100.0) == [None] * 5 + [Refusal.QUOTA_RATE]


def test_one_device_s_flood_costs_no_other_device_anything() -> None:
    quotas = Quotas(POLICY)
    taken(quotas, 50, now=0.0)
    assert taken(quotas, 5, now=0.0, client_id="b") == [None] * 5


def test_a_clock_that_stands_still_or_repeats_gives_no_tokens() -> None:
    quotas = Quotas(POLICY)
    taken(quotas, 5, now=10.0)
    assert taken(quotas, 1, now=9.0) == [Refusal.QUOTA_RATE]


def test_the_bytes_of_a_round_are_a_multiple_of_its_update_and_begin_anew_with_the_next() -> None:
    quotas = Quotas(POLICY)
    quotas.begin_round(MIN_ROUND_BYTES)
    assert quotas.take("a", 2 * MIN_ROUND_BYTES, now=0.0) is None
    assert quotas.take("a", 1, now=0.0) is Refusal.QUOTA_BYTES
    assert quotas.take("b", 1, now=0.0) is None
    quotas.begin_round(1)
    assert quotas.take("a", MIN_ROUND_BYTES, now=0.0) is None
    assert quotas.take("a", 1, now=0.0) is Refusal.QUOTA_BYTES


def test_what_is_refused_for_its_rate_is_not_charged_to_the_round() -> None:
    quotas = Quotas(POLICY)
    taken(quotas, 5, now=0.0)
    assert quotas.take("a", MIN_ROUND_BYTES, now=0.0) is Refusal.QUOTA_RATE
    assert quotas.take("a", MIN_ROUND_BYTES - 500, now=1.0) is None


def test_the_disk_is_shared_by_all_and_freed_by_what_is_settled() -> None:
    quotas = Quotas(POLICY, disk_bytes=900)
    assert quotas.has_room(100)
    quotas.journaled(100)
    assert not quotas.has_room(1)
    quotas.freed(1000)
    assert quotas.has_room(1000)
    with pytest.raises(AssertionError):
        quotas.freed(1)


def test_the_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_file, "MAX_ACCOUNTS", 2)
    quotas = Quotas(POLICY)
    for name in ("a", "b", "c", "d"):
        taken(quotas, 5, now=0.0, client_id=name)
    assert taken(quotas, 1, now=0.0, client_id="d") == [Refusal.QUOTA_RATE]
    assert taken(quotas, 1, now=0.0) == [None]  # forgotten, and begins anew


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), min_size=1, max_size=20),
    st.floats(0.5, 100),
    st.integers(1, 50),
)
@settings(deadline=None, max_examples=50)
def test_over_any_time_no_more_come_in_than_burst_and_rate_allow(
    steps: Any, rate: float, burst: int
) -> None:
    quotas = Quotas(QuotaPolicy(rate, burst, 1.0, 1))
    now, passed = 0.0, 0
    for wait_s, count in steps:
        now += wait_s
        passed += taken(quotas, count, now=now).count(None)
        assert passed <= burst + rate * now + 1e-6


def test_by_default_the_largest_update_over_the_fastest_link_passes_twice(config: Any) -> None:
    quotas = Quotas(config.quotas)
    quotas.begin_round(limits.MAX_SEGMENTS * config.segment_bytes)
    packets = 2 * (limits.MAX_SEGMENTS + 20)
    size = config.segment_bytes + 256
    assert {quotas.take("a", size, now=0.0) for _ in range(packets)} == {None}


@pytest.fixture
def config(make_rig: Any) -> Any:
    return make_rig(segment_bytes=32_768).config
