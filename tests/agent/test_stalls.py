from __future__ import annotations

import pytest

from agent.stalls import STALL_S, StallWatch


@pytest.fixture
def watch() -> StallWatch:
    """Linked at 0, with something to be accepted since 10."""
    watch = StallWatch()
    watch.connected(0.0)
    watch.watch(10.0)
    return watch


def reasons(watch: StallWatch, until: float) -> list[str]:
    """What is said when every wakeup is kept."""
    said = []
    while (wakeup := watch.next_wakeup()) is not None and wakeup <= until:
        assert not watch.tick(wakeup - 0.001)
        assert watch.tick(wakeup)
        assert not watch.tick(wakeup)
        said.append(watch.reason)
    return said


def test_where_nothing_waits_nothing_is_wrong() -> None:
    watch = StallWatch()
    watch.connected(0.0)
    assert watch.next_wakeup() is None
    assert not watch.tick(1e9)
    assert (watch.reason, watch.stalled_s(1e9)) == ("", 0.0)


def test_an_aggregator_that_says_nothing_is_named(watch: StallWatch) -> None:
    assert reasons(watch, 10 + STALL_S) == ["aggregator silent for 60 s"]
    assert watch.stalled_s(10 + 95.0) == 95.0


def test_answers_without_an_accepted_byte_are_a_stall(watch: StallWatch) -> None:
    watch.answered(20.0, accepted=False)
    assert not watch.tick(69.0)
    assert watch.tick(105.0)  # the first chance to look
    assert watch.reason == "stalled: nothing accepted for 95 s"


def test_a_link_that_stays_down_is_named(watch: StallWatch) -> None:
    watch.answered(20.0, accepted=False)
    watch.disconnected(30.0)
    assert reasons(watch, 30 + STALL_S) == ["no broker for 60 s"]


def test_it_is_said_anew_when_the_seconds_have_doubled(watch: StallWatch) -> None:
    assert reasons(watch, 500.0) == [f"aggregator silent for {s} s" for s in (60, 120, 240, 480)]


@pytest.mark.parametrize("event", ["accepted", "connected", "disconnected", "rest"])
def test_progress_clears_it_and_the_clock_begins_anew(watch: StallWatch, event: str) -> None:
    assert watch.tick(100.0)
    match event:
        case "accepted":
            watch.answered(110.0, accepted=True)
        case "connected":
            watch.connected(110.0)
        case "disconnected":
            watch.disconnected(110.0)
        case _:
            watch.rest()
    assert (watch.reason, watch.stalled_s(111.0)) == ("", 0.0)
    assert watch.next_wakeup() == (None if event == "rest" else 110.0 + STALL_S)


def test_answers_alone_clear_nothing(watch: StallWatch) -> None:
    assert watch.tick(100.0)
    watch.answered(110.0, accepted=False)
    assert watch.reason


def test_more_that_waits_does_not_begin_the_clock_anew(watch: StallWatch) -> None:
    watch.watch(60.0)
    assert watch.next_wakeup() == 10.0 + STALL_S


def test_slow_progress_is_no_stall(watch: StallWatch) -> None:
    for step in range(100):
        now = 10.0 + 50.0 * step
        assert not watch.tick(now)
        watch.answered(now, accepted=True)
