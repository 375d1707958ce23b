"""The last word is one per update, and one update per device and round."""

from __future__ import annotations

import pytest

from aggregator.journal import SettledUpdate
from aggregator.settled import Settled
from transport import frame
from transport.messages import Receipt, ReceiptState

ACCEPTED = Receipt(1, ReceiptState.ACCEPTED, "", frozenset({0}), 1)
LATE = Receipt(1, ReceiptState.LATE, "late", frozenset(), 3)


def test_a_receipt_is_for_the_device_whose_update_it_is() -> None:
    settled = Settled({})
    settled.add("u", client_id="a", round_id=3, seq=5, receipt=ACCEPTED)
    assert settled.receipt("u", client_id="a") == ACCEPTED
    assert settled.receipt("u", client_id="b") is None
    assert settled.receipt("v", client_id="a") is None


@pytest.mark.parametrize("receipt", [ACCEPTED, LATE])
def test_whatever_became_of_it_an_update_was_the_one_for_its_round(receipt: Receipt) -> None:
    restored = Settled({"u": SettledUpdate("a", 3, 5, frame.encode(receipt))})
    fresh = Settled({})
    fresh.add("u", client_id="a", round_id=3, seq=5, receipt=receipt)
    for settled in (restored, fresh):
        assert settled.uid_of("a", 3) == "u"
        assert settled.uid_of("a", 4) is settled.uid_of("b", 3) is None
        assert settled.numbered("a", 5) == "u"
        assert settled.numbered("a", 3) is settled.numbered("b", 5) is None


def test_the_newest_are_those_of_the_last_round_that_has_any() -> None:
    settled = Settled({"u": SettledUpdate("a", 3, 5, frame.encode(ACCEPTED))})
    settled.add("v", client_id="a", round_id=4, seq=6, receipt=LATE)
    settled.add("w", client_id="b", round_id=4, seq=1, receipt=ACCEPTED)
    assert {uid: update.receipt for uid, update in settled.newest()} == {"v": LATE, "w": ACCEPTED}
    assert Settled({}).newest() == []
