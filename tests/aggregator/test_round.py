"""Every state of a round with every event."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.round import (
    Abandoned,
    Accepted,
    Arrived,
    Closed,
    CloseReason,
    Declined,
    Joined,
    Round,
    Silent,
)
from transport.control import RoundPhase


def open_round(
    *, goal: Any = 2, quorum: Any = 1, cohort: Any = ("a", "b", "c"), arrived: Any = None
) -> Round:
    opened = Round(
        goal=goal, quorum=quorum, deadline=100.0, answer_timeout_s=30.0, arrived=arrived or {}
    )
    assert opened.receive(Joined(cohort), now=0.0) == []
    return opened


def test_the_goal_closes_it_at_once() -> None:
    current = open_round()
    assert current.receive(Arrived("a", complete=True), now=1.0) == []
    assert current.receive(Arrived("b", complete=True), now=2.0) == [Closed(CloseReason.GOAL)]
    assert current.phase is RoundPhase.CLOSED


def test_a_repeated_arrival_counts_once_and_is_never_less_than_before() -> None:
    current = open_round()
    current.receive(Arrived("a", complete=True), now=1.0)
    assert current.receive(Arrived("a", complete=True), now=1.0) == []
    assert current.receive(Arrived("a", complete=False), now=1.0) == []
    assert (current.complete, current.partial) == (1, 0)


def test_nobody_left_to_wait_for_closes_it_with_a_quorum() -> None:
    current = open_round(goal=3)
    current.receive(Arrived("a", complete=True), now=1.0)
    current.receive(Declined("b"), now=1.0)
    assert current.receive(Declined("c"), now=2.0) == [Closed(CloseReason.EXHAUSTED)]


def test_nobody_left_to_wait_for_without_a_quorum_waits_for_others() -> None:
    current = open_round(quorum=2)
    current.receive(Arrived("a", complete=True), now=1.0)
    current.receive(Declined("b"), now=1.0)
    assert current.receive(Declined("c"), now=1.0) == []
    assert current.cohort == {"a"}
    assert current.asked == {"a", "b", "c"}
    assert current.receive(Joined(("d",)), now=2.0) == []
    assert current.receive(Arrived("d", complete=True), now=3.0) == [Closed(CloseReason.GOAL)]


def test_a_partial_update_of_an_earlier_attempt_is_awaited() -> None:
    current = open_round(goal=3, cohort=("a",), arrived={"z": False})
    assert current.receive(Arrived("a", complete=True), now=1.0) == []
    closed = current.receive(Arrived("z", complete=True), now=2.0)
    assert closed == [Closed(CloseReason.EXHAUSTED)]


def test_a_device_may_accept_after_it_has_declined() -> None:
    current = open_round(goal=3)
    current.receive(Arrived("a", complete=True), now=1.0)
    current.receive(Declined("b"), now=1.0)
    current.receive(Accepted("b"), now=1.0)
    assert current.receive(Declined("c"), now=2.0) == []
    assert current.cohort == {"a", "b"}


def test_who_was_not_asked_cannot_decline() -> None:
    current = open_round()
    current.receive(Declined("z"), now=1.0)
    assert current.cohort == {"a", "b", "c"}


@pytest.mark.parametrize("complete", [True, False])
def test_the_deadline_closes_it_where_a_quorum_has_arrived(complete: Any) -> None:
    current = open_round()
    current.receive(Arrived("a", complete=complete), now=1.0)
    for name in "bc":
        current.receive(Accepted(name), now=1.0)
    assert current.tick(99.9) == []
    assert current.next_wakeup() == 100.0
    assert current.tick(100.0) == [Closed(CloseReason.DEADLINE)]
    assert current.next_wakeup() is None


def test_the_deadline_abandons_it_where_it_has_not() -> None:
    current = open_round(quorum=2)
    current.receive(Arrived("a", complete=True), now=1.0)
    assert current.tick(250.0) == [Abandoned(1)]
    assert current.phase is RoundPhase.ABANDONED


@pytest.mark.parametrize("phase", [RoundPhase.CLOSED, RoundPhase.ABANDONED])
@pytest.mark.parametrize("event", [Joined(("d",)), Declined("a"), Arrived("a", complete=True)])
def test_what_is_over_stays_over(phase: Any, event: Any) -> None:
    current = open_round(quorum=1)
    if phase is RoundPhase.CLOSED:
        current.receive(Arrived("b", complete=False), now=1.0)
    current.tick(100.0)
    assert current.phase is phase
    assert current.receive(event, now=101.0) == []
    assert current.tick(1000.0) == []
    assert current.phase is phase


def test_what_arrived_in_earlier_attempts_can_close_it_at_its_opening() -> None:
    current = Round(
        goal=2, quorum=1, deadline=100.0, answer_timeout_s=30.0, arrived={"a": True, "b": True}
    )
    assert current.receive(Joined(()), now=0.0) == [Closed(CloseReason.GOAL)]


def test_a_device_that_does_not_answer_is_told_once_and_not_awaited() -> None:
    current = open_round(goal=3)
    current.receive(Accepted("b"), now=1.0)
    current.receive(Arrived("a", complete=True), now=2.0)
    assert current.next_wakeup() == 30.0
    assert current.tick(29.9) == []
    assert current.tick(30.0) == [Silent(("c",))]
    assert current.cohort == {"a", "b"}
    assert current.asked == {"a", "b", "c"}
    assert current.next_wakeup() == 100.0
    assert current.receive(Arrived("b", complete=True), now=40.0) == [Closed(CloseReason.EXHAUSTED)]


@pytest.mark.parametrize("event", [Accepted("c"), Arrived("c", complete=False), Joined(("c",))])
def test_a_silent_device_that_shows_up_is_awaited_again(event: Any) -> None:
    current = open_round(goal=3)
    for name in "ab":
        current.receive(Arrived(name, complete=True), now=1.0)
    assert current.tick(30.0) == [Silent(("c",))]
    assert current.receive(event, now=30.0) == []
    assert "c" in current.cohort
    assert current.tick(31.0) == []


def test_a_device_that_is_asked_again_has_the_full_time_to_answer() -> None:
    current = open_round(cohort=("a",))
    current.receive(Joined(("a",)), now=20.0)
    assert current.tick(49.0) == []
    assert current.tick(50.0) == [Silent(("a",))]


def test_a_device_that_did_not_answer_before_is_not_awaited_unless_it_does() -> None:
    current = open_round(goal=2, cohort=("a",))
    current.receive(Joined(("b",), awaited=False), now=0.0)
    assert (current.cohort, current.asked) == ({"a"}, {"a", "b"})
    assert current.receive(Arrived("a", complete=True), now=1.0) == [Closed(CloseReason.EXHAUSTED)]


def test_a_device_that_declined_owes_no_answer() -> None:
    current = open_round(quorum=2, cohort=("a",))
    current.receive(Declined("a"), now=1.0)
    current.receive(Joined(("a",)), now=2.0)
    assert current.next_wakeup() == 100.0
