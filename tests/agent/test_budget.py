from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.budget import (
    LEAST_SEGMENT_BYTES,
    MOST_SEGMENT_BYTES,
    Cost,
    Outlook,
    TrainingTimes,
    UplinkConfig,
    cost_of,
    segment_bytes,
)
from transport.control import TrainCommand, TrainResponse
from transport.limits import MAX_SEGMENTS

PLAIN = UplinkConfig()


def command(most: int | None = 1_000_000, least: int | None = 20_000) -> TrainCommand:
    return TrainCommand("a" * 32, 1, 3, 2, 300.0, 7, most, least)


def budget(outlook: Outlook, config: UplinkConfig = PLAIN, **bounds: int | None) -> int | None:
    return cost_of(command(**bounds), outlook, config=config).update_bytes


def test_an_unmeasured_link_gets_the_whole_budget() -> None:
    assert budget(Outlook(300.0)) == 1_000_000


def test_a_fast_link_gets_the_whole_budget() -> None:
    assert budget(Outlook(300.0, goodput_bps=1e7)) == 1_000_000


def test_a_slow_link_gets_what_fits_into_its_share_of_the_time_after_training() -> None:
    # 8 kbit/s carry 1,000 bytes a second; half of 300 - 100 seconds.
    assert budget(Outlook(300.0, train_s=100.0, goodput_bps=8000)) == 100_000
    whole = UplinkConfig(share_of_time=1.0)
    assert budget(Outlook(300.0, train_s=100.0, goodput_bps=8000), whole) == 200_000


def test_the_slowest_link_gets_the_least() -> None:
    assert budget(Outlook(300.0, goodput_bps=10.0)) == 20_000
    assert budget(Outlook(300.0, train_s=400.0, goodput_bps=1e9)) == 20_000
    assert budget(Outlook(-5.0, train_s=1.0, goodput_bps=1e9)) == 20_000


def test_without_a_least_the_run_wants_the_whole() -> None:
    assert budget(Outlook(300.0, goodput_bps=10.0), least=None) == 1_000_000


def test_a_least_that_makes_no_sense_is_held_within_what_does() -> None:
    assert budget(Outlook(300.0, goodput_bps=1.0), least=-5) == 64
    assert budget(Outlook(300.0, goodput_bps=1.0), least=2_000_000) == 1_000_000


def test_what_waits_in_the_outbox_goes_first() -> None:
    outlook = Outlook(300.0, goodput_bps=8000, waiting_bytes=50_000)
    assert budget(outlook) == 100_000
    # 30 KB of it leave the device while it trains.
    outlook = Outlook(300.0, train_s=30.0, goodput_bps=8000, waiting_bytes=50_000)
    assert budget(outlook) == 135_000 - 20_000


def test_the_owner_of_the_device_has_the_last_word() -> None:
    paid = UplinkConfig(max_bytes=10_000)
    assert budget(Outlook(300.0), paid) == 10_000
    assert budget(Outlook(300.0, goodput_bps=1e7), paid) == 10_000


def test_dense_codecs_have_no_budget() -> None:
    cost = cost_of(command(most=None), Outlook(300.0, goodput_bps=180e3), config=PLAIN)
    assert cost == Cost(None, 180e3)
    assert cost.upload_s is None
    assert "adapter" in str(cost)


def test_a_cost_is_said_as_a_person_would() -> None:
    assert str(Cost(310_000, 180e3)) == "about 310 KB, 14 s at the present 180 kbit/s"
    assert str(Cost(20_000_000, 2.5e6)) == "about 20.0 MB, 64 s at the present 2.5 Mbit/s"
    assert str(Cost(310_000, None)) == "about 310 KB; the link is not measured yet"
    assert Cost(310_000, None).upload_s is None


def test_a_response_carries_the_cost() -> None:
    taken = TrainResponse("a" * 32, 3, accepted=True)
    told = Cost(310_000, 155_000.0).told_in(taken)
    assert (told.update_bytes, told.upload_s, told.goodput_bps) == (310_000, 16.0, 155_000.0)
    assert (told.round_id, told.accepted) == (3, True)


def test_training_takes_what_it_took_before() -> None:
    times = TrainingTimes()
    assert times.expected_s is None
    times.began(1, now=100.0)
    times.began(1, now=150.0)  # the trainer began again
    assert times.ended(1, now=180.0) == 30.0
    times.began(2, now=200.0)
    assert times.ended(2, now=250.0) == 40.0
    assert TrainingTimes(remembered_s=40.0).expected_s == 40.0


def test_only_what_began_here_tells_how_long_it_takes() -> None:
    """A payload that was adopted after a crash was trained nobody knows when."""
    times = TrainingTimes(remembered_s=40.0)
    assert times.ended(7, now=1e6) is None
    times.began(8, now=0.0)
    times.clear()
    assert times.ended(8, now=9.0) is None
    assert times.expected_s is None


@settings(deadline=None, max_examples=300)
@given(
    left_s=st.floats(-10, 1e6),
    train_s=st.floats(0, 1e6),
    goodput_bps=st.none() | st.floats(0, 1e12),
    waiting_bytes=st.integers(0, 10**9),
    most=st.integers(64, 10**9),
    least=st.none() | st.integers(0, 10**9),
)
def test_a_budget_lies_between_the_bounds(
    *,
    left_s: float,
    train_s: float,
    goodput_bps: float | None,
    waiting_bytes: int,
    most: int,
    least: int | None,
) -> None:
    outlook = Outlook(left_s, train_s, goodput_bps, waiting_bytes)
    fitted = budget(outlook, most=most, least=least)
    assert fitted is not None
    assert min(most, most if least is None else least) <= fitted <= most


def test_a_segment_takes_about_a_second() -> None:
    for goodput_bps, expected in (
        (None, 32_768),
        (10e3, 8192),
        (40e3, 8192),
        (131e3, 8192),
        (132e3, 16_384),
        (300e3, 32_768),
        (1e6, 65_536),
        (1e9, 65_536),
    ):
        assert segment_bytes(goodput_bps, most=65_536, expected_bytes=10**6) == expected


def test_run_and_broker_have_the_last_word_on_segments() -> None:
    assert segment_bytes(1e9, most=3584, expected_bytes=10**6) == 3584
    assert segment_bytes(10e3, most=3584, expected_bytes=10**9) == 3584


@pytest.mark.parametrize("update_bytes", [10**6, 20_000_000, 45_000_000, 91_000_000])
@pytest.mark.parametrize("goodput_bps", [None, 0.0, 40e3, 1e6])
def test_a_large_update_has_no_more_segments_than_a_manifest_names(
    update_bytes: int, goodput_bps: float | None
) -> None:
    size = segment_bytes(goodput_bps, most=MOST_SEGMENT_BYTES, expected_bytes=update_bytes)
    assert LEAST_SEGMENT_BYTES <= size <= MOST_SEGMENT_BYTES
    assert -(-update_bytes // size) <= MAX_SEGMENTS
    assert size & (size - 1) == 0


@pytest.mark.parametrize("wrong", [{"share_of_time": 0}, {"max_bytes": 10}, {"share": 0.5}])
def test_a_wrong_uplink_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        UplinkConfig.model_validate(wrong)
