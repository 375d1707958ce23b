"""A round with every event in any order, against what a round promises."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.round import (
    Abandoned,
    Accepted,
    Arrived,
    Closed,
    CloseReason,
    Declined,
    Joined,
    Round,
    RoundEvent,
    RoundOutput,
    Silent,
)
from transport.control import RoundPhase

DEVICES = ("a", "b", "c", "d", "e")
names = st.sampled_from(DEVICES)
TIMEOUT_S = 10.0


class OneRound(RuleBasedStateMachine):
    """One attempt at a round, and what the world has told it."""

    @initialize(
        goal=st.integers(1, 5),
        quorum=st.integers(1, 5),
        length_s=st.sampled_from([1.0, 15.0, 100.0]),
        arrived=st.dictionaries(names, st.booleans(), max_size=3),
    )
    def begin(self, *, goal: int, quorum: int, length_s: float, arrived: dict[str, bool]) -> None:
        self.now = 0.0
        self.goal, self.quorum = goal, min(goal, quorum)
        self.deadline = length_s
        self.round = Round(
            goal=self.goal,
            quorum=self.quorum,
            deadline=self.deadline,
            answer_timeout_s=TIMEOUT_S,
            arrived=arrived,
        )
        self.arrived = dict(arrived)
        self.asked: set[str] = set()
        self.willing: set[str] = set()  # said yes, or sent a part, and has not declined since
        self.declined: set[str] = set()
        self.silent: set[str] = set()
        self.owes_answer: dict[str, float] = {}  # asked, has said nothing since → asked when
        self.decisions: list[tuple[float, RoundOutput]] = []
        self.ticked_at = -1.0

    @rule(chosen=st.sets(names, min_size=1), awaited=st.booleans())
    def ask(self, chosen: set[str], *, awaited: bool) -> None:
        self.asked |= chosen
        for name in chosen - self.declined:
            if self.arrived.get(name, False):
                continue
            self.owes_answer.pop(name, None)
            self.silent.discard(name)
            if awaited:
                self.owes_answer[name] = self.now
            else:
                self.willing.discard(name)
                self.silent.add(name)
        self.tell(Joined(tuple(sorted(chosen)), awaited))

    @rule(name=names)
    def decline(self, name: str) -> None:
        self.silent.discard(name)
        self.owes_answer.pop(name, None)
        self.willing.discard(name)
        self.declined |= {name} & self.asked
        self.tell(Declined(name))

    @rule(name=names)
    def accept(self, name: str) -> None:
        self.silent.discard(name)
        self.owes_answer.pop(name, None)
        self.declined.discard(name)
        if name in self.asked:
            self.willing.add(name)
        self.tell(Accepted(name))

    @rule(name=names, complete=st.booleans())
    def arrive(self, name: str, *, complete: bool) -> None:
        self.silent.discard(name)
        self.owes_answer.pop(name, None)
        if self.round.phase is RoundPhase.OPEN:
            self.arrived[name] = complete or self.arrived.get(name, False)
        self.tell(Arrived(name, complete))

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; who drives the round may be late by that much."""
        self.now += seconds
        self.tick()

    @precondition(lambda self: self.round.phase is RoundPhase.OPEN)
    @rule()
    def wait_until_something_is_due(self) -> None:
        wakeup = self.round.next_wakeup()
        assert wakeup is not None
        self.now = max(self.now, wakeup)
        self.tick()

    @invariant()
    def it_ends_once_and_then_wants_nothing(self) -> None:
        is_open = self.round.phase is RoundPhase.OPEN
        assert len(self.decisions) == (not is_open)
        assert (self.round.next_wakeup() is None) == (not is_open)

    @invariant()
    def an_open_round_wakes_at_its_deadline_at_the_latest(self) -> None:
        wakeup = self.round.next_wakeup()
        assert wakeup is None or wakeup <= self.deadline
        assert self.round.phase is not RoundPhase.OPEN or self.ticked_at < self.deadline

    @invariant()
    def it_counts_what_has_arrived(self) -> None:
        complete = sum(self.arrived.values())
        assert (self.round.complete, self.round.partial) == (
            complete,
            len(self.arrived) - complete,
        )

    @invariant()
    def its_views_are_what_they_are_by_definition(self) -> None:
        if self.round.phase is not RoundPhase.OPEN:
            return  # it takes note of nothing any more
        cohort = self.asked - self.declined - self.silent
        delivered = {name for name, whole in self.arrived.items() if whole}
        assert (self.round.asked, self.round.silent) == (self.asked, self.silent)
        assert (self.round.cohort, self.round.delivered) == (cohort, delivered)
        assert self.round.busy == cohort | self.arrived.keys()
        assert self.round.awaited == (cohort | self.arrived.keys()) - self.declined - delivered
        due = [asked_at + TIMEOUT_S for asked_at in self.owes_answer.values()]
        assert self.round.next_wakeup() == min([self.deadline, *due])

    def teardown(self) -> None:
        """Driven by its own wakeups alone it ends, at the deadline at the latest."""
        if not hasattr(self, "round"):
            return
        for _ in range(3 * len(DEVICES) + 3):
            wakeup = self.round.next_wakeup()
            if wakeup is None:
                break
            assert self.now < self.deadline, "the deadline passed without a decision"
            self.now = max(self.now, wakeup)
            self.tick()
        assert len(self.decisions) == 1

    def tell(self, event: RoundEvent) -> None:
        self.look_at(self.round.receive(event, now=self.now))

    def tick(self) -> None:
        outputs = self.round.tick(self.now)
        self.look_at(outputs)
        if not outputs:
            assert self.round.tick(self.now) == [], "not idempotent"
            wakeup = self.round.next_wakeup()
            assert wakeup is None or wakeup > self.now, "due for ever"

    def look_at(self, outputs: list[RoundOutput]) -> None:
        self.ticked_at = self.now
        complete, some = sum(self.arrived.values()), len(self.arrived)
        for output in outputs:
            match output:
                case Silent(silent):
                    for name in silent:
                        assert self.now >= self.owes_answer.pop(name) + TIMEOUT_S
                        self.willing.discard(name)
                        self.silent.add(name)
                    continue
                case Closed(CloseReason.GOAL):
                    assert complete >= self.goal
                case Closed(CloseReason.DEADLINE):
                    assert self.now >= self.deadline
                    assert complete < self.goal
                    assert some >= self.quorum
                case Closed(CloseReason.EXHAUSTED):
                    assert self.now < self.deadline
                    assert some >= self.quorum
                    done = {name for name, whole in self.arrived.items() if whole}
                    assert self.willing <= done, "somebody who is at it is not waited for"
                    assert set(self.owes_answer) <= done, "somebody may still say yes"
                case Abandoned(arrived):
                    assert self.now >= self.deadline
                    assert arrived == some < self.quorum
            self.decisions.append((self.now, output))


TestOneRound = OneRound.TestCase
TestOneRound.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
