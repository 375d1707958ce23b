from __future__ import annotations

import random
from typing import Any

import pytest

from agent.outputs import SettleUpdate
from agent.uploads import Uploads
from transport.control import Progress
from transport.messages import Have, Receipt, ReceiptState
from transport.transfer import SendManifest, SendSegment, TransferPolicy


@pytest.fixture
def uploads(small: Any) -> Uploads:
    waiting = (small.upload(1), small.upload(2))
    return Uploads(waiting, policy=TransferPolicy(), rng=random.Random(1))


def test_nothing_is_sent_before_the_link_is_up(uploads: Uploads, small: Any) -> None:
    assert len(uploads) == 2
    assert uploads.next_wakeup() is None
    assert uploads.add(small.upload(3), linked=False, now=0.0) == []
    assert uploads.newest_round == 3
    assert uploads.connected(0.0) == [SendManifest(small.upload(n).uid) for n in (1, 2, 3)]
    assert uploads.next_wakeup() is not None


def test_an_update_is_offered_once_however_often_it_is_added(uploads: Uploads, small: Any) -> None:
    uploads.connected(0.0)
    assert uploads.add(small.upload(1), linked=True, now=0.0) == []
    assert uploads.add(small.upload(3), linked=True, now=0.0) == [SendManifest(small.upload(3).uid)]


def test_updates_are_found_by_round(uploads: Uploads, small: Any) -> None:
    uid = small.upload(2).uid
    assert uploads.uid_of(2) == uid
    assert uploads.uid_of(7) is None
    assert uploads.round_of(uid) == 2
    uploads.drop(uid)
    assert uid not in uploads
    assert uploads.newest_round == 1
    uploads.clear()
    assert (len(uploads), uploads.newest_round) == (0, 0)
    assert uploads.progress() == Progress(round_id=0)


def test_each_update_is_settled_by_its_own_receipt(uploads: Uploads, small: Any) -> None:
    uploads.connected(0.0)
    old, new = small.upload(1), small.upload(2)
    late = Receipt(1, ReceiptState.LATE, "late", frozenset(), 3)
    assert uploads.receive(old.uid, late, now=1.0) == [SettleUpdate(old.uid, late)]
    assert uploads.receive(old.uid, late, now=1.0) == []
    assert new.uid in uploads
    assert not uploads.delivered
    uploads.receive(new.uid, Have(1, frozenset({0, 1, 2}), 3), now=1.0)
    assert uploads.delivered


def test_sending_stops_with_the_link(uploads: Uploads, small: Any) -> None:
    uploads.connected(0.0)
    sent = uploads.receive(small.upload(2).uid, Have(1, frozenset(), 3), now=1.0)
    assert [output for output in sent if isinstance(output, SendSegment)]
    uploads.disconnected(2.0)
    assert uploads.next_wakeup() is None
    assert uploads.tick(1e6) == []
    assert uploads.offer(small.upload(2).uid, now=3.0) == [SendManifest(small.upload(2).uid)]
