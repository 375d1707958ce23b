from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from transport.link_events import Delivery, LinkUp, Publication


def test_a_publication_arrives_at_least_once_and_is_not_kept_unless_told_otherwise() -> None:
    publication = Publication("t", b"x")
    assert (publication.qos, publication.retain) == (1, False)


def test_events_are_values() -> None:
    assert LinkUp(session_present=True) == LinkUp(session_present=True)
    with pytest.raises(FrozenInstanceError):
        Publication("t", b"x").qos = 0  # type: ignore[misc]


def test_a_delivery_made_by_hand_belongs_to_no_connection() -> None:
    assert Delivery("t", b"x", 1, retain=False, mid=1).generation == 0
