"""The journal, opened again after every step."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.journal import (
    EARLIER_ROUNDS,
    RoundRecord,
    RoundState,
    SettledUpdate,
    Snapshot,
    Tally,
)
from aggregator.outputs import (
    Commit,
    Freeze,
    FrozenUpdate,
    JournalCloned,
    JournalEvaluation,
    JournalLate,
    JournalManifest,
    JournalSegment,
    Reopen,
    SaveRound,
)
from aggregator.store import SCHEMA_VERSION, ForeignJournal, Store, StoreUnavailable
from transport import frame
from transport.control import RoundSummary
from transport.messages import Evaluation, Receipt, ReceiptState

SUMMARY = RoundSummary(
    "r", 1, 1, 1, 1, 0, 0, 2.5, 100, 90, 200, 10, 1.5, 0, 2.5, 0.25, 100, {"round": 3}
)
TALLY = Tally(bytes_up=7, bytes_down=8, seconds=2.5, late=1, refused={"codec": 2})
RECORD = RoundRecord(1, 2, RoundState.OPEN, ("a", "b"), ("a", "b", "c"), ("b",), ("z",), TALLY)


@pytest.fixture
def path(tmp_path: Any) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def reopened(path: Any) -> Any:
    """Open the journal as the next process would, closing the one before."""
    stores = []

    def reopen(identity: Any = "one") -> Store:
        if stores:
            stores.pop().close()
        stores.append(Store(path, identity=identity))
        return stores[-1]

    yield reopen
    for store in stores:
        store.close()


@pytest.fixture
def update(update_maker: Any) -> Any:
    return update_maker(client_id="a", run="e" * 32, round_id=1)


def state_of(record: Any, state: Any) -> RoundRecord:
    return RoundRecord(record.round_id, record.attempt, state, record.cohort, record.invited)


def test_a_run_keeps_its_id_and_each_start_has_an_epoch_of_its_own(reopened: Any) -> None:
    first = reopened().run
    second = reopened().run
    assert (second.run, first.epoch, second.epoch) == (first.run, 1, 2)
    assert len(first.run) == 32
    assert reopened().load() == Snapshot()


def test_every_transaction_is_on_disk_when_it_returns(reopened: Any) -> None:
    store = reopened()
    (mode,) = store._connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = store._connection.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2)


def test_what_is_written_is_there_after_a_restart(reopened: Any, update: Any) -> None:
    reopened().write(
        [
            JournalManifest(update.uid, update.manifest),
            JournalSegment(update.uid, 2, update.bodies[2]),
            SaveRound(RECORD),
        ]
    )
    snapshot = reopened().load()
    assert snapshot.round == RECORD
    (record,) = snapshot.updates
    assert (record.uid, record.manifest, record.held, record.frozen) == (
        update.uid,
        update.manifest,
        {2},
        None,
    )
    assert reopened().segments(update.uid, {2}) == {2: update.bodies[2]}


def test_what_is_written_twice_is_there_once(reopened: Any, update: Any) -> None:
    entries = [
        JournalManifest(update.uid, update.manifest),
        JournalSegment(update.uid, 0, update.bodies[0]),
    ]
    reopened().write([*entries, *entries])
    reopened().write([*entries, JournalSegment(update.uid, 0, b"another")])
    store = reopened()
    assert store.segments(update.uid, {0}) == {0: update.bodies[0]}


def test_a_quarantine_holds_until_it_is_lifted(reopened: Any) -> None:
    for cloned in (True, True, False):
        reopened().write([JournalCloned("a", cloned), JournalCloned("b", cloned=True)])
        assert reopened().load().cloned == ({"a", "b"} if cloned else {"b"})


def test_the_last_word_on_what_was_never_let_in_is_kept(reopened: Any, update: Any) -> None:
    late = Receipt(1, ReceiptState.LATE, "late", frozenset(), 4)
    dropped = Receipt(1, ReceiptState.LATE, "dropped", frozenset(), 4)
    for receipt in (late, dropped):
        reopened().write([JournalLate(update.uid, "a", 3, 9, receipt)])
        settled = SettledUpdate("a", 3, 9, frame.encode(late))
        assert reopened().load().settled == {update.uid: settled}


def test_a_batch_is_written_whole_or_not_at_all(reopened: Any, update: Any) -> None:
    store = reopened()
    bad = JournalSegment(update.uid, 1, object())
    with pytest.raises(sqlite3.Error):
        store.write([JournalManifest(update.uid, update.manifest), bad])
    assert reopened().load().updates == ()


def test_a_frozen_set_is_what_it_was(reopened: Any, update: Any) -> None:
    store = reopened()
    store.write([JournalManifest(update.uid, update.manifest), SaveRound(RECORD)])
    store.write([JournalSegment(update.uid, index, b"x") for index in (0, 1, 3)])
    frozen = FrozenUpdate(update.uid, 10, len(update.bodies), frozenset({0, 3}))
    store.freeze(Freeze(state_of(RECORD, RoundState.FROZEN), (frozen,)))
    snapshot = reopened().load()
    assert snapshot.round.state is RoundState.FROZEN
    assert (snapshot.updates[0].frozen, snapshot.updates[0].held) == ({0, 3}, {0, 1, 3})


def test_reopening_thaws_and_settles_in_one_step(
    reopened: Any, update: Any, update_maker: Any
) -> None:
    other = update_maker(client_id="b", run="e" * 32, round_id=1)
    store = reopened()
    for each in (update, other):
        store.write([JournalManifest(each.uid, each.manifest), JournalSegment(each.uid, 0, b"x")])
    frozen = [
        FrozenUpdate(each.uid, 1, len(each.bodies), frozenset({0})) for each in (update, other)
    ]
    store.freeze(Freeze(state_of(RECORD, RoundState.FROZEN), tuple(frozen)))
    receipt = Receipt(1, ReceiptState.REFUSED, "corrupt", frozenset(), len(update.bodies))
    store.reopen(Reopen(RECORD, {update.uid: receipt}))
    snapshot = reopened().load()
    assert snapshot.round.state is RoundState.OPEN
    assert [record.uid for record in snapshot.updates] == [other.uid]
    assert snapshot.updates[0].frozen is None
    assert snapshot.settled[update.uid].receipt == receipt
    # Its place is free for another update of the same device.
    again = update_maker(client_id="a", run="e" * 32, round_id=1, seq=9)
    reopened().write([JournalManifest(again.uid, again.manifest)])
    assert len(reopened().load().updates) == 2


def test_a_committed_round_leaves_its_summary_and_receipts(reopened: Any, update: Any) -> None:
    store = reopened()
    store.write([JournalManifest(update.uid, update.manifest), SaveRound(RECORD)])
    store.write([JournalSegment(update.uid, 0, b"x")])
    receipt = Receipt(1, ReceiptState.PARTIAL, "partial", frozenset({0}), len(update.bodies))
    record = state_of(RECORD, RoundState.COMMITTED)
    store.commit(Commit(record, 1, {update.uid: receipt}, SUMMARY))
    snapshot = reopened().load()
    assert (snapshot.version, snapshot.round, snapshot.updates) == (1, None, ())
    assert snapshot.summaries == (SUMMARY,)
    assert snapshot.settled[update.uid].client_id == "a"
    assert snapshot.settled[update.uid].receipt == receipt
    reopened().write([SaveRound(RoundRecord(2, 1))])
    assert reopened().load().round == RoundRecord(2, 1)


def test_a_late_update_stays_with_its_segments_and_is_settled_under_its_own_round(
    reopened: Any, update: Any
) -> None:
    store = reopened()
    store.write([JournalManifest(update.uid, update.manifest), SaveRound(RECORD)])
    store.write([JournalSegment(update.uid, 1, b"x")])
    store.commit(Commit(state_of(RECORD, RoundState.COMMITTED), 1, {}, SUMMARY))
    (record,) = reopened().load().updates
    assert (record.uid, record.held, record.frozen) == (update.uid, {1}, None)
    receipt = Receipt(1, ReceiptState.PARTIAL, "partial", frozenset({1}), len(update.bodies))
    second = RoundRecord(2, 1, RoundState.COMMITTED)
    summary = replace(SUMMARY, round_id=2, version=2)
    reopened().commit(Commit(second, 2, {update.uid: receipt}, summary))
    snapshot = reopened().load()
    assert snapshot.updates == ()
    assert snapshot.settled[update.uid].round_id == 1


def test_a_restart_knows_the_newest_committed_rounds(reopened: Any) -> None:
    store = reopened()
    for round_id in range(1, EARLIER_ROUNDS + 4):
        record = RoundRecord(
            round_id,
            1,
            RoundState.COMMITTED,
            invited=("a", f"d{round_id}"),
            barred=("z",),
            attempt_s=0.1,
            norms=(1 / 3, float(round_id)),
        )
        summary = replace(SUMMARY, round_id=round_id, version=round_id)
        store.commit(Commit(record, round_id, {}, summary))
        last = record
    earlier = reopened().load().earlier
    assert [record.round_id for record in earlier] == list(range(4, EARLIER_ROUNDS + 4))
    assert earlier[-1] == last


def test_evaluations_belong_to_their_version(reopened: Any) -> None:
    evaluation = Evaluation(1.5, 10, 5)
    reopened().write(
        [
            JournalEvaluation(0, "a", evaluation),
            JournalEvaluation(0, "a", Evaluation(9.0, 9, 9)),
            JournalEvaluation(7, "a", Evaluation(2.0, 9, 9)),
        ]
    )
    assert reopened().load().evaluations == {"a": evaluation}


def test_a_run_is_finished_with_a_version(reopened: Any) -> None:
    reopened().finish(1)
    assert not reopened().load().finished
    reopened().finish(0)
    assert reopened().load().finished


def test_another_run_s_journal_is_refused(reopened: Any) -> None:
    reopened()
    with pytest.raises(ForeignJournal, match="choose another state_dir"):
        reopened("two")


def test_a_newer_journal_is_refused(reopened: Any) -> None:
    reopened()._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(ForeignJournal, match="upgrade"):
        reopened()


def test_a_file_that_is_no_journal_is_refused(path: Any, reopened: Any) -> None:
    path.write_bytes(b"this is no database at all, but long enough to be looked at" * 50)
    with pytest.raises(ForeignJournal, match="no journal"):
        reopened()


def test_a_folder_that_cannot_be_written_is_the_world_s_fault(path: Any, reopened: Any) -> None:
    path.mkdir()
    with pytest.raises(StoreUnavailable):
        reopened()


def test_a_disk_that_fails_is_the_world_s_fault(reopened: Any) -> None:
    store = reopened()
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="journal"):
        store.write([SaveRound(RECORD)])


def test_a_journal_that_cannot_be_read_is_the_world_s_fault(reopened: Any) -> None:
    store = reopened()
    store._connection.execute("DROP TABLE segments")
    with pytest.raises(StoreUnavailable, match="read"):
        store.segments("0" * 32, [0])
    store._connection.execute("DROP TABLE rounds")
    with pytest.raises(StoreUnavailable, match="read"):
        store.load()
