"""The client updates without a last word: from the first manifest to the receipt.

    event                                                 what becomes of the update
    let in                                                it waits for the end of the open round
    that round is committed with some of its segments     receipt `accepted` or `partial`
    that round is committed without any, `late: stale`    it waits for the end of the next one
    the same, and it would be too old there               receipt `late`
    the same, `late: merge` or `late: drop`               receipt `late`, by its reason
    it does not decode                                    receipt `refused`

Pure: admission and the receiving half of the transfer, put together for all devices. A device has
at most one update for each round, and may have several at once. Every message may come twice, late,
or after a restart; the answer is the same.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from aggregator.admission import LatePolicy, Refusal, Terms, admit, copied_outbox, is_too_late
from aggregator.agenda import Agenda
from aggregator.journal import SettledUpdate, UpdateRecord
from aggregator.outputs import FrozenUpdate, JournalLate, JournalManifest, JournalSegment, Publish
from aggregator.quotas import Quotas
from aggregator.settled import Settled
from transport.messages import (
    Evaluation,
    Have,
    Manifest,
    Message,
    Receipt,
    ReceiptState,
    Segment,
    Want,
)
from transport.topics import Down, UpManifest, UpSegment
from transport.transfer import (
    Journal,
    Receiver,
    ReceiverOutput,
    RefuseSegment,
    SendHave,
    TransferPolicy,
)

logger = logging.getLogger(__name__)

# A device that sends segments which no manifest names gets one answer in this time, not one each.
ANSWER_INTERVAL_S = 2.0
# Bounds the memory of those answers against made-up uids.
MAX_ANSWERS = 4_096


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """So much of a device's update for the open round is durable."""

    client_id: str
    complete: bool


@dataclass(frozen=True, slots=True)
class UploadRefused:
    """An update or a segment of it was not let in."""

    client_id: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class UploadLate:
    """An update of a round that is over was offered for the first time."""

    client_id: str
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class UploadTwin:
    """Two updates have one number: two devices go on from one copied outbox."""

    client_id: str


UploadOutput = (
    Publish
    | JournalManifest
    | JournalSegment
    | JournalLate
    | UploadProgress
    | UploadRefused
    | UploadLate
    | UploadTwin
)


@dataclass(slots=True)
class _Upload:
    number: int  # in the order in which they were let in
    manifest: Manifest
    receiver: Receiver
    journaled_bytes: int = 0
    frozen: frozenset[int] = frozenset()

    @property
    def total(self) -> int:
        return len(self.manifest.segments)


def _progress(upload: _Upload) -> UploadProgress:
    return UploadProgress(upload.manifest.client_id, upload.receiver.complete)


@dataclass(frozen=True, slots=True)
class Closing:
    """What a round's commit says of the updates that wait.

    Attributes:
        receipts: uid → the last word.
        late: Updates that have just missed their own round.
        dropped: Those of them that are thrown away.
    """

    receipts: Mapping[str, Receipt]
    late: int
    dropped: int


