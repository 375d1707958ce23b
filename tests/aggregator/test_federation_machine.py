"""A whole federation of three devices, with everything lost, doubled, shuffled and killed.

The aggregator is the real one, with its real store; devices send with the real sender. Hypothesis
owns the messages on the way, the clock, and the moment at which the process ends. The model is what
the aggregator itself has said: what it called durable stays, and the last word on an update stays
the last.
"""

from __future__ import annotations

import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from transport import frame
from transport.messages import Have, Receipt, ReceiptState, Want
from transport.topics import Down, Topics, UpSegment

TOPICS = Topics("lab")
NAMES = ("a", "b", "c")
ROUNDS = 3
KINDS: dict[int, Any] = {3: Want, 4: Have, 5: Receipt}

# Where the process may end: before or after so many durable effects from now.
moments = st.one_of(st.none(), st.none(), st.integers(0, 6))


def machine(
    make_rig: Callable[..., Any], crash: type[BaseException]
) -> type[RuleBasedStateMachine]:
    class Federation(RuleBasedStateMachine):
        """Three devices, three rounds."""

        @initialize(
            goal=st.integers(1, 3),
            late=st.sampled_from(["stale", "merge", "drop"]),
            max_staleness=st.integers(1, 2),
        )
        def begin(self, *, goal: int, late: str, max_staleness: int) -> None:
            self.rig = make_rig(
                goal=goal,
                quorum=1,
                min_devices=1,
                rounds=ROUNDS,
                late=late,
                max_staleness=max_staleness,
                quota_segments_per_s=10_000.0,
                quota_burst_segments=10_000,
            ).start()
            self.read = 0
            self.goes_well = False
            self.held: dict[str, frozenset[int]] = {}  # uid → what was called durable
            self.sent: dict[str, set[int]] = {}  # uid → what was on the way
            self.receipts: dict[str, tuple[ReceiptState, frozenset[int]]] = {}
            for device in self.rig.add(*NAMES):
                device.join()

        # -- the world ---------------------------------------------------------------------------

        @rule(crash_after=moments, batch=st.sampled_from([1, 3, 128]))
        def deliver(self, crash_after: int | None, batch: int) -> None:
            """Carry some of what is on the way; the process may end in the middle of it."""
            self.note_sent()

            def once() -> None:
                taken = self.rig._inbox[:batch]
                del self.rig._inbox[:batch]
                self.rig.service._process(taken)
                self.rig._carry()

            self.guarded(crash_after, once)

        @rule(crash_after=moments)
        def deliver_all(self, crash_after: int | None) -> None:
            """The same, and what is said to that, until nobody has anything to say."""

            def on() -> None:
                while self.rig._inbox:
                    self.note_sent()
                    taken, self.rig._inbox = self.rig._inbox, []
                    self.rig.service._process(taken)
                    self.rig._carry()

            self.guarded(crash_after, on)

        @rule(seconds=st.sampled_from([0.0, 0.3, 3.0, 35.0, 70.0]), crash_after=moments)
        def wait(self, seconds: float, crash_after: int | None) -> None:
            def pass_time() -> None:
                self.rig.now += seconds
                for device in self.rig.devices.values():
                    device.tick()
                self.rig.service._process([])
                self.rig._carry()

            self.guarded(crash_after, pass_time)

        @precondition(lambda self: self.rig._inbox)
        @rule(data=st.data(), what=st.sampled_from(["lose", "double", "last"]))
        def disturb(self, data: st.DataObject, what: str) -> None:
            """Lose some of what is on the way, carry it twice, or put it behind the others."""
            inbox = self.rig._inbox
            first = data.draw(st.integers(0, len(inbox) - 1))
            last = data.draw(st.integers(first, min(first + 8, len(inbox) - 1)))
            some = inbox[first : last + 1]
            if what != "double":
                del inbox[first : last + 1]
            if what != "lose":
                inbox.extend(some)

        @rule(
            name=st.sampled_from(NAMES),
            what=st.sampled_from(["lose", "come back", "part", "all", "decline", "agree"]),
        )
        def device(self, name: str, what: str) -> None:
            device = self.rig.devices[name]
            match what:
                case "lose":
                    device.lose()
                case "come back":
                    device.come_back()
                case "part" | "all":
                    device.most_segments = 3 if what == "part" else None
                case _:
                    device.declines = what == "decline"

        @rule()
        def restart(self) -> None:
            self.rig.restart()

        @rule()
        def reconnect(self) -> None:
            self.rig.lose_link()
            self.rig.regain_link()

        # -- what holds at all times -------------------------------------------------------------

        @invariant()
        def what_was_called_durable_stays_and_a_last_word_is_the_last(self) -> None:
            for address, payload, _ in self.rig.published[self.read :]:
                if isinstance(address, Down):
                    self.hear(address.uid, frame.decode(KINDS[payload[1]], payload))
            self.read = len(self.rig.published)

        def hear(self, uid: str, answer: Any) -> None:
            match answer:
                case Have(_, accepted, _):
                    assert accepted >= self.held.get(uid, frozenset()), "forgotten"
                    assert self.goes_well or accepted <= self.sent.get(uid, set()), "made up"
                    assert uid not in self.receipts, "the last word is taken back"
                    self.held[uid] = accepted
                case Receipt(_, state, _, accepted, _):
                    word = (state, accepted)
                    assert self.receipts.setdefault(uid, word) == word, "another last word"
                    if state in {ReceiptState.ACCEPTED, ReceiptState.PARTIAL}:
                        assert accepted >= self.held.get(uid, frozenset()), "left out"
                case Want():
                    assert uid not in self.receipts
                    assert uid not in self.held, "an update that it has taken is unknown to it"

        @invariant()
        def an_update_is_in_one_round_and_its_receipt_names_what_of_it(self) -> None:
            committed = self.rig.current()
            counted: dict[str, frozenset[int]] = {}
            for round_id, updates in self.rig.frozen.items():
                for update in updates if round_id <= committed else ():
                    assert update.uid not in counted, "in two adapters"
                    counted[update.uid] = update.accepted
            for uid, (state, accepted) in self.receipts.items():
                if state in {ReceiptState.ACCEPTED, ReceiptState.PARTIAL}:
                    assert counted[uid] == accepted, "the receipt names something else"
                else:
                    assert uid not in counted, "in the adapter, and yet told that it is not"

        def teardown(self) -> None:
            """From here on all goes well: the run ends, and everybody has the last word."""
            if not hasattr(self, "rig"):
                return
            rig = self.rig
            for device in rig.devices.values():
                device.declines, device.most_segments = False, None
                device.come_back()
            self.goes_well = True
            rig.run_until(lambda: rig.service._coordinator.state.value == "finished", steps=1_500)
            rig.advance(700.0)
            for device in rig.devices.values():
                for update in device.updates.values():
                    assert update.uid in device.receipts, "never settled"
            self.what_was_called_durable_stays_and_a_last_word_is_the_last()
            self.an_update_is_in_one_round_and_its_receipt_names_what_of_it()
            rig.kill()

        # -- how it works ------------------------------------------------------------------------

        def guarded(self, crash_after: int | None, action: Callable[[], None]) -> None:
            """Do it, and let the process end at so many durable effects from now."""
            left = crash_after

            def crash_at(_where: str) -> None:
                nonlocal left
                if left == 0:
                    left = None
                    raise crash
                left = None if left is None else left - 1

            self.rig.crash_at = crash_at
            try:
                action()
            except crash:
                self.rig._carry()  # what was published before the end is on its way
                self.rig.crash_at = lambda _: None
                self.rig.restart()
            finally:
                self.rig.crash_at = lambda _: None

        def note_sent(self) -> None:
            for delivery in self.rig._inbox:
                address = TOPICS.parse(delivery.topic)
                if isinstance(address, UpSegment):
                    self.sent.setdefault(address.uid, set()).add(address.index)

    return Federation


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: no crash here is one of the machine."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="fedfstq-", dir=memory) as folder:
        yield Path(folder)


def test_what_is_durable_stays_and_every_update_has_one_last_word(
    make_rig: Any, crash: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same run id and sessions for the same steps.
    numbers = itertools.count()
    monkeypatch.setattr(secrets, "token_hex", lambda size: f"{next(numbers):0{2 * size}x}")
    steps = settings(max_examples=25, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(machine(make_rig, crash), settings=steps)
