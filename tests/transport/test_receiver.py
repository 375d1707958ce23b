from __future__ import annotations

from collections.abc import Callable

import pytest

from transport.messages import Manifest
from transport.receiver import Journal, Receiver, RefuseSegment, SendHave
from transport.transfer_policy import TransferPolicy

UID = "00" * 16
BODIES = tuple(bytes((index,)) * 10 for index in range(6))


@pytest.fixture
def receiver(make_manifest: Callable[..., Manifest]) -> Receiver:
    return Receiver(UID, make_manifest(*BODIES), policy=TransferPolicy(have_every=4))


def answer(*held: int) -> SendHave:
    return SendHave(UID, frozenset(held), 6)


def test_a_new_segment_is_journaled_and_answered_once_it_is_durable(receiver: Receiver) -> None:
    assert receiver.receive(0, BODIES[0], now=0.0) == [Journal(UID, 0, BODIES[0])]
    assert receiver.held == frozenset()
    assert receiver.next_wakeup() is None
    assert receiver.stored([0], now=1.0) == []
    assert receiver.held == {0}
    assert receiver.next_wakeup() == 1.2
    assert receiver.tick(1.1) == []
    assert receiver.tick(1.2) == [answer(0)]
    assert receiver.tick(1.3) == []
    assert receiver.next_wakeup() is None


def test_the_delay_counts_from_the_first_segment_that_waits(receiver: Receiver) -> None:
    for index, now in ((0, 0.0), (1, 0.15)):
        receiver.receive(index, BODIES[index], now=now)
        receiver.stored([index], now=now)
    assert receiver.next_wakeup() == 0.2


def test_enough_durable_segments_are_answered_at_once(receiver: Receiver) -> None:
    for index in range(4):
        receiver.receive(index, BODIES[index], now=0.0)
    assert receiver.stored([0, 1, 2], now=0.0) == []
    assert receiver.stored([3], now=0.1) == [answer(0, 1, 2, 3)]
    assert receiver.next_wakeup() is None


def test_after_an_answer_the_count_starts_over(receiver: Receiver) -> None:
    for index in range(4):
        receiver.receive(index, BODIES[index], now=0.0)
    receiver.stored([0, 1, 2], now=0.0)
    assert receiver.tick(0.2) == [answer(0, 1, 2)]
    assert receiver.stored([3], now=0.3) == []


def test_a_complete_update_is_answered_at_once(make_manifest: Callable[..., Manifest]) -> None:
    receiver = Receiver(UID, make_manifest(*BODIES), held=range(5))
    receiver.receive(5, BODIES[5], now=0.0)
    assert not receiver.complete
    assert receiver.stored([5], now=0.1) == [answer(*range(6))]
    assert receiver.complete


def test_a_duplicate_while_it_is_being_journaled_gives_nothing(receiver: Receiver) -> None:
    receiver.receive(0, BODIES[0], now=0.0)
    assert receiver.receive(0, BODIES[0], now=0.1) == []
    assert receiver.next_wakeup() is None


def test_a_duplicate_of_a_durable_segment_owes_an_answer_and_no_journaling(
    receiver: Receiver,
) -> None:
    receiver.receive(0, BODIES[0], now=0.0)
    receiver.stored([0], now=0.0)
    receiver.tick(0.2)
    assert receiver.receive(0, BODIES[0], now=5.0) == []
    assert receiver.tick(5.2) == [answer(0)]


def test_a_manifest_is_answered_with_the_state_at_once(
    make_manifest: Callable[..., Manifest],
) -> None:
    receiver = Receiver(UID, make_manifest(*BODIES), held=[1, 4])
    assert receiver.announced(0.0) == [answer(1, 4)]
    assert receiver.announced(0.1) == [answer(1, 4)]


def test_an_answer_given_early_is_not_owed_any_more(receiver: Receiver) -> None:
    receiver.receive(0, BODIES[0], now=0.0)
    receiver.stored([0], now=0.0)
    assert receiver.announced(0.1) == [answer(0)]
    assert receiver.tick(0.2) == []


@pytest.mark.parametrize(
    ("index", "body", "reason"),
    [
        (-1, BODIES[0], "index"),
        (6, BODIES[0], "index"),
        (0, BODIES[0][:-1], "length"),
        (0, BODIES[0] + b"\0", "length"),
        (0, b"", "length"),
        (0, BODIES[1], "digest"),
    ],
)
def test_what_the_manifest_does_not_promise_is_refused(
    index: int, body: bytes, reason: str, receiver: Receiver
) -> None:
    [refusal] = receiver.receive(index, body, now=0.0)
    assert isinstance(refusal, RefuseSegment)
    assert (refusal.index, refusal.reason) == (index, reason)
    assert f"segment {index}" in refusal.text
    assert receiver.held == frozenset()


def test_a_damaged_duplicate_is_refused_and_takes_nothing_back(receiver: Receiver) -> None:
    receiver.receive(0, BODIES[0], now=0.0)
    receiver.stored([0], now=0.0)
    [refusal] = receiver.receive(0, BODIES[1], now=1.0)
    assert isinstance(refusal, RefuseSegment)
    assert receiver.held == {0}


def test_a_refused_segment_is_taken_when_it_comes_whole(receiver: Receiver) -> None:
    receiver.receive(0, BODIES[1], now=0.0)
    assert receiver.receive(0, BODIES[0], now=1.0) == [Journal(UID, 0, BODIES[0])]


def test_storing_twice_changes_nothing(receiver: Receiver) -> None:
    receiver.receive(0, BODIES[0], now=0.0)
    receiver.stored([0], now=0.0)
    receiver.tick(0.2)
    assert receiver.stored([0], now=1.0) == []
    assert receiver.next_wakeup() is None


def test_the_policy_says_how_often_to_answer(make_manifest: Callable[..., Manifest]) -> None:
    policy = TransferPolicy(have_every=1)
    receiver = Receiver(UID, make_manifest(*BODIES), policy=policy)
    receiver.receive(2, BODIES[2], now=0.0)
    assert receiver.stored([2], now=0.0) == [answer(2)]
