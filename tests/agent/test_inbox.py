from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.inbox import Inbox
from agent.outputs import RememberEpoch
from transport.control import EvalCommand, ModelStatus, TrainCommand


def train(run: str, round_id: int) -> TrainCommand:
    return TrainCommand(run, 1, round_id, round_id - 1, 60.0, 7, None)


@pytest.fixture
def inbox(small: Any) -> Inbox:
    inbox = Inbox(run_id=small.RUN, epoch=2)
    assert not inbox.announced(small.announcement())
    return inbox


def test_the_newest_round_is_held(inbox: Inbox, small: Any) -> None:
    for round_id in (1, 3, 2, 3):
        inbox.hold_train(train(small.RUN, round_id), now=float(round_id))
    held = inbox.next_train()
    assert held is not None
    assert (held.command.round_id, held.arrived_at) == (3, 3.0)
    inbox.drop_train()
    assert inbox.next_train() is None


def test_the_newest_version_is_held(inbox: Inbox, small: Any) -> None:
    for version in (1, 3, 2):
        inbox.hold_eval(EvalCommand(small.RUN, 1, version, 60.0), now=0.0)
    held = inbox.next_eval()
    assert held is not None
    assert held.command.version == 3
    inbox.drop_eval()
    assert inbox.next_eval() is None


def test_a_command_of_another_run_waits_for_its_announcement(inbox: Inbox, small: Any) -> None:
    inbox.hold_train(train(small.RUN, 9), now=0.0)
    inbox.hold_train(train(small.OTHER_RUN, 1), now=0.0)
    assert inbox.next_train() is None
    assert inbox.announced(small.announcement(run=small.OTHER_RUN))
    assert inbox.next_train() is not None


def test_an_epoch_is_fenced_off_by_a_higher_one_of_the_same_run(inbox: Inbox, small: Any) -> None:
    assert inbox.fenced(1)
    assert not inbox.fenced(2)
    assert inbox.advance_epoch(2) == []
    assert inbox.advance_epoch(3) == [RememberEpoch(3)]
    assert inbox.fenced(2)
    inbox.announced(small.announcement(run=small.OTHER_RUN))
    assert not inbox.fenced(1)


def test_a_command_is_declined_for_its_epoch_once(inbox: Inbox, small: Any) -> None:
    first = train(small.RUN, 3)
    assert inbox.fences(first)
    assert not inbox.fences(replace(first, epoch=2))
    assert not inbox.fences(train(small.OTHER_RUN, 3))
    assert inbox.is_declined_first(first)
    assert not inbox.is_declined_first(replace(first, deadline_s=1.0))
    assert inbox.is_declined_first(EvalCommand(small.RUN, 1, 3, 60.0))
    assert not inbox.is_declined_first(first)
    assert inbox.is_declined_first(train(small.RUN, 4))


def test_the_newest_adapter_version_is_that_of_the_run(inbox: Inbox, small: Any) -> None:
    assert inbox.newest_version == -1
    inbox.model(ModelStatus(small.OTHER_RUN, 9, "", 0, 0))
    assert inbox.newest_version == -1
    inbox.model(ModelStatus(small.RUN, 4, "", 0, 0))
    assert inbox.newest_version == 4


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, 4),
        ({"version": 4, "chain_from": 1}, 4),  # of another version: there may be one delta
        ({"version": 5, "chain_from": 1}, 1),
        ({"version": 5, "chain_from": 1, "chain_bytes": 901}, 5),
        ({"version": 5, "chain_from": 1, "chain_bytes": 901, "delta_segments": 1}, 4),
        ({"version": 5, "chain_from": None}, 5),
        ({"version": 5, "chain_from": None, "delta_segments": 1}, 4),
    ],
)
def test_the_chain_begins_where_the_newest_status_says(
    inbox: Inbox, small: Any, status: dict[str, Any] | None, expected: int
) -> None:
    if status is not None:
        inbox.model(ModelStatus(small.RUN, sha256="", bytes=900, segments=3, **status))
    assert inbox.chain_from(5) == expected
    inbox.announced(small.announcement(run=small.OTHER_RUN))
    assert inbox.chain_from(5) == 4
