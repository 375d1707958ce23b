"""The client updates of the round that is on: from the first manifest to the last receipt.

Pure: admission and the receiving half of the transfer, put together for all devices. Every message
may come twice, late, or after a restart; the answer is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from aggregator.admission import Refusal, Terms, admit, is_late
from aggregator.journal import SettledUpdate, UpdateRecord
from aggregator.outputs import FrozenUpdate, JournalManifest, JournalSegment, Publish
from transport import frame
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
    """So much of a device's update is durable."""

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
    """An update of a round that is over was offered for the first time since the start."""

    client_id: str


UploadOutput = (
    Publish | JournalManifest | JournalSegment | UploadProgress | UploadRefused | UploadLate
)


@dataclass(slots=True)
class _Upload:
    manifest: Manifest
    receiver: Receiver


class Uploads:
    """Receives the updates of one round after the other.

    Args:
        epoch: Stamped on every answer.
        policy: How acknowledgements are gathered.
        updates: What was journaled before a restart.
        settled: The last word on every update that was let in, for all rounds of the run.
        frozen: The round was frozen before the restart: nothing is let in any more.
    """

    def __init__(
        self,
        *,
        epoch: int,
        policy: TransferPolicy,
        updates: Iterable[UpdateRecord] = (),
        settled: Mapping[str, SettledUpdate] | None = None,
        frozen: bool = False,
    ) -> None:
        self._epoch = epoch
        self._policy = policy
        self._frozen = frozen
        self._uploads: dict[str, _Upload] = {}
        self._settled: dict[str, SettledUpdate] = dict(settled or {})
        self._answered: dict[str, float] = {}
        self._told_late: set[str] = set()
        for record in updates:
            receiver = Receiver(record.uid, record.manifest, held=record.held, policy=policy)
            self._uploads[record.uid] = _Upload(record.manifest, receiver)

    def arrived(self) -> dict[str, bool]:
        """Return device → whether its update is complete, for all that have a durable segment."""
        return {
            upload.manifest.client_id: upload.receiver.complete
            for upload in self._uploads.values()
            if upload.receiver.held
        }

    def manifests(self) -> dict[str, Manifest]:
        """Return uid → manifest of the round's updates."""
        return {uid: upload.manifest for uid, upload in self._uploads.items()}

    def evaluations(self, *, refused: Collection[str] = ()) -> list[Evaluation]:
        """Return what devices reported of the version that they started from."""
        return [
            upload.manifest.evaluation
            for uid, upload in self._uploads.items()
            if upload.manifest.evaluation is not None and uid not in refused
        ]

    def announced(
        self, address: UpManifest, manifest: Manifest, *, terms: Terms, now: float
    ) -> list[UploadOutput]:
        """Take a manifest, and answer with what is held, or with the last word."""
        client_id, uid = address.client_id, address.uid
        settled = self._settled.get(uid)
        if settled is not None and settled.client_id == client_id:
            return [self._receipt(client_id, uid, settled.receipt)]
        upload = self._uploads.get(uid)
        if upload is not None and upload.manifest == manifest and manifest.client_id == client_id:
            if self._frozen:
                return []  # the receipt follows when the new adapter is durable
            return self._translate(uid, upload.receiver.announced(now))
        if is_late(manifest, client_id=client_id, terms=terms):
            return self._too_late(address, manifest)
        refusal = admit(
            manifest, uid=uid, client_id=client_id, held_uid=self._uid_of(client_id), terms=terms
        )
        if refusal is not None:
            return self._refuse(address, refusal, total=0)
        if self._frozen:
            return self._too_late(address, manifest)
        receiver = Receiver(uid, manifest, policy=self._policy)
        self._uploads[uid] = _Upload(manifest, receiver)
        logger.info(
            "update round=%d client=%s uid=%s segments=%d",
            manifest.round_id,
            client_id,
            uid,
            len(manifest.segments),
        )
        answers = self._translate(uid, receiver.announced(now))
        return [JournalManifest(uid, manifest), *answers]

    def segment(self, address: UpSegment, segment: Segment, *, now: float) -> list[UploadOutput]:
        """Take a segment: journal it, or ask for the manifest that would name it."""
        client_id, uid = address.client_id, address.uid
        settled = self._settled.get(uid)
        if settled is not None and settled.client_id == client_id:
            return self._seldom(uid, self._receipt(client_id, uid, settled.receipt), now=now)
        upload = self._uploads.get(uid)
        if upload is None:
            want = Publish(Down(client_id, uid), Want(self._epoch))
            return self._seldom(uid, want, now=now)
        if upload.manifest.client_id != client_id:
            text = f"segment of an update of {upload.manifest.client_id}"
            return [UploadRefused(client_id, Refusal.IDENTITY.value, text)]
        if self._frozen:
            return []
        return self._translate(uid, upload.receiver.receive(address.index, segment.body, now=now))

    def stored(self, uid: str, indices: Collection[int], *, now: float) -> list[UploadOutput]:
        """Take note that these segments are durable."""
        upload = self._uploads.get(uid)
        if upload is None:
            return []
        answers = self._translate(uid, upload.receiver.stored(indices, now=now))
        if self._frozen:
            return []  # what counts is decided; these are held for the case that the round goes on
        progress = UploadProgress(upload.manifest.client_id, upload.receiver.complete)
        return [*answers, progress]

    def reconnected(self, now: float) -> list[UploadOutput]:
        """Say again what is held of every update: the answers before may have been lost."""
        if self._frozen:
            return []
        outputs: list[UploadOutput] = []
        for uid, upload in self._uploads.items():
            outputs += self._translate(uid, upload.receiver.announced(now))
        return outputs

    def tick(self, now: float) -> list[UploadOutput]:
        """Send the acknowledgements that are due."""
        if self._frozen:
            return []
        outputs: list[UploadOutput] = []
        for uid, upload in self._uploads.items():
            outputs += self._translate(uid, upload.receiver.tick(now))
        return outputs

    def next_wakeup(self) -> float | None:
        """Return when the next acknowledgement is due."""
        if self._frozen:
            return None
        moments = (upload.receiver.next_wakeup() for upload in self._uploads.values())
        return min((moment for moment in moments if moment is not None), default=None)

    def freeze(self, terms: Terms) -> tuple[FrozenUpdate, ...]:
        """Let nothing more in, and return what counts, sorted by uid."""
        self._frozen = True
        return tuple(
            FrozenUpdate(
                uid=uid,
                weight=terms.weight(upload.manifest),
                segment_count=len(upload.manifest.segments),
                accepted=frozenset(upload.receiver.held),
            )
            for uid, upload in sorted(self._uploads.items())
            if upload.receiver.held
        )

    def thaw(self, refused: Mapping[str, str]) -> dict[str, Receipt]:
        """Let the round go on without these updates, and return their receipts."""
        self._frozen = False
        receipts = {
            uid: self._make_receipt(uid, ReceiptState.REFUSED, reason)
            for uid, reason in refused.items()
        }
        for uid, receipt in receipts.items():
            self._settle(uid, receipt)
        return receipts

    def receipts(
        self, included: Iterable[FrozenUpdate], refused: Mapping[str, str]
    ) -> dict[str, Receipt]:
        """Return the last word on every update of the round; nothing is settled by it yet."""
        accepted = {update.uid: update.accepted for update in included}
        receipts: dict[str, Receipt] = {}
        for uid, upload in self._uploads.items():
            if uid in refused:
                receipts[uid] = self._make_receipt(uid, ReceiptState.REFUSED, refused[uid])
            elif uid not in accepted:
                receipts[uid] = self._make_receipt(uid, ReceiptState.LATE, "late")
            elif len(accepted[uid]) == len(upload.manifest.segments):
                receipts[uid] = self._make_receipt(uid, ReceiptState.ACCEPTED, "", accepted[uid])
            else:
                reason = "partial"
                receipts[uid] = self._make_receipt(uid, ReceiptState.PARTIAL, reason, accepted[uid])
        return receipts

    def committed(self, receipts: Mapping[str, Receipt]) -> list[UploadOutput]:
        """Settle the round's updates, tell their devices, and be ready for the next round."""
        outputs: list[UploadOutput] = []
        for uid, receipt in receipts.items():
            client_id = self._uploads[uid].manifest.client_id
            outputs.append(self._receipt(client_id, uid, receipt))
            self._settle(uid, receipt)
        self._frozen = False
        return outputs

    def client_of(self, uid: str) -> str:
        """Return the device of an update of this round."""
        return self._uploads[uid].manifest.client_id

    def _settle(self, uid: str, receipt: Receipt) -> None:
        upload = self._uploads.pop(uid)
        self._settled[uid] = SettledUpdate(upload.manifest.client_id, frame.encode(receipt))

    def _uid_of(self, client_id: str) -> str | None:
        for uid, upload in self._uploads.items():
            if upload.manifest.client_id == client_id:
                return uid
        return None

    def _make_receipt(
        self,
        uid: str,
        state: ReceiptState,
        reason: str,
        accepted: frozenset[int] = frozenset(),
    ) -> Receipt:
        total = len(self._uploads[uid].manifest.segments)
        return Receipt(self._epoch, state, reason, accepted, total)

    def _receipt(self, client_id: str, uid: str, receipt: Receipt) -> Publish:
        # The same word under the newest epoch: a device ignores answers of a fenced-off one.
        return Publish(Down(client_id, uid), replace(receipt, epoch=self._epoch))

    def _too_late(self, address: UpManifest, manifest: Manifest) -> list[UploadOutput]:
        total = len(manifest.segments)
        receipt = Receipt(self._epoch, ReceiptState.LATE, "late", frozenset(), total)
        outputs: list[UploadOutput] = [self._receipt(address.client_id, address.uid, receipt)]
        if address.uid not in self._told_late:
            if len(self._told_late) >= MAX_ANSWERS:
                self._told_late.clear()
            self._told_late.add(address.uid)
            outputs.append(UploadLate(address.client_id))
        return outputs

    def _refuse(self, address: UpManifest, refusal: Refusal, *, total: int) -> list[UploadOutput]:
        reason = refusal.value
        receipt = Receipt(self._epoch, ReceiptState.REFUSED, reason, frozenset(), total)
        text = f"manifest {address.uid} is refused: {reason}"
        return [
            self._receipt(address.client_id, address.uid, receipt),
            UploadRefused(address.client_id, reason, text),
        ]

    def _seldom(self, uid: str, publish: Publish, *, now: float) -> list[UploadOutput]:
        answered = self._answered.get(uid)
        if answered is not None and now < answered + ANSWER_INTERVAL_S:
            return []
        if len(self._answered) >= MAX_ANSWERS:
            self._answered.clear()
        self._answered[uid] = now
        return [publish]

    def _translate(self, uid: str, outputs: Iterable[ReceiverOutput]) -> list[UploadOutput]:
        client_id = self._uploads[uid].manifest.client_id
        translated: list[UploadOutput] = []
        for output in outputs:
            match output:
                case Journal(_, index, body):
                    translated.append(JournalSegment(uid, index, body))
                case SendHave(_, accepted, total):
                    have: Message = Have(self._epoch, accepted, total)
                    translated.append(Publish(Down(client_id, uid), have))
                case RefuseSegment(_, _, reason, text):
                    text = f"update {uid}: {text}"
                    translated.append(UploadRefused(client_id, reason, text))
        return translated
