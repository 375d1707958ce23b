"""The device's side of an adapter download: what is still missing, and when to ask for it. Pure.

The aggregator publishes an adapter version as retained messages, so that subscribing brings all of
it. What did not come is asked for after a silence; what came before a connection broke is kept.

    state    event                    next     what happens
    WAITING  manifest                 LOADING  early segments are checked against it
    WAITING  segment                  WAITING  kept, up to a limit
    WAITING  the timer                WAITING  everything is asked for
    LOADING  segment, as promised     LOADING  kept
    LOADING  segment, otherwise       LOADING  FetchRefused, and it stays missing
    LOADING  another manifest         LOADING  what it does not name is dropped
    LOADING  the timer                LOADING  what is missing is asked for
    LOADING  the last segment         DONE     FetchDone

A fetch never gives up by itself; its owner drops it where there is another way.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Final

from transport import limits
from transport.messages import AdapterManifest, SegmentEntry
from transport.transfer_policy import TransferPolicy

_DEFAULT_POLICY: Final = TransferPolicy()


@dataclass(frozen=True, slots=True)
class FetchWant:
    """Ask the aggregator for these segments; None asks for the manifest and everything."""

    version: int
    missing: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class FetchDone:
    """All segments are there, each as the manifest promised."""

    version: int
    bodies: tuple[bytes, ...]
    manifest: AdapterManifest


@dataclass(frozen=True, slots=True)
class FetchRefused:
    """Something that came does not belong and was dropped; the fetch goes on without it.

    Attributes:
        version: The adapter version that is being fetched.
        reason: "run", "version", "index", "length", "digest" or "oversized".
        text: What is wrong, for people.
    """

    version: int
    reason: str
    text: str


FetchOutput = FetchWant | FetchDone | FetchRefused


class Fetch:
    """Collects one adapter version."""

    def __init__(
        self,
        run: str,
        version: int,
        *,
        policy: TransferPolicy = _DEFAULT_POLICY,
        rng: random.Random,
    ) -> None:
        self.run = run
        self.version = version
        self._policy = policy
        self._rng = rng
        self._manifest: AdapterManifest | None = None
        self._bodies: dict[int, bytes] = {}
        self._done = False
        self._failures = 0
        self._timer_at: float | None = None
        self._heard_at: float | None = None
        self._longest_gap_s = 0.0

    @property
    def done(self) -> bool:
        """Whether everything has come."""
        return self._done

    @property
    def begun(self) -> bool:
        """Whether anything of it has come."""
        return self._done or self._manifest is not None or bool(self._bodies)

    @property
    def silences(self) -> int:
        """How often it has asked over this connection since anything new came."""
        return self._failures

    @property
    def missing(self) -> frozenset[int] | None:
        """Indices that have not come; None before the manifest."""
        if self._manifest is None:
            return None
        return frozenset(range(len(self._manifest.segments))) - self._bodies.keys()

    def begin(self, now: float) -> list[FetchOutput]:
        """Start waiting for what the subscription brings."""
        self._arm(now)
        return []

    def connected(self, now: float) -> list[FetchOutput]:
        """Wait anew after a reconnection: the session still has some, or the subscription all."""
        self._failures = 0
        self._heard_at = None
        if not self._done:
            self._arm(now)
        return []

    def manifest(self, message: AdapterManifest, *, now: float) -> list[FetchOutput]:
        """Take the manifest; a different one for the same version replaces the first."""
        self._hear(now)
        if self._done or message == self._manifest:
            return []
        if message.run != self.run:
            return [self._refused("run", f"the manifest is of run {message.run}")]
        if message.version != self.version:
            return [self._refused("version", f"the manifest is of version {message.version}")]
        self._manifest = message
        outputs: list[FetchOutput] = []
        for index, body in list(self._bodies.items()):
            if fault := _fault(message.segments, index, body):
                del self._bodies[index]
                outputs.append(self._refused(*fault))
        return outputs + self._progress(now)

    def segment(self, index: int, body: bytes, *, now: float) -> list[FetchOutput]:
        """Take one segment, which may come before the manifest, twice, or damaged."""
        self._hear(now)
        if self._done:
            return []
        if self._manifest is None:
            return self._keep_early(index, body, now)
        if fault := _fault(self._manifest.segments, index, body):
            return [self._refused(*fault)]
        if index in self._bodies:
            return []
        self._bodies[index] = body
        return self._progress(now)

    def tick(self, now: float) -> list[FetchOutput]:
        """Ask for what is missing when it is due; does nothing when called early or again."""
        if self._timer_at is None or now < self._timer_at:
            return []
        self._failures += 1
        self._arm(now)
        return [FetchWant(self.version, self.missing)]

    def next_wakeup(self) -> float | None:
        """Return when `tick` has something to do."""
        return self._timer_at

    def _keep_early(self, index: int, body: bytes, now: float) -> list[FetchOutput]:
        if not 0 <= index < limits.MAX_SEGMENTS:
            return [self._refused("index", f"no adapter has a segment {index}")]
        others = sum(len(kept) for position, kept in self._bodies.items() if position != index)
        if others + len(body) > limits.MAX_EARLY_BYTES:
            return [self._refused("oversized", "too many segments came before the manifest")]
        self._bodies[index] = body
        self._failures = 0
        self._arm(now)
        return []

    def _progress(self, now: float) -> list[FetchOutput]:
        assert self._manifest is not None
        if len(self._bodies) < len(self._manifest.segments):
            self._failures = 0
            self._arm(now)
            return []
        self._done = True
        self._timer_at = None
        bodies = tuple(self._bodies[index] for index in range(len(self._bodies)))
        self._bodies = {}
        return [FetchDone(self.version, bodies, self._manifest)]

    def _hear(self, now: float) -> None:
        if self._heard_at is not None:
            self._longest_gap_s = max(self._longest_gap_s, now - self._heard_at)
        self._heard_at = now

    def _arm(self, now: float) -> None:
        # On a slow link a segment may take longer than the silence that means loss on a fast one.
        first_s = max(self._policy.fetch_s, 2 * self._longest_gap_s)
        cap_s = self._policy.fetch_cap_s
        self._timer_at = self._policy.after(
            now, first_s, cap_s, failures=self._failures, rng=self._rng
        )

    def _refused(self, reason: str, text: str) -> FetchRefused:
        return FetchRefused(self.version, reason, text)


def _fault(entries: tuple[SegmentEntry, ...], index: int, body: bytes) -> tuple[str, str] | None:
    """Return why a segment is not the one that the manifest names, as reason and text."""
    if not 0 <= index < len(entries):
        return "index", f"segment {index}: the adapter has {len(entries)}"
    if len(body) != entries[index].length:
        return "length", f"segment {index}: {len(body)} bytes instead of {entries[index].length}"
    if hashlib.sha256(body).digest() != entries[index].sha256:
        return "digest", f"segment {index}: its SHA-256 is not the manifest's"
    return None
