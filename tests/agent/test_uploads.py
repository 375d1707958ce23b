from __future__ import annotations

import random
from typing import Any

import pytest

from agent.outputs import PublishProgress, RememberGoodput, SettleUpdate, Upload
from agent.stalls import STALL_S
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
    assert uploads.tick(0.0) == []
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
    assert uploads.progress(0.0) == Progress(round_id=0)


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
    assert uploads.next_wakeup() == 2.0 + STALL_S
    assert uploads.tick(1e6) == []
    assert uploads.stall == "no broker for 999998 s"
    assert uploads.offer(small.upload(2).uid, now=3.0) == [SendManifest(small.upload(2).uid)]


def have(uploads: Uploads, upload: Upload, *indices: int, now: float) -> list[Any]:
    total = len(upload.manifest.segments)
    return uploads.receive(upload.uid, Have(1, frozenset(indices), total), now=now)


def test_goodput_counts_what_was_accepted_from_the_first_segment_on(
    uploads: Uploads, small: Any
) -> None:
    upload = small.upload(2)
    length = upload.manifest.segments[0].length
    uploads.connected(0.0)
    uploads.receive(small.upload(1).uid, receipt(3), now=50.0)
    have(uploads, upload, now=100.0)
    outputs = have(uploads, upload, 0, 1, now=102.0)
    assert uploads.goodput_bps == 8 * length
    assert RememberGoodput(8 * length) in outputs
    assert uploads.waiting_bytes == length
    have(uploads, upload, 0, 1, 2, now=103.0)
    assert uploads.waiting_bytes == 0
    assert uploads.goodput_bps == 8 * length
    have(uploads, upload, 0, 1, 2, now=1e6)  # waiting for the receipt is no slow link
    assert uploads.goodput_bps == 8 * length


def test_what_an_earlier_start_sent_is_no_goodput_of_this_one(small: Any) -> None:
    upload = small.upload(1)
    uploads = Uploads((upload,), policy=TransferPolicy(), rng=random.Random(1), goodput_bps=5.0)
    uploads.connected(0.0)
    outputs = have(uploads, upload, 0, 1, now=0.1)
    assert [output.index for output in outputs if isinstance(output, SendSegment)] == [2]
    assert uploads.goodput_bps == 5.0


def test_an_update_that_moves_spares_the_others_their_timers(uploads: Uploads, small: Any) -> None:
    """Both are on one link: what one sends stands before what the other does."""
    uploads.connected(0.0)
    for round_id in (1, 2):
        have(uploads, small.upload(round_id), now=0.5)
    for step in range(1, 3):
        have(uploads, small.upload(2), *range(step), now=5.0 * step)
        assert not uploads.tick(5.0 * step + 0.9)
    wakeup = uploads.next_wakeup()
    assert wakeup is not None
    assert wakeup >= 10.0 + 8.0 * 0.75


def test_a_stall_is_told_with_its_seconds(uploads: Uploads, small: Any) -> None:
    uploads.connected(0.0)
    for round_id in (1, 2):
        have(uploads, small.upload(round_id), now=0.5)
    told = [out for out in uploads.tick(STALL_S) if isinstance(out, PublishProgress)]
    assert [out.progress.stalled_s for out in told] == [STALL_S]
    assert uploads.stall == "stalled: nothing accepted for 60 s"
    have(uploads, small.upload(1), 0, now=70.0)
    assert uploads.stall == ""
    assert uploads.progress(70.0).stalled_s == 0.0


def test_waiting_for_receipts_is_no_stall(uploads: Uploads, small: Any) -> None:
    uploads.connected(0.0)
    for round_id in (1, 2):
        have(uploads, small.upload(round_id), 0, 1, 2, now=0.5)
    uploads.tick(1e6)
    assert uploads.stall == ""


def test_an_aggregator_that_lost_segments_starts_the_watch_again(
    uploads: Uploads, small: Any
) -> None:
    uploads.connected(0.0)
    for round_id in (1, 2):
        have(uploads, small.upload(round_id), 0, 1, 2, now=0.5)
    uid = small.upload(2).uid
    uploads.receive(uid, Have(2, frozenset({0}), 3), now=1.0)
    uploads.tick(1.0 + STALL_S)
    assert uploads.stall


def receipt(total: int) -> Receipt:
    return Receipt(1, ReceiptState.ACCEPTED, "", frozenset(range(total)), total)
