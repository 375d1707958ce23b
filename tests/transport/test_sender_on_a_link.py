"""The sender over a link of a given rate, on a virtual clock: how much of the link it uses.

The link is one connection: what is given to it is carried in order, one byte after the other, and
arrives half a round trip later. A cut loses what was not there yet; the kernel's and the client
library's queues are part of the link, as they are for the sender.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.messages import Have, Manifest, SegmentEntry
from transport.receiver import Journal, Receiver, SendHave
from transport.sender import Sender, SendManifest, SendSegment
from transport.transfer_policy import TransferPolicy

UID = "00" * 16
# [bytes] Of each publication: MQTT's header, topic and frame.
OVERHEAD_BYTES = 200
JOURNAL_S = 0.01
POLICY = TransferPolicy()


class Digestless(Receiver):
    """A receiver of segments that have a length and nothing else."""

    def receive(self, index: int, body: bytes, *, now: float) -> list[Any]:
        assert not body
        if index in self._held:
            self._owe(now)
            return []
        if index in self._pending:
            return []
        self._pending.add(index)
        return [Journal(self.uid, index, body)]


@dataclass
class Link:
    """A device, an aggregator, and one connection after another between them."""

    manifest: Manifest
    rate_bps: float
    round_trip_s: float
    policy: TransferPolicy = POLICY
    seed: int = 0
    now: float = 0.0
    up: bool = False
    resent_at_cut: list[int] = field(default_factory=list)
    manifests: int = 0
    busy_until: float = 0.0
    connection: int = 0

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.sender = Sender(UID, self.manifest, policy=self.policy, rng=rng)
        self.receiver = Digestless(UID, self.manifest, policy=self.policy)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._ticket), action))

    def connect(self) -> None:
        self.up = True
        self.busy_until = self.now
        self._send(self.sender.connected(self.now))

    def cut(self) -> None:
        self.up = False
        self.connection += 1
        self.resent_at_cut.append(self.sender.resent)
        self.sender.disconnected(self.now)

    def run(self) -> float:
        """Return when the device knows that all of it is accepted."""
        for _ in range(100_000):
            if self.sender.complete:
                return self.now
            wakeups = [self.sender.next_wakeup(), self.receiver.next_wakeup()]
            moments = [moment for moment in wakeups if moment is not None]
            moments += [self._events[0][0]] if self._events else []
            self.now = max(self.now, min(moments))
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            self._send(self.sender.tick(self.now))
            self._answer(self.receiver.tick(self.now))
        raise AssertionError("no end")

    def resent_after_cuts(self) -> list[int]:
        marks = [*self.resent_at_cut, self.sender.resent]
        return [late - early for early, late in itertools.pairwise(marks)]

    def _send(self, outputs: Iterable[Any]) -> None:
        for output in outputs:
            match output:
                case SendManifest():
                    self.manifests += 1
                    size = 300 + 36 * len(self.manifest.segments)
                    self._carry(size, lambda: self._answer(self.receiver.announced(self.now)))
                case SendSegment(_, index):
                    size = self.manifest.segments[index].length
                    self._carry(size, functools.partial(self._take, index))

    def _carry(self, size: int, arrive: Callable[[], None]) -> None:
        if not self.up:
            return
        self.busy_until = max(self.busy_until, self.now)
        self.busy_until += 8 * (size + OVERHEAD_BYTES) / self.rate_bps
        self._over(self.busy_until + self.round_trip_s / 2, arrive)

    def _over(self, moment: float, arrive: Callable[[], None]) -> None:
        connection = self.connection
        self.at(moment, lambda: arrive() if connection == self.connection else None)

    def _take(self, index: int) -> None:
        for output in self.receiver.receive(index, b"", now=self.now):
            assert isinstance(output, Journal)
            self.at(self.now + JOURNAL_S, lambda: self._answer(self._stored(index)))
        self._answer([])

    def _stored(self, index: int) -> list[Any]:
        return self.receiver.stored([index], now=self.now)

    def _answer(self, outputs: Iterable[Any]) -> None:
        for output in outputs:
            assert isinstance(output, SendHave)
            have = Have(1, output.accepted, output.total)
            if self.up:
                self._over(self.now + self.round_trip_s / 2, functools.partial(self._hear, have))

    def _hear(self, have: Have) -> None:
        self._send(self.sender.receive(have, now=self.now))


Sized = Callable[[int, int], Manifest]


@pytest.fixture(scope="session")  # hypothesis runs a test many times within one fixture
def sized(make_manifest: Callable[..., Manifest]) -> Sized:
    """Makes manifests of so many bytes in segments of so many."""

    def make(total_bytes: int, segment_bytes: int) -> Manifest:
        count = -(-total_bytes // segment_bytes)
        return make_manifest(segments=(SegmentEntry(segment_bytes, bytes(32)),) * count)

    return make


KIB = 1 << 10


@pytest.mark.parametrize("segment_kib", [8, 16, 32, 64])
def test_nine_tenths_of_1_mbit_s_at_200_ms_are_used(sized: Sized, segment_kib: int) -> None:
    link = Link(sized(2_000_000, segment_kib * KIB), 1e6, 0.2)
    link.connect()
    sent_bytes = sum(entry.length for entry in link.manifest.segments)
    assert 8 * sent_bytes / link.run() >= 0.9e6
    assert link.sender.resent == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("segment_kib", [8, 32, 64])
@pytest.mark.parametrize("rate_bps", [25e3, 40e3, 100e3])
def test_no_timer_ends_while_a_slow_link_makes_progress(
    sized: Sized, rate_bps: float, segment_kib: int, seed: int
) -> None:
    link = Link(sized(600_000, segment_kib * KIB), rate_bps, 0.6, seed=seed)
    link.connect()
    link.run()
    assert (link.sender.resent, link.manifests) == (0, 1)


def test_20_mb_in_small_segments_at_100_kbit_s_are_sent_once(sized: Sized) -> None:
    """Its manifest names 2,442 segments and takes 7 s itself."""
    link = Link(sized(20_000_000, 8 * KIB), 100e3, 0.2)
    link.connect()
    link.run()
    assert (link.sender.resent, link.manifests) == (0, 1)


@pytest.mark.parametrize("segment_kib", [8, 64])
def test_a_slow_link_holds_seconds_of_bytes_and_not_minutes(sized: Sized, segment_kib: int) -> None:
    """What is sent behind the window waits that long, and a cut costs that much.

    The first window is sent before anything is measured.
    """
    link = Link(sized(2_000_000, segment_kib * KIB), 40e3, 0.2)
    link.connect()
    waits = []
    for moment in range(90, 300, 5):
        link.at(float(moment), lambda: waits.append(link.busy_until - link.now))
    link.run()
    assert max(waits) <= max(10.0, 2 * segment_kib * KIB * 8 / 40e3 + 1)


def test_a_link_that_fades_is_asked_and_not_flooded(sized: Sized) -> None:
    """From 1 Mbit/s to 40 kbit/s with eight segments of 64 KiB on the way."""
    link = Link(sized(4_000_000, 64 * KIB), 1e6, 0.2)
    link.connect()

    def fade() -> None:
        link.rate_bps = 40e3
        link.busy_until = link.now + (link.busy_until - link.now) * 25

    link.at(15.0, fade)
    link.run()
    assert link.sender.resent == 0
    assert link.manifests <= 3


def test_2_mb_over_20_s_up_and_20_s_down_take_a_minute(sized: Sized) -> None:
    """1 Mbit/s; the connection does not survive, and comes back 2 s after its network."""
    link = Link(sized(2_000_000, 64 * KIB), 1e6, 0.2)
    for period in range(5):
        link.at(40.0 * period + (2.0 if period else 0.0), link.connect)
        link.at(40.0 * period + 20.0, link.cut)
    assert link.run() <= 60.0


@settings(deadline=None, max_examples=60)
@given(
    rate_bps=st.floats(20e3, 20e6),
    round_trip_s=st.floats(0.01, 1.0),
    segment_kib=st.sampled_from([8, 16, 32, 64]),
    segments=st.integers(1, 60),
    outages=st.lists(st.tuples(st.floats(0.1, 60), st.floats(0.1, 60)), max_size=8),
    seed=st.integers(0, 100),
)
def test_after_a_cut_at_most_two_windows_are_sent_again(
    sized: Sized,
    *,
    rate_bps: float,
    round_trip_s: float,
    segment_kib: int,
    segments: int,
    outages: list[tuple[float, float]],
    seed: int,
) -> None:
    manifest = sized(segments * segment_kib * KIB, segment_kib * KIB)
    link = Link(manifest, rate_bps, round_trip_s, seed=seed)
    moment = 0.0
    link.at(moment, link.connect)
    for up_s, down_s in outages:
        moment += up_s
        link.at(moment, link.cut)
        moment += down_s
        link.at(moment, link.connect)
    link.run()
    assert all(resent <= 2 * link.policy.window_max for resent in link.resent_after_cuts())
    assert link.sender.resent <= 2 * link.policy.window_max * len(outages)
