"""The updates that wait for a receipt: one sender each, whatever the trainer does meanwhile.

Pure: messages and `now` in, outputs out. What is known of the link is known here: how fast it is,
and why it does not move.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable

from agent.goodput import Goodput
from agent.outputs import Output, PublishProgress, RememberGoodput, SettleUpdate, Upload
from agent.stalls import StallWatch
from transport.control import Progress
from transport.messages import Have, Receipt, Want
from transport.transfer import (
    Sender,
    SenderOutput,
    SendManifest,
    SendSegment,
    Settled,
    TransferPolicy,
)

log = logging.getLogger(__name__)


class Uploads:
    """Offers every update of the outbox until the aggregator has said its last word on it."""

    def __init__(
        self,
        waiting: Iterable[Upload],
        *,
        policy: TransferPolicy,
        rng: random.Random,
        goodput_bps: float | None = None,
    ) -> None:
        self._policy = policy
        self._rng = rng
        self._senders: dict[str, Sender] = {}
        self._updates: dict[str, Upload] = {}
        self._bytes_sent: dict[str, int] = {}
        self._goodput = Goodput(remembered_bps=goodput_bps)
        self._stalls = StallWatch()
        for upload in waiting:
            self._insert(upload)

    def __len__(self) -> int:
        return len(self._senders)

    def __contains__(self, uid: object) -> bool:
        return uid in self._senders

    @property
    def delivered(self) -> bool:
        """True where every segment of every update is accepted, and only receipts are missing."""
        return all(sender.complete for sender in self._senders.values())

    @property
    def goodput_bps(self) -> float | None:
        """Bits per second of accepted segments to plan with; None before any was measured."""
        return self._goodput.bits_per_second

    @property
    def stall(self) -> str:
        """Why nothing moves that should, "" where it does."""
        return self._stalls.reason

    @property
    def waiting_bytes(self) -> int:
        """Segments of all updates that are not accepted yet."""
        waiting = 0
        for uid, sender in self._senders.items():
            accepted, entries = sender.accepted, self._updates[uid].manifest.segments
            waiting += sum(
                entry.length for index, entry in enumerate(entries) if index not in accepted
            )
        return waiting

    @property
    def newest_round(self) -> int:
        """The newest round that an update waits for, 0 without any."""
        return max((upload.manifest.round_id for upload in self._updates.values()), default=0)

    def uid_of(self, round_id: int) -> str | None:
        """Return the update that was trained for this round, where it still waits."""
        for uid, upload in self._updates.items():
            if upload.manifest.round_id == round_id:
                return uid
        return None

    def round_of(self, uid: str) -> int:
        """Return the round that an update which still waits was trained for."""
        return self._updates[uid].manifest.round_id

    def add(self, upload: Upload, *, linked: bool, now: float) -> list[Output]:
        """Begin to offer an update; one that is offered already is left as it is."""
        if upload.uid in self._senders:
            return []
        sender = self._insert(upload)
        self._stalls.watch(now)
        return self._effects(sender.connected(now), now=now) if linked else []

    def offer(self, uid: str, *, now: float) -> list[Output]:
        """Offer an update anew, manifest first, since the aggregator asks for its round again."""
        return self._effects(self._senders[uid].connected(now), now=now)

    def drop(self, uid: str) -> None:
        """Forget an update, settled or not."""
        self._senders.pop(uid, None)
        self._updates.pop(uid, None)
        self._bytes_sent.pop(uid, None)
        self._rest()

    def clear(self) -> None:
        """Forget all updates: they belong to another run."""
        self._senders.clear()
        self._updates.clear()
        self._bytes_sent.clear()
        self._rest()

    def connected(self, now: float) -> list[Output]:
        """Offer everything, oldest first, after the link came up."""
        self._stalls.connected(now)
        if not self.delivered:
            self._stalls.watch(now)
        senders = list(self._senders.values())
        return self._effects((out for sender in senders for out in sender.connected(now)), now=now)

    def disconnected(self, now: float) -> None:
        """Stop the senders' clocks while there is no link."""
        self._stalls.disconnected(now)
        for sender in self._senders.values():
            sender.disconnected(now)

    def receive(self, uid: str, message: Have | Want | Receipt, *, now: float) -> list[Output]:
        """Take the aggregator's answer about one update; unknown ones were settled long ago."""
        sender = self._senders.get(uid)
        if sender is None:
            return []
        entries, before = self._updates[uid].manifest.segments, sender.accepted
        used_bps = self.goodput_bps
        outputs = self._effects(sender.receive(message, now=now), now=now)
        gained = sender.accepted - before
        self._stalls.answered(now, accepted=bool(gained))
        if gained:
            # What an earlier start of the agent sent was on the way nobody knows how long.
            ours = sum(entries[index].length for index in gained if sender.has_sent(index))
            self._goodput.note(ours, now=now)
            for other in self._senders.values():
                if other is not sender:
                    other.spare(now)
        if self.delivered:
            self._rest()
        elif not sender.complete:
            self._stalls.watch(now)
        if self.goodput_bps is not None and self.goodput_bps != used_bps:
            outputs.append(RememberGoodput(self.goodput_bps))
        return outputs

    def tick(self, now: float) -> list[Output]:
        """Send what is due, and say what does not move; without the link only the latter."""
        senders = list(self._senders.values())
        outputs = self._effects((out for sender in senders for out in sender.tick(now)), now=now)
        if self._stalls.tick(now):
            log.warning("%s, %d bytes wait", self._stalls.reason, self.waiting_bytes)
            if self._stalls.is_linked:
                outputs.append(PublishProgress(self.progress(now)))
        return outputs

    def next_wakeup(self) -> float | None:
        """Return the earliest moment at which `tick` has something to do."""
        wakeups = [sender.next_wakeup() for sender in self._senders.values()]
        wakeups.append(self._stalls.next_wakeup())
        return min((moment for moment in wakeups if moment is not None), default=None)

    def progress(self, now: float) -> Progress:
        """Return how far the update of the newest round is."""
        uid = self.uid_of(self.newest_round)
        if uid is None:
            return Progress(round_id=0)
        sender, manifest = self._senders[uid], self._updates[uid].manifest
        return Progress(
            round_id=manifest.round_id,
            segments=sender.total,
            segments_sent=sender.sent,
            segments_accepted=len(sender.accepted),
            segments_resent=sender.resent,
            bytes_sent=self._bytes_sent[uid],
            stalled_s=round(self._stalls.stalled_s(now), 1),
        )

    def _insert(self, upload: Upload) -> Sender:
        sender = Sender(upload.uid, upload.manifest, policy=self._policy, rng=self._rng)
        self._senders[upload.uid] = sender
        self._updates[upload.uid] = upload
        self._bytes_sent[upload.uid] = 0
        return sender

    def _rest(self) -> None:
        """End a stretch of sending where nothing waits to be accepted any more."""
        if self.delivered:
            self._goodput.end()
            self._stalls.rest()

    def _effects(self, outputs: Iterable[SenderOutput], *, now: float) -> list[Output]:
        effects: list[Output] = []
        for output in outputs:
            match output:
                case Settled(uid, receipt):
                    effects.append(SettleUpdate(uid, receipt))
                    self.drop(uid)
                case SendSegment(uid, index):
                    entry = self._updates[uid].manifest.segments[index]
                    self._bytes_sent[uid] += entry.length
                    self._goodput.begin(now)
                    effects.append(output)
                case SendManifest():
                    effects.append(output)
        return effects