class Uploads:
    """Receives the updates of one round after the other.

    Args:
        round_id: The round that is on, or the next one to open.
        epoch: Stamped on every answer.
        policy: How acknowledgements are gathered.
        late: What becomes of late updates.
        quotas: Where the journal's bytes are counted.
        updates: What was journaled before a restart.
        settled: The last word on every update that was let in, for all rounds of the run.
        frozen: The round was frozen before the restart: nothing is let in any more.
    """

    def __init__(
        self,
        *,
        round_id: int,
        epoch: int,
        policy: TransferPolicy,
        late: LatePolicy,
        quotas: Quotas,
        updates: Iterable[UpdateRecord] = (),
        settled: Mapping[str, SettledUpdate] | None = None,
        frozen: bool = False,
    ) -> None:
        self._round_id = round_id
        self._epoch = epoch
        self._policy = policy
        self._late = late
        self._quotas = quotas
        self._frozen = frozen
        self._uploads: dict[str, _Upload] = {}
        self._number = itertools.count()
        self._answers = Agenda()  # uid → when its device is owed an answer
        self._of_client: dict[str, dict[int, str]] = {}
        self._settled = Settled(settled or {})
        self._answered: dict[str, float] = {}
        for record in updates:
            receiver = Receiver(record.uid, record.manifest, held=record.held, policy=policy)
            upload = self._add(record.uid, record.manifest, receiver)
            upload.frozen = record.frozen or frozenset()
            for index in record.held:
                self._journal(upload, record.manifest.segments[index].length)
        self._arrived = self._find_arrived()

    def arrived(self) -> Mapping[str, bool]:
        """Return device → whether its update is complete, for all that have a durable segment.

        Only updates of the round that is on: nobody waits for a late one. A view, which changes.
        """
        return self._arrived

    def is_fresh(self, uid: str) -> bool:
        """Say whether an update is of the round that is on."""
        return self._is_fresh(self._uploads[uid])

    def manifests(self) -> dict[str, Manifest]:
        """Return uid → manifest of the updates that wait."""
        return {uid: upload.manifest for uid, upload in self._uploads.items()}

    def evaluations(self, *, refused: Collection[str] = ()) -> list[Evaluation]:
        """Return what devices reported of the version that the round starts from."""
        return [
            upload.manifest.evaluation
            for uid, upload in self._uploads.items()
            if upload.manifest.evaluation is not None
            and uid not in refused
            and self._is_fresh(upload)
        ]

    def announced(
        self, address: UpManifest, manifest: Manifest, *, terms: Terms, now: float
    ) -> list[UploadOutput]:
        """Take a manifest, and answer with what is held, or with the last word."""
        client_id, uid = address.client_id, address.uid
        receipt = self._settled.receipt(uid, client_id=client_id)
        if receipt is not None:
            return [self._receipt(client_id, uid, receipt)]
        upload = self._uploads.get(uid)
        if upload is not None and upload.manifest == manifest and manifest.client_id == client_id:
            if self._frozen:
                return []  # the receipt follows when the new adapter is durable
            return self._translate(uid, upload.receiver.announced(now))
        held_uid = self._uid_of(client_id, manifest.round_id)
        numbered_uid = self._numbered(client_id, manifest.seq)
        if is_too_late(manifest, client_id=client_id, terms=terms):
            copied = copied_outbox(uid, client_id=client_id, numbered_uid=numbered_uid, terms=terms)
            if copied is not None:
                return self._refuse(address, copied)
            if held_uid is None:
                return self._too_late(address, manifest)
            return self._refuse(address, Refusal.SECOND_UPDATE)
        refusal = admit(
            manifest,
            uid=uid,
            client_id=client_id,
            held_uid=held_uid,
            numbered_uid=numbered_uid,
            open_updates=len(self._of_client.get(client_id, ())),
            terms=terms,
        )
        if refusal is not None:
            return self._refuse(address, refusal)
        if self._frozen:
            # A late one is asked for again when the next round can take it.
            stays = self._late is LatePolicy.STALE
            return [] if stays else self._too_late(address, manifest)
        return self._let_in(uid, manifest, now=now)

    def _let_in(self, uid: str, manifest: Manifest, *, now: float) -> list[UploadOutput]:
        receiver = Receiver(uid, manifest, policy=self._policy)
        upload = self._add(uid, manifest, receiver)
        fresh = self._is_fresh(upload)
        logger.info(
            "%s round=%d client=%s uid=%s segments=%d",
            "update" if fresh else "late update",
            manifest.round_id,
            manifest.client_id,
            uid,
            upload.total,
        )
        outputs: list[UploadOutput] = [JournalManifest(uid, manifest)]
        outputs += self._translate(uid, receiver.announced(now))
        return outputs if fresh else [*outputs, UploadLate(manifest.client_id)]

    def segment(self, address: UpSegment, segment: Segment, *, now: float) -> list[UploadOutput]:
        """Take a segment: journal it, or ask for the manifest that would name it."""
        client_id, uid = address.client_id, address.uid
        receipt = self._settled.receipt(uid, client_id=client_id)
        if receipt is not None:
            return self._seldom(uid, self._receipt(client_id, uid, receipt), now=now)
        upload = self._uploads.get(uid)
        if upload is None:
            want = Publish(Down(client_id, uid), Want(self._epoch))
            return self._seldom(uid, want, now=now)
        if upload.manifest.client_id != client_id:
            text = f"segment of an update of {upload.manifest.client_id}"
            return [UploadRefused(client_id, Refusal.IDENTITY.value, text)]
        if self._frozen:
            return []
        has_room = self._quotas.has_room(len(segment.body))
        if not has_room and address.index not in upload.receiver.held:
            text = f"the journal is full: {self._quotas.disk_bytes} bytes of segments wait in it"
            return [UploadRefused(client_id, Refusal.QUOTA_DISK.value, text)]
        return self._translate(uid, upload.receiver.receive(address.index, segment.body, now=now))

    def stored(self, uid: str, indices: Collection[int], *, now: float) -> list[UploadOutput]:
        """Take note that these segments are durable."""
        upload = self._uploads.get(uid)
        if upload is None:
            return []
        answers = self._translate(uid, upload.receiver.stored(indices, now=now))
        fresh, progress = self._is_fresh(upload), _progress(upload)
        if fresh and upload.receiver.held:
            self._arrived[progress.client_id] = progress.complete
        if self._frozen:
            return []  # what counts is decided; these are held for the case that the round goes on
        return [*answers, progress] if fresh else answers

    def reconnected(self, now: float) -> list[UploadOutput]:
        """Say again what is held of every update, and the newest receipts: all may be lost.

        Whoever dies between a commit and its receipts leaves devices that ask only once their own
        timers are due.
        """
        outputs: list[UploadOutput] = [
            self._receipt(update.client_id, uid, update.receipt)
            for uid, update in self._settled.newest()
        ]
        if self._frozen:
            return outputs
        for uid, upload in self._uploads.items():
            outputs += self._translate(uid, upload.receiver.announced(now))
        return outputs

    def tick(self, now: float) -> list[UploadOutput]:
        """Send the acknowledgements that are due."""
        if self._frozen:
            return []
        outputs: list[UploadOutput] = []
        for uid in sorted(self._answers.take(now), key=lambda uid: self._uploads[uid].number):
            outputs += self._translate(uid, self._uploads[uid].receiver.tick(now))
        return outputs

    def next_wakeup(self) -> float | None:
        """Return when the next acknowledgement is due."""
        return None if self._frozen else self._answers.next()

    def freeze(self, terms: Terms) -> tuple[FrozenUpdate, ...]:
        """Let nothing more in, and return what counts, sorted by uid."""
        self._frozen = True
        for upload in self._uploads.values():
            upload.frozen = upload.receiver.held
        return self.frozen(terms)

    def frozen(self, terms: Terms) -> tuple[FrozenUpdate, ...]:
        """Return what counts of the frozen round, sorted by uid; the same after a restart."""
        return tuple(
            FrozenUpdate(uid, terms.weight(upload.manifest), upload.total, upload.frozen)
            for uid, upload in sorted(self._uploads.items())
            if upload.frozen
        )

    def thaw(self, refused: Mapping[str, str]) -> dict[str, Receipt]:
        """Let the round go on without these updates, and return their receipts."""
        self._thaw()
        receipts = {
            uid: self._make_receipt(uid, ReceiptState.REFUSED, reason)
            for uid, reason in refused.items()
        }
        for uid, receipt in receipts.items():
            self._settle(uid, receipt)
        return receipts

    def close(
        self, included: Iterable[FrozenUpdate], refused: Mapping[str, str], *, oldest_taken: int
    ) -> Closing:
        """Return what the round's commit says of every update; nothing is settled by it yet.

        Args:
            included: What is in the new adapter.
            refused: uid → reason, for those that do not decode.
            oldest_taken: The first round whose late updates the next round takes.
        """
        accepted = {update.uid: update.accepted for update in included}
        receipts: dict[str, Receipt] = {}
        late = dropped = 0
        for uid, upload in self._uploads.items():
            if uid in refused:
                receipts[uid] = self._make_receipt(uid, ReceiptState.REFUSED, refused[uid])
                continue
            if uid in accepted:
                complete = len(accepted[uid]) == upload.total
                state = ReceiptState.ACCEPTED if complete else ReceiptState.PARTIAL
                reason = "" if complete else "partial"
                receipts[uid] = self._make_receipt(uid, state, reason, accepted[uid])
                continue
            late += self._is_fresh(upload)
            is_carried = upload.manifest.round_id >= oldest_taken
            reason = "carried over" if is_carried else self._late.reason
            self._log_late(uid, upload.manifest, reason)
            if not is_carried:
                receipts[uid] = self._make_receipt(uid, ReceiptState.LATE, reason)
                dropped += self._late is LatePolicy.DROP
        return Closing(receipts, late, dropped)

    def committed(self, receipts: Mapping[str, Receipt]) -> list[UploadOutput]:
        """Settle these updates, tell their devices, and be ready for the next round."""
        outputs: list[UploadOutput] = []
        for uid, receipt in receipts.items():
            client_id = self._uploads[uid].manifest.client_id
            outputs.append(self._receipt(client_id, uid, receipt))
            self._settle(uid, receipt)
        self._thaw()
        self._round_id += 1
        self._arrived = self._find_arrived()
        return outputs

    def client_of(self, uid: str) -> str:
        """Return the device of an update that waits."""
        return self._uploads[uid].manifest.client_id

    def _is_fresh(self, upload: _Upload) -> bool:
        return upload.manifest.round_id == self._round_id

    def _find_arrived(self) -> dict[str, bool]:
        return {
            upload.manifest.client_id: upload.receiver.complete
            for upload in self._uploads.values()
            if upload.receiver.held and self._is_fresh(upload)
        }

    def _add(self, uid: str, manifest: Manifest, receiver: Receiver) -> _Upload:
        self._uploads[uid] = upload = _Upload(next(self._number), manifest, receiver)
        self._of_client.setdefault(manifest.client_id, {})[manifest.round_id] = uid
        return upload

    def _journal(self, upload: _Upload, segment_bytes: int) -> None:
        upload.journaled_bytes += segment_bytes
        self._quotas.journaled(segment_bytes)

    def _settle(self, uid: str, receipt: Receipt) -> None:
        upload = self._uploads.pop(uid)
        client_id, round_id = upload.manifest.client_id, upload.manifest.round_id
        self._quotas.freed(upload.journaled_bytes)
        self._answers.put(uid, None)
        if self._is_fresh(upload):
            self._arrived.pop(client_id, None)
        del self._of_client[client_id][round_id]
        if not self._of_client[client_id]:
            del self._of_client[client_id]
        seq = upload.manifest.seq
        self._settled.add(uid, client_id=client_id, round_id=round_id, seq=seq, receipt=receipt)

    def _thaw(self) -> None:
        self._frozen = False
        for upload in self._uploads.values():
            upload.frozen = frozenset()

    def _uid_of(self, client_id: str, round_id: int) -> str | None:
        """Return the update that was let in of a device for a round, settled or not."""
        open_uid = self._of_client.get(client_id, {}).get(round_id)
        return open_uid or self._settled.uid_of(client_id, round_id)

    def _numbered(self, client_id: str, seq: int) -> str | None:
        """Return the update to which a device gave this number, settled or not."""
        for uid in self._of_client.get(client_id, {}).values():
            if self._uploads[uid].manifest.seq == seq:
                return uid
        return self._settled.numbered(client_id, seq)

    def _make_receipt(
        self,
        uid: str,
        state: ReceiptState,
        reason: str,
        accepted: frozenset[int] = frozenset(),
    ) -> Receipt:
        return Receipt(self._epoch, state, reason, accepted, self._uploads[uid].total)

    def _receipt(self, client_id: str, uid: str, receipt: Receipt) -> Publish:
        # The same word under the newest epoch: a device ignores answers of a fenced-off one.
        return Publish(Down(client_id, uid), replace(receipt, epoch=self._epoch))

    def _too_late(self, address: UpManifest, manifest: Manifest) -> list[UploadOutput]:
        total, reason = len(manifest.segments), self._late.reason
        receipt = Receipt(self._epoch, ReceiptState.LATE, reason, frozenset(), total)
        client_id, uid, round_id, seq = (
            address.client_id,
            address.uid,
            manifest.round_id,
            manifest.seq,
        )
        # A device may make up as many uids as it likes, but rounds there are only so many.
        self._settled.add(uid, client_id=client_id, round_id=round_id, seq=seq, receipt=receipt)
        self._log_late(uid, manifest, reason)
        return [
            JournalLate(uid, client_id, round_id, seq, receipt),
            self._receipt(client_id, uid, receipt),
            UploadLate(client_id, dropped=self._late is LatePolicy.DROP),
        ]

    def _log_late(self, uid: str, manifest: Manifest, what: str) -> None:
        logger.log(
            logging.WARNING if what == LatePolicy.DROP.reason else logging.INFO,
            "late round=%d client=%s uid=%s open=%d: %s",
            manifest.round_id,
            manifest.client_id,
            uid,
            self._round_id,
            what,
        )

    def _refuse(self, address: UpManifest, refusal: Refusal) -> list[UploadOutput]:
        reason = refusal.value
        text = f"manifest {address.uid} is refused: {reason}"
        refused = UploadRefused(address.client_id, reason, text)
        if refusal.passes:
            return [refused]
        receipt = Receipt(self._epoch, ReceiptState.REFUSED, reason, frozenset(), 0)
        outputs: list[UploadOutput] = [
            self._receipt(address.client_id, address.uid, receipt),
            refused,
        ]
        return [*outputs, UploadTwin(address.client_id)] if refusal is Refusal.TWIN else outputs

    def _seldom(self, uid: str, publish: Publish, *, now: float) -> list[UploadOutput]:
        answered = self._answered.get(uid)
        if answered is not None and now < answered + ANSWER_INTERVAL_S:
            return []
        if len(self._answered) >= MAX_ANSWERS:
            self._answered.clear()
        self._answered[uid] = now
        return [publish]

    def _translate(self, uid: str, outputs: Iterable[ReceiverOutput]) -> list[UploadOutput]:
        upload = self._uploads[uid]
        self._answers.put(uid, upload.receiver.next_wakeup())
        client_id = upload.manifest.client_id
        translated: list[UploadOutput] = []
        for output in outputs:
            match output:
                case Journal(_, index, body):
                    self._journal(upload, len(body))
                    translated.append(JournalSegment(uid, index, body))
                case SendHave(_, accepted, total):
                    have: Message = Have(self._epoch, accepted, total)
                    translated.append(Publish(Down(client_id, uid), have))
                case RefuseSegment(_, _, reason, text):
                    text = f"update {uid}: {text}"
                    translated.append(UploadRefused(client_id, reason, text))
        return translated
