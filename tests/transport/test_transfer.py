"""Sender and receiver against each other, on a virtual clock, over a link that follows a script.

A script says for each message of one direction, in order and over again: `deliver`, `drop`, `dup`
(twice), `reorder` (after the ones behind it) or `corrupt` (segments only).
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import transfer
from transport.messages import Have, Manifest, Receipt, ReceiptState, Segment, Want
from transport.transfer import (
    Journal,
    Receiver,
    RefuseSegment,
    Sender,
    SendHave,
    SendManifest,
    SendSegment,
    Settled,
    TransferPolicy,
)

UID = "00" * 16
LATENCY_S = 0.1
JOURNAL_S = 0.02
MAX_STEPS = 20_000


@dataclass
class Pair:
    """A device, an aggregator with a durable journal, and the link between them."""

    manifest: Manifest
    bodies: tuple[bytes, ...]
    up: str = "deliver"
    down: str = "deliver"
    seed: int = 0
    now: float = 0.0
    epoch: int = 1
    is_connected: bool = False
    is_aggregator_up: bool = True
    journal: set[int] = field(default_factory=set)
    journaled: Counter[tuple[int, int]] = field(default_factory=Counter)
    refused: list[RefuseSegment] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.sender = Sender(UID, self.manifest, rng=random.Random(self.seed))
        self.receiver: Receiver | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._faults: dict[str, Iterator[str]] = {
            "up": itertools.cycle(self.up.split()),
            "down": itertools.cycle(self.down.split()),
        }
        self._connection = 0

    def then_at_random(self) -> None:
        """Follow each script once, then lose every third message or so, without any period."""
        rng = random.Random(self.seed)

        def faults(script: str) -> Iterator[str]:
            yield from script.split()
            while True:
                yield rng.choice(["deliver", "deliver", "drop"])

        self._faults = {"up": faults(self.up), "down": faults(self.down)}

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._ticket), action))

    def run(self, until: Callable[[], bool], *, limit_s: float = 1e7) -> None:
        """Step through events and timers until the condition holds, in bounded steps."""
        for _ in range(MAX_STEPS):
            if until():
                return
            wakeups = [self.sender.next_wakeup()]
            if self.receiver is not None and self.is_aggregator_up:
                wakeups.append(self.receiver.next_wakeup())
            moments = [moment for moment in wakeups if moment is not None]
            moments += [self._events[0][0]] if self._events else []
            assert moments, "nothing will ever happen again"
            self.now = max(self.now, min(moments))
            assert self.now < limit_s, "it takes too long"
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            self._act(self.sender.tick(self.now))
            if self.receiver is not None and self.is_aggregator_up:
                self._answer(self.receiver.tick(self.now))
        raise AssertionError(f"no end after {MAX_STEPS} steps")

    def connect(self) -> None:
        self.is_connected = True
        self._connection += 1
        self._act(self.sender.connected(self.now))

    def disconnect(self) -> None:
        """What is on its way in either direction is lost."""
        self.is_connected = False
        self._connection += 1
        self.sender.disconnected(self.now)

    def restart_aggregator(self, *, lost: Iterable[int] = ()) -> None:
        """The aggregator comes back with its journal, or an older one."""
        self.journal -= set(lost)
        self.epoch += 1
        self.receiver = None
        self.is_aggregator_up = True

    def stop_aggregator(self) -> None:
        self.is_aggregator_up = False
        self.receiver = None

    def _act(self, outputs: Iterable[Any]) -> None:
        for output in outputs:
            match output:
                case SendManifest():
                    self._carry("up", self.manifest)
                case SendSegment(_, index, _):
                    self._carry("up", (index, Segment(self.bodies[index])))
                case Settled():
                    self.settled.append(output)

    def _answer(self, outputs: Iterable[Any]) -> None:
        for output in outputs:
            match output:
                case SendHave(_, accepted, total):
                    assert accepted <= self.journal, "answered before it was durable"
                    self._carry("down", Have(self.epoch, accepted, total))
                case Journal(_, index, body):
                    assert body == self.bodies[index]
                    assert index not in self.journal, "journaled twice"
                    self.journaled[self.epoch, index] += 1
                    self.at(self.now + JOURNAL_S, lambda i=index, e=self.epoch: self._store(i, e))
                case RefuseSegment():
                    self.refused.append(output)

    def _store(self, index: int, epoch: int) -> None:
        if epoch != self.epoch or self.receiver is None:
            return  # the process died before the transaction
        self.journal.add(index)
        self._answer(self.receiver.stored([index], now=self.now))
        if self.receiver.complete:
            self._settle()

    def _settle(self) -> None:
        everything = frozenset(range(len(self.bodies)))
        receipt = Receipt(self.epoch, ReceiptState.ACCEPTED, "", everything, len(everything))
        self._carry("down", receipt)

    def _carry(self, direction: str, message: Any) -> None:
        self.sent[direction] += 1
        fault = next(self._faults[direction])
        if not self.is_connected or fault == "drop":
            return
        connection = self._connection
        delay_s = LATENCY_S * (5 if fault == "reorder" else 1)
        if fault == "corrupt" and isinstance(message, tuple):
            index, segment = message
            message = (index, Segment(bytes(b ^ 1 for b in segment.body)))

        def arrive() -> None:
            if connection == self._connection:
                self._arrive(direction, message)

        for _ in range(2 if fault == "dup" else 1):
            self.at(self.now + delay_s, arrive)

    def _arrive(self, direction: str, message: Any) -> None:
        if direction == "down":
            self._act(self.sender.receive(message, now=self.now))
        elif self.is_aggregator_up:
            match message:
                case Manifest() if len(self.journal) == len(self.bodies):
                    self._settle()
                case Manifest():
                    self.receiver = self.receiver or Receiver(UID, self.manifest, held=self.journal)
                    self._answer(self.receiver.announced(self.now))
                case (index, segment) if self.receiver is not None:
                    self._answer(self.receiver.receive(index, segment.body, now=self.now))
                case _:
                    self._carry("down", Want(self.epoch))


@pytest.fixture
def make_pair(make_manifest: Callable[..., Manifest]) -> Callable[..., Pair]:
    def make(segments: int = 20, **options: Any) -> Pair:
        bodies = tuple(index.to_bytes(2, "little") * 8 for index in range(segments))
        return Pair(make_manifest(*bodies), bodies, **options)

    return make


def upload(pair: Pair) -> None:
    """Run to the end and check what every upload promises."""
    pair.run(lambda: bool(pair.settled))
    everything = set(range(len(pair.bodies)))
    assert pair.journal == everything
    assert pair.sender.settled is not None
    assert pair.sender.settled.accepted == everything
    assert len(pair.settled) == 1
    assert all(count == 1 for count in pair.journaled.values()), "one journaling per start"


def test_without_faults_each_segment_is_sent_once(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(50)
    pair.connect()
    upload(pair)
    assert (pair.sender.sent, pair.sender.resent) == (50, 0)
    assert pair.now < 10


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("down", ["deliver", "deliver drop", "drop drop deliver", "dup reorder"])
@pytest.mark.parametrize(
    "up",
    [
        "deliver drop",
        "drop deliver",
        "deliver drop dup reorder",
        "drop drop drop deliver",
        "dup",
        "reorder deliver deliver",
        "corrupt deliver deliver",
        "deliver deliver deliver deliver deliver deliver deliver drop",
    ],
)
def test_every_script_of_faults_ends_with_the_whole_update(
    up: str, down: str, seed: int, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair(up=up, down=down, seed=seed)
    pair.connect()
    upload(pair)


def test_a_few_losses_cost_a_few_repetitions(make_pair: Callable[..., Pair]) -> None:
    """One message in ten is lost; gaps are filled without waiting for timers."""
    pair = make_pair(100, up="deliver " * 9 + "drop")
    pair.connect()
    upload(pair)
    assert pair.sender.resent <= 30
    assert pair.now < 60


def test_corrupted_segments_are_refused_and_come_again(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(up="deliver deliver corrupt")
    pair.connect()
    upload(pair)
    assert {refusal.reason for refusal in pair.refused} == {"digest"}


@pytest.mark.parametrize("seed", range(5))
def test_a_link_that_flaps_ends_with_the_whole_update(
    seed: int, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair(60, seed=seed)
    rng = random.Random(seed)
    moment = 0.0
    for _ in range(40):
        pair.at(moment, pair.connect)
        moment += rng.uniform(0.2, 2.0)
        pair.at(moment, pair.disconnect)
        moment += rng.uniform(0.0, 20.0)
    pair.at(moment, pair.connect)
    upload(pair)


@pytest.mark.parametrize("moment", [0.05, 0.3, 0.5, 0.7, 1.1])
def test_an_aggregator_that_restarts_goes_on_with_its_journal(
    moment: float, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair()
    pair.connect()
    pair.at(moment, pair.stop_aggregator)
    pair.at(moment + 30.0, pair.restart_aggregator)
    upload(pair)
    assert len(pair.journaled) <= 20 + 8, "what was durable is not journaled again"


@pytest.mark.parametrize("moment", [0.5, 0.9, 1.3])
def test_an_aggregator_with_an_older_journal_gets_the_rest_again(
    moment: float, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair()
    pair.connect()
    pair.at(moment, lambda: pair.restart_aggregator(lost=range(1, 20, 2)))
    upload(pair)


def test_an_absent_aggregator_is_not_flooded(make_pair: Callable[..., Pair]) -> None:
    """A day of silence costs a few messages a minute, not the update over and over."""
    pair = make_pair(100)
    pair.stop_aggregator()
    pair.connect()
    pair.run(lambda: pair.now > 86_400.0)
    assert pair.sender.sent <= 2 * 86_400 / (60 * 0.75)
    assert pair.sender.stalled_s(pair.now) > 86_000
    pair.restart_aggregator()
    upload(pair)


def test_a_lost_receipt_is_asked_for(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(1, down="deliver deliver drop drop drop deliver")
    pair.connect()
    upload(pair)
    assert pair.now > 15


FAULTS = st.lists(
    st.sampled_from(["deliver", "drop", "dup", "reorder", "corrupt"]), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=100)
@given(
    up=FAULTS,
    down=FAULTS,
    segments=st.integers(1, 30),
    seed=st.integers(0, 1000),
    outages=st.lists(st.tuples(st.floats(0.01, 5), st.floats(0.01, 50)), max_size=5),
    restarts=st.lists(st.floats(0.01, 60), max_size=3),
)
def test_any_faults_that_let_something_through_end_with_the_whole_update(
    *,
    make_manifest: Any,
    up: list[str],
    down: list[str],
    segments: int,
    seed: int,
    outages: list[tuple[float, float]],
    restarts: list[float],
) -> None:
    bodies = tuple(index.to_bytes(2, "little") * 8 for index in range(segments))
    pair = Pair(make_manifest(*bodies), bodies, up=" ".join(up), down=" ".join(down), seed=seed)
    pair.then_at_random()
    moment = 0.0
    pair.at(moment, pair.connect)
    for up_s, down_s in outages:
        moment += up_s
        pair.at(moment, pair.disconnect)
        moment += down_s
        pair.at(moment, pair.connect)
    for restart in restarts:
        pair.at(restart, pair.restart_aggregator)
    upload(pair)


def test_the_policy_and_all_outputs_are_found_here() -> None:
    assert TransferPolicy.__name__ in transfer.__all__
    for name in transfer.__all__:
        assert hasattr(transfer, name)
