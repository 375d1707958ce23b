"""Sender and receiver over a link that hypothesis controls, step by step.

Every message lies on the link until a step delivers it, delivers a copy, damages it or loses it, in
any order and over any number of connections. The aggregator may die at any moment and come back
with its journal, or with an older one. At the end the link becomes good, and all has to end well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from transport.messages import (
    Have,
    Manifest,
    Receipt,
    ReceiptState,
    Want,
)
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
# [messages] Older ones are lost: a broker's queue has an end as well.
MOST_ON_THE_LINK = 60
LATENCY_S = 0.1
MAX_STEPS = 3_000


@pytest.fixture(scope="module", autouse=True)
def _manifests(make_manifest: Callable[..., Manifest]) -> None:
    """A state machine is no test that could ask for a fixture."""
    Transfer.make_manifest = staticmethod(make_manifest)


class Transfer(RuleBasedStateMachine):
    """One update on its way."""

    make_manifest: ClassVar[Callable[..., Manifest]]

    @initialize(
        count=st.integers(1, 12),
        window_min=st.integers(1, 2),
        window_more=st.integers(0, 4),
        have_every=st.integers(1, 3),
        seed=st.integers(0, 9),
    )
    def begin(
        self, *, count: int, window_min: int, window_more: int, have_every: int, seed: int
    ) -> None:
        self.policy = TransferPolicy(
            window_min=window_min,
            window_max=window_min + window_more,
            have_every=have_every,
            jitter=0.25,
        )
        self.bodies = tuple(f"segment {index}".encode() for index in range(count))
        self.manifest = self.make_manifest(*self.bodies)
        self.sender = Sender(UID, self.manifest, policy=self.policy, rng=random.Random(seed))
        self.now = 0.0
        self.online = False
        self.settled: list[Receipt] = []
        self.unanswered: set[int] = set()  # sent since what was in flight was last given up
        self.up: list[Any] = []
        self.down: list[Have | Want | Receipt] = []
        self.epoch = 1
        self.heard_epoch = -1  # the newest that the device acted on
        self.receiver: Receiver | None = None
        self.pending: dict[int, bytes] = {}  # given out to be journaled
        self.journal: dict[int, bytes] = {}
        self.journaled_of: dict[int, set[int]] = {1: set()}  # epoch → all that it ever held
        self.receipt: Receipt | None = None
        self.decided: set[tuple[ReceiptState, frozenset[int]]] = set()
        self.told: frozenset[int] = frozenset()  # what the aggregator has last said it holds

    # -- the device ------------------------------------------------------------------------------

    @precondition(lambda self: not self.online)
    @rule()
    def connect(self) -> None:
        self.online = True
        self.unanswered.clear()
        self.do(self.sender.connected(self.now))

    @precondition(lambda self: self.online)
    @rule()
    def disconnect(self) -> None:
        """What is on the link stays there: brokers deliver over connections."""
        self.online = False
        self.unanswered.clear()
        self.sender.disconnected(self.now)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3, 2.0, 20.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    @precondition(lambda self: self.moments())
    @rule()
    def wait_until_something_is_due(self) -> None:
        self.now = max(self.now, min(self.moments()))
        self.tick()

    # -- the link --------------------------------------------------------------------------------

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def deliver_up(self, data: st.DataObject) -> None:
        self.to_aggregator(self.up.pop(self.pick(data, self.up)))

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def deliver_a_copy_up(self, data: st.DataObject) -> None:
        self.to_aggregator(self.up[self.pick(data, self.up)])

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """A segment with a byte too many, a wrong bit, or a place that there is not."""
        message = self.up[self.pick(data, self.up)]
        if isinstance(message, tuple):
            index, body = message
            wrong = data.draw(
                st.sampled_from(
                    [
                        (index, body + b"!"),
                        (index, bytes([body[0] ^ 1]) + body[1:]),
                        (index + len(self.bodies), body),
                        (-1, body),
                    ]
                )
            )
            self.to_aggregator(wrong, damaged=True)

    @precondition(lambda self: self.down)
    @rule(data=st.data())
    def deliver_down(self, data: st.DataObject) -> None:
        self.to_device(self.down.pop(self.pick(data, self.down)))

    @precondition(lambda self: self.down)
    @rule(data=st.data())
    def deliver_a_copy_down(self, data: st.DataObject) -> None:
        self.to_device(self.down[self.pick(data, self.down)])

    @precondition(lambda self: self.up or self.down)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from([queue for queue in (self.up, self.down) if queue]))
        del queue[self.pick(data, queue)]

    @precondition(lambda self: self.online and self.sender.settled is None)
    @rule(turns=st.integers(1, 40))
    def it_goes_well_for_a_while(self, turns: int) -> None:
        for _ in range(turns):
            if self.sender.settled is None and len(self.sender.accepted) < len(self.bodies):
                self.step()

    # -- the aggregator --------------------------------------------------------------------------

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.pending)), min_size=1))
        self.make_durable(chosen)

    @precondition(lambda self: self.receipt is None)
    @rule(sure=st.integers(0, 3))
    def close_the_round(self, sure: int) -> None:
        """What is durable counts; the update's device hears of it, or asks."""
        if sure == 0:  # seldom: little happens after it
            self.decide()

    @rule(knows_update=st.booleans(), data=st.data())
    def restart_with(self, *, knows_update: bool, data: st.DataObject) -> None:
        """Come back with the journal as it was, with less of it, or without the update."""
        held = data.draw(st.sets(st.sampled_from(sorted(self.journal)))) if self.journal else set()
        lost_some = data.draw(st.booleans())
        if not knows_update:
            held, self.receipt = set(), None
        elif lost_some:
            self.receipt = None
        else:
            held = set(self.journal)
        if self.receipt is not None:
            held = set(self.journal)
        self.epoch += 1
        self.pending.clear()
        self.journal = {index: self.journal[index] for index in held}
        self.journaled_of[self.epoch] = set(held)
        self.receiver = None
        if self.receipt is not None:
            self.say(self.receipt)
        elif knows_update:
            self.accept_manifest()

    # -- what holds at all times -----------------------------------------------------------------

    @invariant()
    def the_device_believes_only_what_was_journaled(self) -> None:
        if self.sender.settled is None:  # else the receipt says what counts
            assert self.sender.accepted <= self.journaled_of.get(self.heard_epoch, set())

    @invariant()
    def a_timer_runs_while_there_is_anything_to_wait_for(self) -> None:
        if self.online and self.sender.settled is None:
            assert self.sender.next_wakeup() is not None
        else:
            assert self.sender.next_wakeup() is None

    @invariant()
    def what_is_durable_has_been_said_or_will_be(self) -> None:
        if self.receiver is not None and self.receipt is None:
            assert self.receiver.held == frozenset(self.journal)
            assert self.receiver.held == self.told or self.receiver.next_wakeup() is not None

    @invariant()
    def the_window_bounds_what_is_in_flight(self) -> None:
        assert len(self.unanswered - self.sender.accepted) <= self.policy.window_max

    @invariant()
    def it_is_settled_once_with_a_receipt_that_was_given(self) -> None:
        assert len(self.settled) == (self.sender.settled is not None)
        for receipt in self.settled:
            assert receipt == self.sender.settled
            assert (receipt.state, receipt.accepted) in self.decided

    def teardown(self) -> None:
        """From here on nothing is lost, and everything has to end, in bounded time and steps."""
        if not hasattr(self, "sender"):
            return
        started = self.now
        if not self.online:
            self.connect()
        for _ in range(MAX_STEPS):
            if self.sender.settled is not None:
                return
            self.step()
            # The longest wait that earlier losses may have left, for a receipt, and some turns.
            assert self.now - started <= 1.25 * self.policy.receipt_cap_s + 200, "it takes too long"
        raise AssertionError("they talk for ever")

    def step(self) -> None:
        """Do the next thing that happens on a good link, with a journal that works."""
        if self.up:
            self.now += LATENCY_S
            self.to_aggregator(self.up.pop(0))
        elif self.down:
            self.now += LATENCY_S
            self.to_device(self.down.pop(0))
        elif self.pending:
            self.make_durable(set(self.pending))
        elif self.receipt is None and len(self.journal) == len(self.bodies):
            self.decide()
        else:
            assert self.moments(), "nothing will ever happen again"
            self.now = max(self.now, min(self.moments()))
        self.tick()

    # -- how it works ----------------------------------------------------------------------------

    @staticmethod
    def pick(data: st.DataObject, queue: list[Any]) -> int:
        return data.draw(st.integers(0, len(queue) - 1))

    def moments(self) -> list[float]:
        wakeups = [self.sender.next_wakeup()]
        if self.receiver is not None and self.receipt is None:
            wakeups.append(self.receiver.next_wakeup())
        return [moment for moment in wakeups if moment is not None]

    def tick(self) -> None:
        due = self.sender.next_wakeup()
        if due is not None and self.now >= due:
            self.unanswered.clear()
        self.do(self.sender.tick(self.now))
        after = self.sender.next_wakeup()
        assert after is None or after > self.now, "due for ever"
        if self.receiver is not None and self.receipt is None:
            self.answer(self.receiver.tick(self.now))

    def do(self, outputs: Iterable[Any]) -> None:
        """Carry out what the device's side wants."""
        for output in outputs:
            match output:
                case SendManifest():
                    assert self.online
                    self.put(self.up, self.manifest)
                case SendSegment(_, index, _):
                    assert self.online
                    assert index not in self.sender.accepted, "sent in vain"
                    self.unanswered.add(index)
                    self.put(self.up, (index, self.bodies[index]))
                case Settled(_, receipt):
                    self.settled.append(receipt)

    def to_device(self, message: Have | Want | Receipt) -> None:
        if not self.online or self.sender.settled is not None:
            return  # whoever is offline hears nothing
        if message.epoch >= self.heard_epoch:
            if message.epoch > self.heard_epoch or isinstance(message, Want):
                self.unanswered.clear()
            self.heard_epoch = message.epoch
        self.do(self.sender.receive(message, now=self.now))

    def to_aggregator(self, message: Any, *, damaged: bool = False) -> None:
        if self.receipt is not None:
            self.say(self.receipt)
            return
        match message:
            case Manifest() if self.receiver is None:
                self.accept_manifest()
            case Manifest():
                self.answer(self.receiver.announced(self.now))
            case _ if self.receiver is None:
                self.put(self.down, Want(self.epoch))
            case (index, body):
                outputs = self.receiver.receive(index, body, now=self.now)
                if damaged:
                    assert [type(output) for output in outputs] == [RefuseSegment]
                self.answer(outputs)

    def accept_manifest(self) -> None:
        self.receiver = Receiver(UID, self.manifest, held=set(self.journal), policy=self.policy)
        self.answer(self.receiver.announced(self.now))

    def answer(self, outputs: Iterable[Any]) -> None:
        """Carry out what the aggregator's side wants."""
        for output in outputs:
            match output:
                case SendHave(_, accepted, total):
                    assert accepted == frozenset(self.journal), "not what is durable"
                    self.told = accepted
                    self.put(self.down, Have(self.epoch, accepted, total))
                case Journal(_, index, body):
                    assert body == self.bodies[index]
                    assert index not in self.journal, "journaled twice"
                    assert index not in self.pending, "given out twice"
                    self.pending[index] = body

    def make_durable(self, indices: set[int]) -> None:
        for index in indices:
            self.journal[index] = self.pending.pop(index)
        self.journaled_of[self.epoch] |= indices
        if self.receiver is not None:
            outputs = self.receiver.stored(indices, now=self.now)
            if self.receipt is None:
                self.answer(outputs)

    def decide(self) -> None:
        accepted = frozenset(self.journal)
        self.pending.clear()
        state, reason = ReceiptState.PARTIAL, "partial"
        if len(accepted) == len(self.bodies):
            state, reason = ReceiptState.ACCEPTED, ""
        elif not accepted:
            state, reason = ReceiptState.LATE, "late"
        self.decided.add((state, accepted))
        self.receipt = Receipt(self.epoch, state, reason, accepted, len(self.bodies))
        self.say(self.receipt)

    def say(self, receipt: Receipt) -> None:
        """The last word, in the name of the aggregator that there is now."""
        newest = Receipt(self.epoch, receipt.state, receipt.reason, receipt.accepted, receipt.total)
        self.put(self.down, newest)

    @staticmethod
    def put(queue: list[Any], message: Any) -> None:
        queue.append(message)
        del queue[:-MOST_ON_THE_LINK]


TestTransfer = Transfer.TestCase
TestTransfer.settings = settings(max_examples=250, stateful_step_count=60, deadline=None)
