"""The device's side of one client update: what to send next, and when to send it again. Pure.

    state      event                       next       what happens
    OFFLINE    connected                   ANNOUNCED  the manifest is sent
    ANNOUNCED  Have, or the timer          SENDING    segments are sent up to the window
    WANTED     Have                        SENDING    the same
    WANTED     the timer                   WANTED     the manifest again: segments would be dropped
    SENDING    Have, segments missing      SENDING    the window moves, grows, fills gaps
    SENDING    the timer                   SENDING    window halved, the manifest again, as a probe
    SENDING    Have after it, nothing new  SENDING    what was in flight before the probe goes again
    SENDING    the timer again             SENDING    or the oldest in flight again, then the probe
    SENDING    Have, all accepted          AWAITING
    AWAITING   the timer                   AWAITING   the manifest again, to be answered with state
    AWAITING   Have, some missing          SENDING    (of a newer epoch only)
    online     Want                        WANTED     nothing counts as accepted; the manifest again
    online     disconnected                OFFLINE    nothing is in flight any more
    any        Receipt                     SETTLED    no timers, no outputs

Silence alone does not send a segment again: on a slow link it is still on its way, and its
repetition would only stand behind it. The manifest goes as a probe, through the same connection and
so behind what is in flight; what its answer does not name was lost, to a broker's full queue or an
aggregator's disk.

The sender never gives up by itself: the update lives until its receipt; `stalled_s` tells.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from transport.messages import Have, Manifest, Receipt, ReceiptState, Want
from transport.transfer_policy import TransferPolicy

_DEFAULT_POLICY: Final = TransferPolicy()

# [bytes] A manifest: its fields, and what it says of each segment.
_MANIFEST_BYTES: Final = 300
_ENTRY_BYTES: Final = 36

# How often a further silence in a row repeats a segment before it asks.
_REPEAT_PROBABILITY: Final = 0.5


@dataclass(frozen=True, slots=True)
class SendManifest:
    """Publish the update's manifest."""

    uid: str


@dataclass(frozen=True, slots=True)
class SendSegment:
    """Publish one segment; `resend` says that it was published before."""

    uid: str
    index: int
    resend: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """The update has its receipt; the outbox may free it."""

    uid: str
    receipt: Receipt


SenderOutput = SendManifest | SendSegment | Settled


class _State(Enum):
    OFFLINE = "offline"
    ANNOUNCED = "announced"
    WANTED = "wanted"
    SENDING = "sending"
    AWAITING = "awaiting receipt"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class _FirstSend:
    """When a segment was first sent over this connection: position among all sends, and moment."""

    order: int
    at: float


