"""A fault that is planted in the machines is found within a few seeds: the checker can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agent.inbox import Inbox
from agent.uploads import Uploads as DeviceUploads
from aggregator import uploads as aggregator_uploads
from aggregator.coordinator import Coordinator
from aggregator.settled import Settled
from tools.simulate import payloads
from tools.simulate.campaign import Campaign, run
from tools.simulate.faults import ALL, Kind
from tools.simulate.journal import Journal
from tools.simulate.outbox import Outbox
from tools.simulate.service import Aggregator
from transport.messages import ReceiptState
from transport.receiver import Receiver

SEEDS = 60


def found(kinds: frozenset[Kind] = ALL, *, first_seed: int = 1) -> str:
    """Return which promise the first failing seed saw broken; "" where none did."""
    campaign = Campaign(SEEDS, first_seed, None, 12, kinds)
    failure = run(campaign, jobs=1).failure
    return "" if failure is None else failure.violation


def test_nothing_is_found_where_nothing_is_planted() -> None:
    assert found() == ""


def test_a_settled_update_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipts of earlier starts are not read again."""
    load: Callable[[Journal], Any] = Journal.load
    monkeypatch.setattr(Journal, "load", lambda self: replace(load(self), settled={}))
    assert found() in {"one-word", "receipt", "twice"}


def test_a_receipt_that_is_not_kept_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settled, "receipt", lambda _self, _uid, **_known: None)
    assert found() in {"one-word", "receipt", "twice", "stuck"}


def test_an_acknowledgement_before_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is told that a segment is durable, and the process dies before it is."""

    def write(self: Journal, entries: Any) -> None:
        kept = [entry for entry in entries if type(entry).__name__ != "JournalSegment"]
        original(self, kept)

    original = Journal.write
    monkeypatch.setattr(Journal, "write", write)
    assert found() != ""


def test_a_second_update_that_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    original = aggregator_uploads.admit

    def admit(manifest: Any, **known: Any) -> Any:
        return original(manifest, **(known | {"held_uid": None}))

    monkeypatch.setattr(aggregator_uploads, "admit", admit)
    monkeypatch.setattr(Journal, "write", _write_all)
    assert found(frozenset({Kind.HOSTILE})) in {"twice", "error"}


def _write_all(self: Journal, entries: Any) -> None:
    """Journal a second update as well, which the real tables would refuse."""
    for entry in entries:
        if type(entry).__name__ == "JournalManifest":
            self.add(entry.uid, entry.manifest)
        else:
            ORIGINAL_WRITE(self, [entry])


ORIGINAL_WRITE = Journal.write


def test_a_uid_that_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.admission.frame", SimpleNamespace(uid=lambda _: _Anything()))
    assert found(frozenset({Kind.HOSTILE})) == "foreign"


class _Anything(str):
    __slots__ = ()

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = str.__hash__


def test_a_digest_that_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(self: Receiver, index: int, body: bytes, *, now: float) -> list[Any]:
        if 0 <= index < len(self._entries) and len(body) == self._entries[index].length:
            self._entries = tuple(
                replace(entry, sha256=payloads.entries_of((body,))[0].sha256)
                if number == index
                else entry
                for number, entry in enumerate(self._entries)
            )
        return list(original(self, index, body, now=now))

    original = Receiver.receive
    monkeypatch.setattr(Receiver, "receive", receive)
    assert found(frozenset({Kind.HOSTILE})) == "foreign"


def test_a_residual_that_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbox, "_leaves", lambda _self, _receipt, _segments: False)
    assert found() == "lost"


def test_a_residual_that_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Outbox.commit

    def twice(self: Outbox, payload: Any, make: Any) -> Any:
        left = dict(self.left)
        upload = commit(self, payload, make)
        self.left.update(left)
        return upload

    monkeypatch.setattr(Outbox, "commit", twice)
    assert found() == "twice"


def test_an_update_that_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    def adopt(self: Outbox, _make: Any) -> list[Any]:
        known = {(payload.run, payload.round_id) for _, payload in self.rows.values()}
        left = [leftover.payload for leftover in self.left.values()]
        for name, payload in list(self.files.items()):
            if name not in known and payload not in left:
                del self.files[name]
        return []

    monkeypatch.setattr(Outbox, "adopt", adopt)
    monkeypatch.setattr("tools.simulate.truth.Truth.discarded", lambda *_: None)
    assert found(frozenset({Kind.AGENT_CRASH})) == "lost"


def test_an_outbox_that_frees_on_the_last_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete delivery is taken for the last word."""
    receive = DeviceUploads.receive

    def eager(self: DeviceUploads, uid: str, message: Any, *, now: float) -> list[Any]:
        if type(message).__name__ == "Have" and len(message.accepted) == message.total:
            from agent.outputs import SettleUpdate  # noqa: PLC0415 - only here
            from transport.messages import Receipt  # noqa: PLC0415 - only here

            self.drop(uid)
            receipt = Receipt(
                message.epoch, ReceiptState.ACCEPTED, "", message.accepted, message.total
            )
            return [SettleUpdate(uid, receipt)]
        return list(receive(self, uid, message, now=now))

    monkeypatch.setattr(DeviceUploads, "receive", eager)
    assert found() == "receipt"


