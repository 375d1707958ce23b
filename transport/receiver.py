"""The aggregator's side of one client update: what to journal, and when to answer. Pure.

A segment is NEW, then PENDING (given out to be journaled), then HELD (known to be durable).

    segment   event                 next      what happens
    NEW       receive, as promised  PENDING   Journal
    NEW       receive, otherwise    NEW       RefuseSegment
    PENDING   receive again         PENDING   nothing: `stored` will answer
    PENDING   stored                HELD      an answer is owed
    HELD      receive again         HELD      an answer is owed: the sender missed the last one
    any       announced             same      the answer is given at once

An answer that is owed is given at the latest after `have_delay_s`, and at once when `have_every`
segments wait for it or the update is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from transport.messages import Manifest
from transport.transfer_policy import TransferPolicy

_DEFAULT_POLICY: Final = TransferPolicy()


@dataclass(frozen=True, slots=True)
class Journal:
    """Make this segment durable, then call `stored`."""

    uid: str
    index: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SendHave:
    """Answer the device with the segments that are durable."""

    uid: str
    accepted: frozenset[int]
    total: int


@dataclass(frozen=True, slots=True)
class RefuseSegment:
    """Do not let this segment in; `reason` is "index", "length" or "digest"."""

    uid: str
    index: int
    reason: str
    text: str


ReceiverOutput = Journal | SendHave | RefuseSegment


class Receiver:
    """Takes the segments of one client update, each exactly once."""

    def __init__(
        self,
        uid: str,
        manifest: Manifest,
        *,
        held: Collection[int] = (),
        policy: TransferPolicy = _DEFAULT_POLICY,
    ) -> None:
        """Start with what the journal already holds.

        Args:
            uid: The update's name.
            manifest: Length and SHA-256 of each segment.
            held: Indices that are durable.
            policy: When to answer.
        """
        self.uid = uid
        self._entries = manifest.segments
        self._policy = policy
        self._held = set(held)
        self._pending: set[int] = set()
        self._owed = 0
        self._answer_at: float | None = None

    @property
    def held(self) -> frozenset[int]:
        """Segments that are durable."""
        return frozenset(self._held)

    @property
    def complete(self) -> bool:
        """Whether every segment is durable."""
        return len(self._held) == len(self._entries)

    def receive(self, index: int, body: bytes, *, now: float) -> list[ReceiverOutput]:
        """Check a segment against the manifest and have it journaled, once."""
        if not 0 <= index < len(self._entries):
            return [self._refuse(index, "index", f"the update has {len(self._entries)} segments")]
        entry = self._entries[index]
        if len(body) != entry.length:
            text = f"{len(body)} bytes instead of {entry.length}"
            return [self._refuse(index, "length", text)]
        if hashlib.sha256(body).digest() != entry.sha256:
            return [self._refuse(index, "digest", "its SHA-256 is not the manifest's")]
        if index in self._pending:
            return []
        if index in self._held:
            self._owe(now)
            return []
        self._pending.add(index)
        return [Journal(self.uid, index, body)]

    def stored(self, indices: Collection[int], *, now: float) -> list[ReceiverOutput]:
        """Note that these segments are durable."""
        fresh = set(indices) - self._held
        self._pending.difference_update(fresh)
        self._held |= fresh
        self._owed += len(fresh)
        if fresh and (self.complete or self._owed >= self._policy.have_every):
            return self._answer()
        if fresh:
            self._owe(now)
        return []

    def announced(self, now: float) -> list[ReceiverOutput]:  # noqa: ARG002  events have `now`
        """Answer a manifest, the first or a repeated one, with the state at once."""
        return self._answer()

    def tick(self, now: float) -> list[ReceiverOutput]:
        """Give the answer that is due; does nothing when called early or again."""
        if self._answer_at is None or now < self._answer_at:
            return []
        return self._answer()

    def next_wakeup(self) -> float | None:
        """Return when an owed answer is due, None when none is owed."""
        return self._answer_at

    def _owe(self, now: float) -> None:
        if self._answer_at is None:
            self._answer_at = now + self._policy.have_delay_s

    def _answer(self) -> list[ReceiverOutput]:
        self._owed = 0
        self._answer_at = None
        return [SendHave(self.uid, self.held, len(self._entries))]

    def _refuse(self, index: int, reason: str, text: str) -> RefuseSegment:
        return RefuseSegment(self.uid, index, reason, f"segment {index}: {text}")
