"""Updates in any order over many rounds and restarts: each counts once, late ones weigh less."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.admission import LatePolicy, Terms
from aggregator.journal import SettledUpdate, UpdateRecord
from aggregator.outputs import JournalLate, JournalManifest, JournalSegment, Publish
from aggregator.quotas import QuotaPolicy, Quotas
from aggregator.uploads import UploadProgress, Uploads
from transport import frame
from transport.messages import Manifest, Receipt, ReceiptState, Segment, SegmentEntry
from transport.topics import UpManifest, UpSegment
from transport.transfer import TransferPolicy

RUN = "a" * 32
CLIENTS = ("a", "b")
MAX_STALENESS = 2
SEGMENTS = 3


def body_of(client_id: str, round_id: int, seq: int, index: int) -> bytes:
    return f"{client_id} {round_id} {seq} {index}".encode()


def manifest_of(client_id: str, round_id: int, seq: int) -> Manifest:
    bodies = [body_of(client_id, round_id, seq, index) for index in range(SEGMENTS)]
    return Manifest(
        run=RUN,
        round_id=round_id,
        base_version=round_id - 1,
        base_digest=bytes(32),
        layout_digest=bytes(32),
        client_id=client_id,
        seq=seq,
        codec="fp32",
        num_examples=7,
        segments=tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies),
        train_loss=1.0,
        steps=1,
        train_s=1.0,
        evaluation=None,
    )


class UploadsMachine(RuleBasedStateMachine):
    """Keeps a journal as the store does, and compares after every step and restart."""

    def __init__(self) -> None:
        super().__init__()
        self.round_id = 1
        self.invited: dict[int, frozenset[str]] = {1: frozenset(CLIENTS)}
        self.manifests: dict[str, Manifest] = {}
        self.segments: dict[str, dict[int, bytes]] = {}
        self.receipts: dict[str, Receipt] = {}
        self.now = 0.0
        self.settled: dict[str, SettledUpdate] = {}
        self.counted: dict[tuple[int, str], str] = {}
        self.numbers: dict[tuple[str, int], str] = {}
        self.told_late: dict[str, Receipt] = {}
        self.open()

    def open(self) -> None:
        self.quotas = Quotas(QuotaPolicy(1e6, 1_000, 1.0, 1 << 20))
        self.uploads = Uploads(
            round_id=self.round_id,
            epoch=1,
            policy=TransferPolicy(),
            late=LatePolicy.STALE,
            quotas=self.quotas,
            updates=[
                UpdateRecord(uid, manifest, frozenset(self.segments.get(uid, {})))
                for uid, manifest in self.manifests.items()
            ],
            settled=self.settled,
        )

    def terms(self) -> Terms:
        oldest = max(1, self.round_id - MAX_STALENESS)
        earlier = {round_id: self.terms_of(round_id) for round_id in range(oldest, self.round_id)}
        return self.terms_of(self.round_id, earlier=earlier)

    def terms_of(self, round_id: int, **changes: Any) -> Terms:
        return Terms(
            run=RUN,
            round_id=round_id,
            invited=self.invited[round_id],
            base_digest=bytes(32),
            layout_digest=bytes(32),
            codec="fp32",
            update_bytes=1_000,
            segment_bytes=100,
            max_examples=100,
            max_open=8,
            **changes,
        )

    def carry_out(self, outputs: list[Any]) -> None:
        for output in outputs:
            match output:
                case JournalManifest(uid, manifest):
                    assert uid not in self.manifests
                    self.manifests[uid] = manifest
                    self.number(uid, manifest.client_id, manifest.seq)
                case JournalLate(uid, client_id, round_id, seq, receipt):
                    assert uid not in self.manifests | self.settled
                    self.settled[uid] = SettledUpdate(
                        client_id, round_id, seq, frame.encode(receipt)
                    )
                    self.number(uid, client_id, seq)
                case JournalSegment(uid, index, body):
                    assert index not in self.segments.setdefault(uid, {})
                    self.segments[uid][index] = body
                    self.carry_out(self.uploads.stored(uid, {index}, now=self.now))
                case UploadProgress(client_id, _):
                    assert client_id in self.uploads.arrived()
                case Publish(address, Receipt() as receipt):
                    uid = getattr(address, "uid", "")
                    if uid in self.receipts:
                        assert receipt == self.receipts[uid], "the last word was not the last"
                    elif receipt.state is not ReceiptState.REFUSED:
                        assert receipt.state is ReceiptState.LATE
                        self.told_late[uid] = receipt

    def number(self, uid: str, client_id: str, seq: int) -> None:
        assert self.numbers.setdefault((client_id, seq), uid) == uid, "one number, two updates"

    @rule(client_id=st.sampled_from(CLIENTS), back=st.integers(-1, 4), seq=st.integers(1, 2))
    def announce(self, client_id: str, back: int, seq: int) -> None:
        round_id = max(1, self.round_id - back)
        self.offer(client_id, round_id, seq=10 * round_id + seq)

    @rule(client_id=st.sampled_from(CLIENTS), back=st.integers(0, 3), ahead=st.integers(1, 2))
    def announce_what_a_copied_outbox_has_made(self, client_id: str, back: int, ahead: int) -> None:
        """Its number is that of an update of another round."""
        round_id = max(1, self.round_id - back)
        self.offer(client_id, round_id, seq=10 * (round_id - ahead) + 1)

    def offer(self, client_id: str, round_id: int, *, seq: int) -> None:
        if seq < 1:
            return
        manifest = manifest_of(client_id, round_id, seq)
        uid = frame.uid(manifest)
        address = UpManifest(client_id, uid)
        known = set(self.manifests)
        self.carry_out(self.uploads.announced(address, manifest, terms=self.terms(), now=self.now))
        if uid in self.manifests and uid not in known:
            assert client_id in self.invited[round_id]
            assert 0 <= self.round_id - round_id <= MAX_STALENESS
            assert uid not in self.receipts

    @rule(client_id=st.sampled_from(CLIENTS), back=st.integers(0, 2), seq=st.integers(1, 2))
    def deliver(self, client_id: str, back: int, seq: int) -> None:
        """Announce an update, and let one segment of it come where it is let in."""
        self.announce(client_id, back, seq)
        round_id = max(1, self.round_id - back)
        seq += 10 * round_id
        uid = frame.uid(manifest_of(client_id, round_id, seq))
        if uid in self.manifests:
            address = UpSegment(client_id, uid, 0)
            body = body_of(client_id, self.manifests[uid].round_id, seq, 0)
            self.carry_out(self.uploads.segment(address, Segment(body), now=self.now))

    @precondition(lambda self: self.manifests)
    @rule(data=st.data(), index=st.integers(0, SEGMENTS - 1))
    def send(self, data: Any, index: int) -> None:
        uid = data.draw(st.sampled_from(sorted(self.manifests)))
        manifest = self.manifests[uid]
        body = body_of(manifest.client_id, manifest.round_id, manifest.seq, index)
        address = UpSegment(manifest.client_id, uid, index)
        self.carry_out(self.uploads.segment(address, Segment(body), now=self.now))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = {uid for uid, moment in self.owed().items() if moment <= self.now}
        answers = self.uploads.tick(self.now)
        answered = [a.address.uid for a in answers if isinstance(a, Publish)]  # type: ignore[union-attr]  # all are Down
        assert answered == [uid for uid in self.uploads.manifests() if uid in due]

    def owed(self) -> dict[str, float]:
        moments = {
            uid: upload.receiver.next_wakeup() for uid, upload in self.uploads._uploads.items()
        }
        return {uid: moment for uid, moment in moments.items() if moment is not None}

    @rule(data=st.data())
    def reopen(self, data: Any) -> None:
        """The round goes on without some of its updates."""
        frozen = [update.uid for update in self.uploads.freeze(self.terms())]
        assert self.uploads.next_wakeup() is None
        refused = data.draw(st.sets(st.sampled_from(frozen))) if frozen else set()
        for uid, receipt in self.uploads.thaw(dict.fromkeys(refused, "corrupt")).items():
            manifest = self.manifests.pop(uid)
            del self.segments[uid]
            self.receipts[uid] = receipt
            self.settled[uid] = SettledUpdate(
                manifest.client_id, manifest.round_id, manifest.seq, frame.encode(receipt)
            )

    @rule()
    def restart(self) -> None:
        before = (self.uploads.manifests(), dict(self.uploads.arrived()), self.quotas.disk_bytes)
        self.open()
        assert before == (
            self.uploads.manifests(),
            self.uploads.arrived(),
            self.quotas.disk_bytes,
        )

    @rule(invited=st.sets(st.sampled_from(CLIENTS)), refuse=st.booleans())
    def close(self, invited: set[str], refuse: bool) -> None:  # noqa: FBT001 - hypothesis names it
        frozen = self.uploads.freeze(self.terms())
        assert [update.uid for update in frozen] == sorted(
            uid for uid in self.manifests if self.segments.get(uid)
        )
        refused = {frozen[0].uid: "corrupt"} if frozen and refuse else {}
        included = [update for update in frozen if update.uid not in refused]
        for update in included:
            manifest = self.manifests[update.uid]
            staleness = self.round_id - manifest.round_id
            assert 0 <= staleness <= MAX_STALENESS
            assert update.weight == 7 / math.sqrt(1 + staleness)
            key = (manifest.round_id, manifest.client_id)
            assert key not in self.counted, "a device counts twice in a round"
            self.counted[key] = update.uid
        oldest = self.round_id + 1 - MAX_STALENESS
        closing = self.uploads.close(included, refused, oldest_taken=oldest)
        for uid, receipt in closing.receipts.items():
            manifest = self.manifests.pop(uid)
            held = frozenset(self.segments.pop(uid, {}))
            assert receipt.accepted == (frozenset() if uid in refused else held)
            if receipt.state is ReceiptState.LATE:
                assert not held
                assert manifest.round_id < oldest
            self.receipts[uid] = receipt
            self.settled[uid] = SettledUpdate(
                manifest.client_id, manifest.round_id, manifest.seq, frame.encode(receipt)
            )
        self.carry_out(self.uploads.committed(closing.receipts))
        self.round_id += 1
        self.invited[self.round_id] = frozenset(invited)

    @invariant()
    def the_journal_is_what_the_machine_believes(self) -> None:
        assert self.uploads.manifests() == self.manifests
        held = [body for bodies in self.segments.values() for body in bodies.values()]
        assert self.quotas.disk_bytes == sum(map(len, held))
        assert not self.told_late.keys() & (self.manifests.keys() | self.receipts.keys())

    @invariant()
    def nothing_late_is_awaited(self) -> None:
        fresh = {
            manifest.client_id: len(self.segments[uid]) == SEGMENTS
            for uid, manifest in self.manifests.items()
            if manifest.round_id == self.round_id and self.segments.get(uid)
        }
        assert self.uploads.arrived() == fresh

    @invariant()
    def the_next_answer_is_the_earliest_that_is_owed(self) -> None:
        assert self.uploads.next_wakeup() == min(self.owed().values(), default=None)


TestUploadsMachine = UploadsMachine.TestCase
TestUploadsMachine.settings = settings(deadline=None, max_examples=40, stateful_step_count=40)
