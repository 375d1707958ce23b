"""The receiving half for many devices; every message twice, late, or after a restart."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import aggregator.uploads as uploads_file
from aggregator.admission import LatePolicy, Terms
from aggregator.journal import UpdateRecord
from aggregator.outputs import FrozenUpdate, JournalLate, JournalManifest, JournalSegment, Publish
from aggregator.quotas import QuotaPolicy, Quotas
from aggregator.uploads import UploadLate, UploadProgress, UploadRefused, Uploads, UploadTwin
from transport.messages import Have, ReceiptState, Segment, Want
from transport.topics import Down, UpManifest, UpSegment
from transport.transfer import TransferPolicy

RUN = "a" * 32


@pytest.fixture
def terms(layout: Any, base_digest: Any) -> Terms:
    return Terms(
        run=RUN,
        round_id=2,
        invited=frozenset({"a", "b"}),
        base_digest=base_digest,
        layout_digest=layout.digest,
        codec="fp32",
        update_bytes=10_000,
        segment_bytes=256,
        max_examples=100,
        max_open=3,
    )


@pytest.fixture
def update(update_maker: Any) -> Any:
    return update_maker(client_id="a", run=RUN, round_id=2)


def quotas(*, disk_bytes: int = 1 << 20) -> Quotas:
    return Quotas(QuotaPolicy(1e6, 1000, 16.0, disk_bytes))


def make(**changes: Any) -> Any:
    values: dict[str, Any] = {"round_id": 2, "late": LatePolicy.MERGE, "quotas": quotas()}
    return Uploads(epoch=3, policy=TransferPolicy(), **values | changes)


def announce(uploads: Any, update: Any, terms: Any, *, client_id: Any = "a", now: Any = 0.0) -> Any:
    address = UpManifest(client_id, update.uid)
    return uploads.announced(address, update.manifest, terms=terms, now=now)


def send(uploads: Any, update: Any, index: Any, *, client_id: Any = "a", now: Any = 0.0) -> Any:
    address = UpSegment(client_id, update.uid, index)
    return uploads.segment(address, Segment(update.bodies[index]), now=now)


def store_all(uploads: Any, update: Any) -> Any:
    for index in range(len(update.bodies)):
        send(uploads, update, index)
    return uploads.stored(update.uid, range(len(update.bodies)), now=0.0)


def test_a_manifest_is_journaled_and_answered_with_what_is_held(update: Any, terms: Any) -> None:
    uploads = make()
    have = Publish(Down("a", update.uid), Have(3, frozenset(), len(update.bodies)))
    assert announce(uploads, update, terms) == [
        JournalManifest(update.uid, update.manifest),
        have,
    ]
    assert announce(uploads, update, terms) == [have]


def test_a_segment_is_journaled_once_and_told_when_it_is_durable(update: Any, terms: Any) -> None:
    uploads = make()
    announce(uploads, update, terms)
    assert send(uploads, update, 1) == [JournalSegment(update.uid, 1, update.bodies[1])]
    assert send(uploads, update, 1) == []
    assert uploads.arrived() == {}
    assert uploads.stored(update.uid, {1}, now=0.0) == [UploadProgress("a", complete=False)]
    assert uploads.arrived() == {"a": False}
    wakeup = uploads.next_wakeup()
    assert uploads.tick(wakeup) == [
        Publish(Down("a", update.uid), Have(3, frozenset({1}), len(update.bodies)))
    ]


def test_all_segments_make_an_update_complete(update: Any, terms: Any) -> None:
    uploads = make()
    announce(uploads, update, terms)
    assert store_all(uploads, update)[-1] == UploadProgress("a", complete=True)
    assert uploads.arrived() == {"a": True}


def test_after_a_restart_the_journaled_segments_are_held(update: Any, terms: Any) -> None:
    record = UpdateRecord(update.uid, update.manifest, frozenset({0, 2}))
    uploads = make(updates=[record])
    (answer,) = announce(uploads, update, terms)
    assert answer.message.accepted == {0, 2}
    assert uploads.reconnected(0.0) == [answer]


def test_what_no_manifest_names_is_asked_for_seldom(
    update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = make()
    assert send(uploads, update, 0) == [Publish(Down("a", update.uid), Want(3))]
    assert send(uploads, update, 1, now=1.9) == []
    assert send(uploads, update, 1, now=2.0) == [Publish(Down("a", update.uid), Want(3))]
    monkeypatch.setattr(uploads_file, "MAX_ANSWERS", 1)
    assert send(uploads, update, 1, now=2.1, client_id="a") == []
    assert uploads.stored(update.uid, {0}, now=0.0) == []


def test_another_device_s_update_cannot_be_added_to(update: Any, terms: Any) -> None:
    uploads = make()
    announce(uploads, update, terms)
    (refused,) = send(uploads, update, 0, client_id="b")
    assert (refused.client_id, refused.reason) == ("b", "identity")
    answers = announce(uploads, update, terms, client_id="b")
    assert answers[-1].reason == "identity"


def test_a_frozen_round_lets_nothing_in_and_answers_nothing(
    update: Any, update_maker: Any, terms: Any
) -> None:
    uploads = make()
    announce(uploads, update, terms)
    send(uploads, update, 0)
    uploads.stored(update.uid, {0}, now=0.0)
    (frozen,) = uploads.freeze(terms)
    assert frozen == FrozenUpdate(update.uid, 10, len(update.bodies), frozenset({0}))
    assert send(uploads, update, 1) == []
    assert uploads.stored(update.uid, {1}, now=0.0) == []
    assert announce(uploads, update, terms) == []
    assert uploads.reconnected(0.0) == uploads.tick(99.0) == []
    assert uploads.next_wakeup() is None
    other = update_maker(client_id="b", run=RUN, round_id=2)
    (entry, receipt, late) = announce(uploads, other, terms, client_id="b")
    assert (receipt.message.state, late) == (ReceiptState.LATE, UploadLate("b"))
    seq = other.manifest.seq
    assert entry == JournalLate(other.uid, "b", 2, seq, receipt.message)


def test_a_segment_that_becomes_durable_while_frozen_counts_when_the_round_goes_on(
    update: Any, terms: Any
) -> None:
    uploads = make()
    announce(uploads, update, terms)
    send(uploads, update, 0)
    send(uploads, update, 1)
    uploads.stored(update.uid, {0}, now=0.0)
    (frozen,) = uploads.freeze(terms)
    assert uploads.stored(update.uid, {1}, now=0.0) == []
    assert frozen.accepted == {0}
    uploads.thaw({})
    (have,) = announce(uploads, update, terms)
    assert have.message.accepted == {0, 1}


def test_the_last_word_is_settled_only_by_the_commit(
    update: Any, update_maker: Any, terms: Any
) -> None:
    uploads = make()
    other = update_maker(client_id="b", run=RUN, round_id=2)
    announce(uploads, update, terms)
    announce(uploads, other, terms, client_id="b")
    store_all(uploads, update)
    frozen = uploads.freeze(terms)
    receipts = uploads.close(frozen, {}, oldest_taken=3).receipts
    assert {uid: receipt.state for uid, receipt in receipts.items()} == {
        update.uid: ReceiptState.ACCEPTED,
        other.uid: ReceiptState.LATE,
    }
    told = uploads.committed(receipts)
    assert [publish.address.client_id for publish in told] == ["a", "b"]
    assert uploads.manifests() == {}
    assert uploads.reconnected(0.0) == told
    assert announce(uploads, update, terms) == [told[0]]
    assert send(uploads, update, 0) == [told[0]]


def test_a_refused_update_leaves_room_for_no_other_word(update: Any, terms: Any) -> None:
    uploads = make()
    announce(uploads, update, terms)
    store_all(uploads, update)
    uploads.freeze(terms)
    assert uploads.evaluations() == [update.manifest.evaluation]
    assert uploads.evaluations(refused={update.uid}) == []
    closing = uploads.close([], {update.uid: "corrupt"}, oldest_taken=3)
    assert closing.receipts[update.uid].reason == "corrupt"
    receipts = uploads.thaw({update.uid: "corrupt"})
    assert receipts[update.uid].state is ReceiptState.REFUSED
    (answer,) = announce(uploads, update, terms)
    assert answer.message == receipts[update.uid]


def test_an_update_of_a_closed_round_is_late_each_time_and_counted_once(
    update_maker: Any, terms: Any
) -> None:
    uploads = make()
    old = update_maker(client_id="a", run=RUN, round_id=1)
    first = announce(uploads, old, terms)
    assert [type(output) for output in first] == [JournalLate, Publish, UploadLate]
    assert announce(uploads, old, terms) == [first[1]]


def test_a_device_makes_one_update_late_for_a_round_however_many_it_makes_up(
    update_maker: Any, terms: Any
) -> None:
    """Each is journaled for ever."""
    uploads = make()
    told = []
    for seq in range(1, 6):
        late = update_maker(client_id="a", run=RUN, round_id=1, seq=seq)
        told += announce(uploads, late, terms)
    assert [output.uid for output in told if isinstance(output, JournalLate)] == [told[0].uid]
    assert {one.reason for one in told if isinstance(one, UploadRefused)} == {"second-update"}


@pytest.mark.parametrize("became", ["open", "settled", "late"])
def test_the_second_update_of_one_number_is_refused_for_ever(
    update_maker: Any, terms: Any, became: str
) -> None:
    """Two boards go on from one outbox; what it held may be in the next update of each."""
    round_id = 1 if became == "late" else 2
    uploads = make()
    first = update_maker(client_id="a", run=RUN, round_id=round_id, seq=5)
    announce(uploads, first, terms)
    if became == "settled":
        store_all(uploads, first)
        frozen = uploads.freeze(terms)
        uploads.committed(uploads.close(frozen, {}, oldest_taken=2).receipts)
    later = replace(terms, round_id=3, earlier={2: terms})
    for round_id in (3, 1):
        twin = update_maker(client_id="a", run=RUN, round_id=round_id, seq=5, steps=9)
        receipt, refused, found = announce(uploads, twin, later)
        assert (receipt.message.state, refused.reason) == (ReceiptState.REFUSED, "twin")
        assert found == UploadTwin("a")
    other = update_maker(client_id="b", run=RUN, round_id=1, seq=5)
    assert UploadTwin("b") not in announce(uploads, other, later, client_id="b")


def test_a_quarantined_device_is_not_told_that_it_is_late(update_maker: Any, terms: Any) -> None:
    """A copy of its outbox would keep what the update held as well, and send it again."""
    uploads = make()
    old = update_maker(client_id="a", run=RUN, round_id=1)
    (refused,) = announce(uploads, old, replace(terms, cloned={"a"}))
    assert refused.reason == "cloned"
    assert announce(uploads, old, terms)[-1] == UploadLate("a")


def test_a_refusal_is_answered_each_time(update_maker: Any, terms: Any) -> None:
    uploads = make()
    wrong = update_maker(client_id="a", run=RUN, round_id=2, base_digest=bytes(32))
    for _ in range(2):
        receipt, refused = announce(uploads, wrong, terms)
        assert receipt.message.reason == "base-model"
        assert isinstance(refused, UploadRefused)


# Late updates -----------------------------------------------------------------------------------


def taking(terms: Any, **changes: Any) -> Any:
    """The open round is 4; updates of 2 and 3 may still take part."""
    earlier = {round_id: replace(terms, round_id=round_id) for round_id in (2, 3)}
    return replace(terms, round_id=4, earlier=earlier, **changes)


def test_a_late_update_is_let_in_and_neither_awaited_nor_evaluated(
    update: Any, update_maker: Any, terms: Any
) -> None:
    uploads = make(round_id=4, late=LatePolicy.STALE)
    answers = announce(uploads, update, taking(terms))
    assert [type(answer) for answer in answers] == [JournalManifest, Publish, UploadLate]
    assert not any(isinstance(answer, UploadProgress) for answer in store_all(uploads, update))
    assert uploads.arrived() == {}
    assert uploads.evaluations() == []
    assert not uploads.is_fresh(update.uid)
    fresh = update_maker(client_id="a", run=RUN, round_id=4)
    announce(uploads, fresh, taking(terms))
    assert store_all(uploads, fresh)[-1] == UploadProgress("a", complete=True)
    weights = {one.uid: one.weight for one in uploads.freeze(taking(terms))}
    assert weights == {update.uid: 10 / math.sqrt(3), fresh.uid: 10.0}


def test_an_update_of_which_nothing_came_is_carried_until_it_is_too_old(
    update: Any, terms: Any
) -> None:
    uploads = make(late=LatePolicy.STALE)
    announce(uploads, update, terms)
    for oldest_taken, late in ((1, 1), (2, 0)):
        uploads.freeze(terms)
        closing = uploads.close([], {}, oldest_taken=oldest_taken)
        assert (dict(closing.receipts), closing.late) == ({}, late)
        assert uploads.committed(closing.receipts) == []
    uploads.freeze(terms)
    closing = uploads.close([], {}, oldest_taken=3)
    receipt = closing.receipts[update.uid]
    assert (receipt.state, receipt.reason) == (ReceiptState.LATE, "late")
    assert (closing.late, closing.dropped) == (0, 0)


@pytest.mark.parametrize("policy", [LatePolicy.MERGE, LatePolicy.DROP])
def test_the_receipt_says_what_becomes_of_a_late_update(
    update: Any, update_maker: Any, terms: Any, caplog: Any, policy: LatePolicy
) -> None:
    reason = "dropped" if policy is LatePolicy.DROP else "late"
    uploads = make(late=policy)
    announce(uploads, update, terms)
    uploads.freeze(terms)
    caplog.set_level("INFO")
    closing = uploads.close([], {}, oldest_taken=3)
    assert closing.receipts[update.uid].reason == reason
    assert (closing.late, closing.dropped) == (1, int(policy is LatePolicy.DROP))
    uploads.committed(closing.receipts)
    other = update_maker(client_id="b", run=RUN, round_id=2)
    closed = replace(terms, round_id=3)
    _, receipt, told = announce(uploads, other, closed, client_id="b")
    assert receipt.message.reason == reason
    assert told == UploadLate("b", dropped=policy is LatePolicy.DROP)
    for each in (update, other):
        assert any(each.uid in line and reason in line for line in caplog.messages)


def test_a_device_delivers_one_update_for_a_round_before_and_after_its_receipt(
    update: Any, update_maker: Any, terms: Any
) -> None:
    """Before the round is committed, while it is late, and when it is too old for any."""
    another = update_maker(client_id="a", run=RUN, round_id=2, seq=77)
    uploads = make(late=LatePolicy.STALE)
    announce(uploads, update, terms)
    assert announce(uploads, another, terms)[-1].reason == "second-update"
    store_all(uploads, update)
    frozen = uploads.freeze(terms)
    uploads.committed(uploads.close(frozen, {}, oldest_taken=1).receipts)
    later = replace(terms, round_id=3, earlier={2: terms})
    assert announce(uploads, another, later)[-1].reason == "second-update"
    assert announce(uploads, another, replace(terms, round_id=9))[-1].reason == "second-update"


def test_a_frozen_round_makes_a_late_update_wait_for_the_next(
    update_maker: Any, update: Any, terms: Any
) -> None:
    uploads = make(late=LatePolicy.STALE)
    announce(uploads, update, terms)
    store_all(uploads, update)
    frozen = uploads.freeze(terms)
    other = update_maker(client_id="b", run=RUN, round_id=2)
    assert announce(uploads, other, terms, client_id="b") == []
    uploads.committed(uploads.close(frozen, {}, oldest_taken=1).receipts)
    later = replace(terms, round_id=3, earlier={2: terms})
    assert announce(uploads, other, later, client_id="b")[-1] == UploadLate("b")


def test_a_frozen_set_is_the_same_after_a_restart(
    update: Any, update_maker: Any, terms: Any
) -> None:
    fresh = update_maker(client_id="b", run=RUN, round_id=4)
    uploads = make(round_id=4, late=LatePolicy.STALE)
    announce(uploads, update, taking(terms))
    announce(uploads, fresh, taking(terms), client_id="b")
    store_all(uploads, update)
    frozen = uploads.freeze(taking(terms))
    records = [
        UpdateRecord(update.uid, update.manifest, frozenset({0, 1, 2, 3}), frozen[0].accepted),
        UpdateRecord(fresh.uid, fresh.manifest, frozenset()),
    ]
    restored = make(round_id=4, late=LatePolicy.STALE, updates=records, frozen=True)
    assert restored.frozen(taking(terms)) == frozen


# Quotas -----------------------------------------------------------------------------------------


def test_a_device_with_many_open_updates_is_not_answered_until_one_is_settled(
    update_maker: Any, terms: Any
) -> None:
    uploads = make(round_id=4, late=LatePolicy.STALE)
    few = taking(terms, max_open=2)
    updates = [update_maker(client_id="a", run=RUN, round_id=round_id) for round_id in (2, 3, 4)]
    for each in updates[:2]:
        announce(uploads, each, few)
    (refused,) = announce(uploads, updates[2], few)
    assert isinstance(refused, UploadRefused)
    assert refused.reason == "quota-open"
    uploads.freeze(few)
    uploads.committed(uploads.close([], {}, oldest_taken=3).receipts)
    assert isinstance(announce(uploads, updates[2], few)[0], JournalManifest)


def test_what_finds_no_room_in_the_journal_stays_missing_and_comes_again(
    update: Any, terms: Any
) -> None:
    shared = quotas(disk_bytes=len(update.bodies[0]))
    uploads = make(quotas=shared)
    announce(uploads, update, terms)
    assert isinstance(send(uploads, update, 0)[0], JournalSegment)
    uploads.stored(update.uid, {0}, now=0.0)
    (refused,) = send(uploads, update, 1)
    assert refused.reason == "quota-disk"
    assert send(uploads, update, 0) == []  # held: it takes no room again
    receipts = uploads.close(uploads.freeze(terms), {}, oldest_taken=3).receipts
    assert receipts[update.uid].accepted == {0}
    uploads.committed(receipts)
    assert shared.disk_bytes == 0


def test_the_journal_s_bytes_are_known_again_after_a_restart(update: Any) -> None:
    shared = quotas()
    make(quotas=shared, updates=[UpdateRecord(update.uid, update.manifest, frozenset({0, 1}))])
    assert shared.disk_bytes == len(update.bodies[0]) + len(update.bodies[1])