class Sender:
    """Sends one client update until its receipt is there."""

    def __init__(
        self,
        uid: str,
        manifest: Manifest,
        *,
        policy: TransferPolicy = _DEFAULT_POLICY,
        rng: random.Random,
    ) -> None:
        assert manifest.segments, "an update has segments"
        self.uid = uid
        self.total = len(manifest.segments)
        self.sent = 0
        self.resent = 0
        self.settled: Receipt | None = None
        self._lengths = tuple(entry.length for entry in manifest.segments)
        self._policy = policy
        self._rng = rng
        self._state = _State.OFFLINE
        self._epoch = -1
        self._accepted: set[int] = set()
        self._flights: dict[int, int] = {}  # index → position of its last send among all sends
        # An accepted segment tells not which of its sends arrived. Taking it for the first one
        # finds fewer gaps and longer round trips than there are, so nothing is resent in vain.
        self._first_sends: dict[int, _FirstSend] = {}
        self._todo = list(range(self.total))  # a heap: the most important go first
        self._ever_sent: set[int] = set()
        self._window = min(policy.window_max, max(policy.window_min, policy.window_first))
        self._acknowledged_in_window = 0
        self._probed: int | None = None  # sends before the probe that is not answered yet
        self._answered = False  # a Have came over this connection
        self._failures = 0  # timers in a row that brought no progress
        self._silent_before = 0  # sends up to the last silence, which is no wait for the window
        self._wait_s: float | None = None
        self._round_trip_s: float | None = None
        self._deviation_s = 0.0
        self._timer_at: float | None = None
        self._progress_at: float | None = None

    @property
    def accepted(self) -> frozenset[int]:
        """Segments that the aggregator has journaled, as far as it has said so."""
        return frozenset(self._accepted)

    @property
    def complete(self) -> bool:
        """Whether every segment is accepted."""
        return len(self._accepted) == self.total

    def has_sent(self, index: int) -> bool:
        """Return whether this segment was sent since the sender was made."""
        return index in self._ever_sent

    def stalled_s(self, now: float) -> float:
        """Return seconds since anything new was accepted (or since the first connection)."""
        if self._progress_at is None or self.settled is not None:
            return 0.0
        return now - self._progress_at

    def connected(self, now: float) -> list[SenderOutput]:
        """Announce the update after a (re)connection; segments follow the answer."""
        if self._state is _State.SETTLED:
            return []
        self.disconnected(now)
        if self._progress_at is None:
            self._progress_at = now
        self._failures = 0
        return self._announce(now)

    def disconnected(self, now: float) -> None:  # noqa: ARG002  every machine's events have `now`
        """Stop sending; what was in flight may or may not have arrived."""
        if self._state is _State.SETTLED:
            return
        self._state = _State.OFFLINE
        self._answered = False
        self._probed = None
        self._lose(list(self._flights))
        self._first_sends.clear()
        self._timer_at = None

    def spare(self, now: float) -> None:
        """Wait anew: the link makes progress, with another update that stands before this one."""
        if self._state is _State.SENDING and self._timer_at is not None:
            self._start_timer(now)

    def receive(self, message: Have | Want | Receipt, *, now: float) -> list[SenderOutput]:
        """Act on the aggregator's answer; answers of lower epochs than seen are ignored."""
        if self._state is _State.SETTLED or message.epoch < self._epoch:
            return []
        match message:
            case Receipt():
                return self._receive_receipt(message)
            case _ if self._state is _State.OFFLINE:
                return []  # the manifest of the next connection asks again
            case Have():
                return self._receive_have(message, now)
            case Want(epoch):
                return self._receive_want(epoch, now)

    def tick(self, now: float) -> list[SenderOutput]:
        """Do what is due; does nothing when called early or again."""
        if self._timer_at is None or now < self._timer_at:
            return []
        match self._state:
            case _State.ANNOUNCED:
                return self._proceed(now)
            case _State.SENDING:
                return self._time_out(now)
            case _State.WANTED:
                self._failures += 1
                return self._answer_want(now)
            case _:
                assert self._state is _State.AWAITING, self._state
                self._failures += 1
                self._await_receipt(now)
                return [SendManifest(self.uid)]

    def next_wakeup(self) -> float | None:
        """Return when `tick` has something to do, None when only an event can bring it."""
        return self._timer_at

    def _announce(self, now: float) -> list[SenderOutput]:
        self._state = _State.ANNOUNCED
        wait_s = self._announce_wait_s()
        self._timer_at = self._policy.after(now, wait_s, wait_s, failures=0, rng=self._rng)
        return [SendManifest(self.uid)]

    def _receive_have(self, have: Have, now: float) -> list[SenderOutput]:
        if have.total != self.total:
            return []
        before = self._accepted
        # Within an epoch the journal only grows, so an older answer that comes late takes nothing
        # back; a newer aggregator may have restored an older journal.
        self._accepted = set(have.accepted) | (before if have.epoch == self._epoch else set())
        self._epoch = have.epoch
        self._answered = True
        self._put_back(before - self._accepted)
        if fresh := self._accepted - before:
            self._failures = 0
            self._progress_at = now
            self._land(fresh, now)
            self._timer_at = None
        elif self._probed is not None:
            probed, self._probed = self._probed, None
            self._lose([index for index, order in self._flights.items() if order <= probed])
        if self._state is _State.SENDING and not self.complete:
            return self._fill(now)
        if self._state is _State.AWAITING and self.complete:
            return []
        return self._proceed(now)

    def _receive_want(self, epoch: int, now: float) -> list[SenderOutput]:
        self._epoch = epoch
        if self._state is _State.WANTED:
            return []  # the manifest is on its way
        is_announced = self._state is _State.ANNOUNCED
        self._lose(list(self._flights))
        self._put_back(self._accepted)
        self._accepted = set()
        self._failures = 0
        self._probed = None
        self._state = _State.WANTED
        outputs = self._answer_want(now)
        return [] if is_announced else outputs

    def _answer_want(self, now: float) -> list[SenderOutput]:
        self._timer_at = self._policy.after(
            now,
            self._announce_wait_s(),
            self._policy.resend_cap_s,
            failures=self._failures,
            rng=self._rng,
        )
        return [SendManifest(self.uid)]

    def _receive_receipt(self, receipt: Receipt) -> list[SenderOutput]:
        names_segments = receipt.state in {ReceiptState.ACCEPTED, ReceiptState.PARTIAL}
        if names_segments and receipt.total != self.total:
            return []
        self._epoch = receipt.epoch
        self._state = _State.SETTLED
        self._timer_at = None
        self.settled = receipt
        return [Settled(self.uid, receipt)]

    def _proceed(self, now: float) -> list[SenderOutput]:
        """Go from an answered (or unanswered) announcement to what is left to do."""
        self._timer_at = None
        self._failures = 0
        if self.complete:
            self._state = _State.AWAITING
            self._await_receipt(now)
            return []
        self._state = _State.SENDING
        return self._fill(now)

    def _await_receipt(self, now: float) -> None:
        first_s, cap_s = self._policy.receipt_s, self._policy.receipt_cap_s
        self._timer_at = self._policy.after(
            now, first_s, cap_s, failures=self._failures, rng=self._rng
        )

    def _time_out(self, now: float) -> list[SenderOutput]:
        self._failures += 1
        self._window = max(self._policy.window_min, self._window // 2)
        self._acknowledged_in_window = 0
        outputs: list[SenderOutput] = []
        if self._failures > 1 and self._rng.random() < _REPEAT_PROBABILITY:
            # The probe, its answer or what that brought was lost too: try a segment. Only by
            # chance, so that losses with a rhythm of their own do not always meet the same.
            oldest = min(self._flights, key=self._flights.__getitem__)
            outputs.append(self._send(oldest, now))
        self._probed = self._silent_before = self.sent
        self._start_timer(now)
        return [*outputs, SendManifest(self.uid)]

    def _fill(self, now: float) -> list[SenderOutput]:
        """Send until the window is full, and have the timer run while anything is in flight."""
        outputs: list[SenderOutput] = []
        while self._todo and len(self._flights) < self._window:
            index = heapq.heappop(self._todo)
            if index in self._accepted or index in self._flights:
                continue
            outputs.append(self._send(index, now))
        if self._timer_at is None and self._flights:
            self._start_timer(now)
        return outputs

    def _send(self, index: int, now: float) -> SendSegment:
        self.sent += 1
        self._flights[index] = self.sent
        self._first_sends.setdefault(index, _FirstSend(self.sent, now))
        is_resend = index in self._ever_sent
        self.resent += is_resend
        self._ever_sent.add(index)
        return SendSegment(self.uid, index, resend=is_resend)

    def _start_timer(self, now: float) -> None:
        first_s, cap_s = self._patience_s(), self._policy.resend_cap_s
        self._timer_at = self._policy.after(
            now, first_s, cap_s, failures=self._failures, rng=self._rng
        )

    def _land(self, fresh: Collection[int], now: float) -> None:
        """Take accepted segments out of flight; what was sent before them and is not, is lost."""
        landed = [first for index in fresh if (first := self._first_sends.pop(index, None))]
        for index in fresh:
            self._flights.pop(index, None)
        if not landed:
            return
        self._measure(max(now - first.at for first in landed))
        heard = [now - first.at for first in landed if first.order > self._silent_before]
        self._adapt_window(len(landed), heard)
        newest = max(first.order for first in landed)
        self._lose([index for index, order in self._flights.items() if order < newest])

    def _adapt_window(self, landed: int, waits_s: list[float]) -> None:
        """Widen the window by what landed while waits are short, halve it where they are long.

        Source: RFC 6817, for the wait in place of loss, which TCP hides from here.
        """
        if waits_s:
            wait_s = max(waits_s)
            self._wait_s = wait_s if self._wait_s is None else (3 * self._wait_s + wait_s) / 4
        policy, wait_s = self._policy, self._wait_s or 0.0
        self._acknowledged_in_window += landed
        if wait_s <= policy.round_trip_s:
            self._window = min(policy.window_max, self._window + landed)
        elif wait_s > 2 * policy.round_trip_s and self._acknowledged_in_window >= self._window:
            self._acknowledged_in_window = 0
            self._window = max(policy.window_min, self._window // 2)

    def _measure(self, sample_s: float) -> None:
        """Follow the time from send to accept, as TCP follows its round trip.

        Source: RFC 6298, section 2.
        """
        if self._round_trip_s is None:
            self._round_trip_s, self._deviation_s = sample_s, sample_s / 2
            return
        self._deviation_s += (abs(sample_s - self._round_trip_s) - self._deviation_s) / 4
        self._round_trip_s += (sample_s - self._round_trip_s) / 8

    def _patience_s(self) -> float:
        ahead_bytes = max((self._lengths[index] for index in self._flights), default=0)
        if not self._answered:
            ahead_bytes += self._manifest_bytes
        return max(
            self._policy.resend_s,
            (self._round_trip_s or 0.0) + 4 * self._deviation_s,
            8 * ahead_bytes / self._policy.slowest_bps,
        )

    def _announce_wait_s(self) -> float:
        on_the_way_s = 8 * self._manifest_bytes / self._policy.slowest_bps
        return max(self._policy.announce_wait_s, on_the_way_s)

    @property
    def _manifest_bytes(self) -> int:
        return _MANIFEST_BYTES + _ENTRY_BYTES * self.total

    def _lose(self, indices: list[int]) -> None:
        for index in indices:
            del self._flights[index]
        self._put_back(indices)

    def _put_back(self, indices: Iterable[int]) -> None:
        for index in indices:
            heapq.heappush(self._todo, index)
