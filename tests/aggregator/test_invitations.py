"""Who is asked, in which words, and whom a round waits for."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.announcements import Announcer, RunFacts
from aggregator.cohort import Presence
from aggregator.invitations import Invitations
from aggregator.journal import RoundRecord
from aggregator.round import Round
from transport.control import DeviceState, DeviceStatus


@pytest.fixture
def presence() -> Presence:
    presence = Presence()
    for name in "abcdef":
        presence.receive(name, DeviceStatus(DeviceState.IDLE, "s"))
    return presence


@pytest.fixture
def invitations(make_rig: Any, layout: Any, base_digest: Any, presence: Presence) -> Invitations:
    config = make_rig(goal=4, over_selection=1.25, codec="fstq-r").config
    facts = RunFacts("a" * 32, 1, "s", "tiny", base_digest, layout)
    return Invitations(Announcer(config, facts, "0"), presence)


def opened() -> Round:
    return Round(goal=4, quorum=2, deadline=100.0, answer_timeout_s=30.0, arrived={})


def test_a_cohort_is_filled_up_and_leaves_out_who_is_barred(invitations: Any) -> None:
    record = RoundRecord(3, barred=("a",))
    assert len(invitations.sample(record, attempt=1, busy=0, exclude=())) == 5
    chosen = invitations.sample(record, attempt=1, busy=2, exclude=("b",))
    assert len(chosen) == 3
    assert not {"a", "b"} & set(chosen)


def test_a_round_waits_only_for_who_answered_when_it_was_asked_last(
    invitations: Any, presence: Any
) -> None:
    presence.fell_silent(("b",))
    current = opened()
    assert invitations.join(current, ("a", "b"), now=0.0) == []
    assert current.asked == {"a", "b"}
    assert current.cohort == {"a"}
    assert invitations.join(opened(), (), now=0.0) == []


def test_who_has_delivered_or_declined_is_not_asked_again(invitations: Any) -> None:
    record = RoundRecord(3, declined=("a",))
    names = ("a", "b", "c")
    (only,) = invitations.commands(record, opened(), names, delivered={"b"}, now=40.0)
    assert only.address.client_id == "c"
    command = only.message
    assert (command.round_id, command.base_version, command.deadline_s) == (3, 2, 60.0)
    assert 0 < command.min_update_bytes <= command.update_bytes