def test_a_frozen_set_that_is_chosen_again_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Journal.load

    def thawed(self: Journal) -> Any:
        snapshot = load(self)
        updates = tuple(
            replace(update, frozen=frozenset(sorted(update.frozen)[:1]))
            if update.frozen
            else update
            for update in snapshot.updates
        )
        return replace(snapshot, updates=updates)

    monkeypatch.setattr(Journal, "load", thawed)
    assert found(frozenset({Kind.AGGREGATOR_CRASH})) == "frozen-set"


def test_a_version_that_depends_on_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    original = payloads.next_digest
    calls = 0

    def random_digest(before: bytes, frozen: Any) -> bytes:
        nonlocal calls
        calls += 1
        return original(before + str(calls).encode(), frozen)

    monkeypatch.setattr(payloads, "next_digest", random_digest)
    assert found(frozenset({Kind.AGGREGATOR_CRASH})) == "digest"


def test_a_deadline_without_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coordinator, "next_wakeup", lambda _self: None)
    assert found(frozenset({Kind.NEVER_RETURN, Kind.SLOW})) in {
        "deadline",
        "timer",
        "stuck",
        "resent",
    }


def test_a_device_that_says_nothing_after_a_reconnection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceUploads, "connected", lambda _self, _now: [])
    assert found(frozenset({Kind.CUT, Kind.BROKER_WIPE})) in {"stuck", "timer", "lost"}


def test_an_old_epoch_that_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fencing at the aggregator, two of them make two lineages."""

    def only_own(self: Any, status: Any, *, retained: bool, now: float) -> list[Any]:
        own = status.session == self._session and not retained
        return list(self._own(status, now=now)) if own else []

    monkeypatch.setattr("aggregator.fencing.Fence._fork", lambda _self, _shown: "")
    monkeypatch.setattr("aggregator.fencing.Fence._objection", lambda _self: "")
    monkeypatch.setattr("aggregator.fencing.Fence._beside", lambda _self, _status, **_known: [])
    monkeypatch.setattr("aggregator.fencing.Fence._status", only_own)
    monkeypatch.setattr(Inbox, "fenced", lambda _self, _epoch: False)
    kinds = frozenset({Kind.TWO_AGGREGATORS, Kind.CUT, Kind.BLACKOUT, Kind.LOSS})
    assert found(kinds) in {"versions", "digest", "lineage", "receipt", "stuck"}


def test_an_aggregator_that_never_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.simulate.world.World.restart", lambda _self, _process: None)
    assert found(frozenset({Kind.AGGREGATOR_CRASH})) in {"timer", "stuck"}
    assert Aggregator.__doc__
