"""Operators' commands: once, in time, and for this start of the agent alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.commands import MAX_AHEAD_S, MAX_ANSWERS, Commands
from agent.job import JobPolicy
from agent.outputs import (
    AnswerOperator,
    Output,
    PublishStatus,
    Remembered,
    RememberHold,
    Respond,
    StartEvaluation,
)
from agent.pauses import OperatorHold, Pauses
from agent.session import Session
from agent.tasks import EvalResult, TrainerHello
from transport.control import (
    DeviceState,
    EvalResponse,
    ModelStatus,
    OperatorAction,
    OperatorCommand,
    OperatorResponse,
    Outcome,
)
from transport.transfer import TransferPolicy

PING, PAUSE, DRAIN = OperatorAction.PING, OperatorAction.PAUSE, OperatorAction.DRAIN
RESUME, EVALUATE = OperatorAction.RESUME, OperatorAction.EVALUATE
BOOT = "b07d"
# The clock that commands expire by has nothing to do with the session's.
CLOCK_S = 777_000.0


class Device:
    """A session with a trainer and adapter version 3, and an operator."""

    def __init__(self, small: Any, *, hold: OperatorHold | None = None, **remembered: Any) -> None:
        self.small = small
        self.now = 50.0
        self.clock_s = CLOCK_S
        self.pauses = Pauses(hold=hold)
        self.session = Session(
            "dev-1",
            remembered=Remembered(**({"run": small.RUN, "epoch": 4} | remembered)),
            jobs=JobPolicy(),
            transfer=TransferPolicy(),
            rng=random.Random(1),
            pauses=self.pauses,
        )
        self.commands = Commands(self.session, pauses=self.pauses, boot=BOOT)
        self.outputs = self.session.connected(self.now)
        self.outputs += self.session.announced(small.announcement(), now=self.now)
        hello = TrainerHello(1, "2.4", "", 90, 10, small.BASE.hex())
        self.outputs += self.session.trainer_ready(hello, now=self.now)

    def model(self, version: int) -> None:
        status = ModelStatus(self.small.RUN, version, "", 900, 3)
        self.session.model(status, now=self.now)

    def ask(
        self,
        action: OperatorAction,
        command_id: str = "1",
        *,
        session: str = BOOT,
        left_s: float = 30.0,
        words: str = "",
    ) -> list[Output]:
        command = OperatorCommand(session, CLOCK_S + left_s, words)
        return self.commands.receive(
            action, command_id, command, clock_s=self.clock_s, now=self.now
        )

    def answer(self, *args: Any, **keywords: Any) -> OperatorResponse:
        (answer,) = [o for o in self.ask(*args, **keywords) if isinstance(o, AnswerOperator)]
        return answer.response


@pytest.fixture
def device(small: Any) -> Device:
    return Device(small)


def test_a_ping_says_how_the_device_is(device: Device) -> None:
    empty = OperatorCommand()
    (answer,) = device.commands.receive(PING, "7f", empty, clock_s=5.5, now=device.now)
    assert answer == AnswerOperator(
        PING,
        "7f",
        OperatorResponse(Outcome.OK, BOOT, 5.5, DeviceState.IDLE, waiting=0, version=-1),
    )


def test_a_ping_is_answered_anew(device: Device) -> None:
    assert device.answer(PING).clock_s == CLOCK_S
    device.clock_s += 10.0
    assert device.answer(PING).clock_s == CLOCK_S + 10.0


def test_a_pause_is_kept_before_it_is_answered(device: Device) -> None:
    outputs = device.ask(PAUSE, words="new fan")
    assert outputs[0] == RememberHold(OperatorHold(drains=False, words="new fan"))
    assert outputs[1] == PublishStatus(DeviceState.PAUSED, 0, "operator: new fan")
    (answer,) = outputs[2:]
    assert isinstance(answer, AnswerOperator)
    assert (answer.response.outcome, answer.response.state) == (Outcome.OK, DeviceState.PAUSED)


def test_a_resume_forgets_the_pause_and_names_what_else_holds(small: Any) -> None:
    device = Device(small, hold=OperatorHold(drains=True))
    assert device.session.told_state is DeviceState.PAUSED
    outputs = device.ask(RESUME)
    assert outputs[:2] == [RememberHold(None), PublishStatus(DeviceState.IDLE, 0, "")]
    assert device.answer(RESUME).reason == ""


def test_a_pause_is_there_after_a_restart(small: Any) -> None:
    device = Device(small, hold=OperatorHold(drains=False, words="new fan"))
    told = [output for output in device.outputs if isinstance(output, PublishStatus)]
    assert told == [PublishStatus(DeviceState.PAUSED, 0, "operator: new fan")]


def test_a_drain_counts_what_waits(small: Any) -> None:
    update = small.upload(1)
    device = Device(small, uploads=(update,))
    assert device.answer(DRAIN).waiting == 1
    assert device.session.payload_lost(update.uid, now=device.now) == [
        PublishStatus(DeviceState.PAUSED, 0, "drained")
    ]
    assert device.answer(PING).waiting == 0


@pytest.mark.parametrize("action", [PAUSE, DRAIN, RESUME])
def test_the_same_command_is_obeyed_once_and_answered_always_the_same(
    device: Device, action: OperatorAction
) -> None:
    first = device.answer(action, "1")
    other = RESUME if action is PAUSE else PAUSE
    device.ask(other, "2")
    held = device.pauses.hold
    device.clock_s += 1e6  # an answer that was given is never taken back by a late repeat
    assert device.ask(action, "1") == [AnswerOperator(action, "1", first)]
    assert device.pauses.hold is held


def test_a_command_for_another_start_is_expired(device: Device) -> None:
    response = device.answer(PAUSE, session="c18e")
    assert (response.outcome, response.session) == (Outcome.EXPIRED, BOOT)
    assert "another start" in response.reason
    assert not device.pauses.is_paused


def test_a_command_that_waited_too_long_is_expired(device: Device) -> None:
    device.clock_s += 42.0
    response = device.answer(PAUSE, left_s=30.0)
    assert (response.outcome, response.reason) == (Outcome.EXPIRED, "it came 12 s too late")
    assert not device.pauses.is_paused
    device.clock_s = CLOCK_S + 30.0
    assert device.answer(PAUSE, left_s=30.0).outcome is Outcome.OK


def test_an_expiry_far_away_is_refused(device: Device) -> None:
    assert device.answer(PAUSE, left_s=MAX_AHEAD_S + 1).outcome is Outcome.REFUSED
    assert device.answer(PAUSE, left_s=MAX_AHEAD_S).outcome is Outcome.OK


def test_answers_are_remembered_within_bounds(device: Device) -> None:
    for number in range(MAX_ANSWERS):
        device.ask(PAUSE, str(number), left_s=float(number))
    assert device.answer(RESUME, "more").reason == "too many commands at once"
    device.clock_s += 1.5  # two of them can be asked for no more
    assert device.answer(RESUME, "more").outcome is Outcome.OK
    assert device.answer(PAUSE, "0", left_s=0.0).outcome is Outcome.EXPIRED
    assert device.answer(PAUSE, "2", left_s=2.0).outcome is Outcome.OK
    assert not device.pauses.is_paused


def test_an_evaluation_is_that_of_the_newest_version(device: Device) -> None:
    assert device.answer(EVALUATE, "1").reason == "no adapter version is known yet"
    device.model(3)
    device.session.adapter_stored(device.small.adapter(3), now=device.now)
    outputs = device.ask(EVALUATE, "2")
    (task,) = [output for output in outputs if isinstance(output, StartEvaluation)]
    assert (task.command.version, task.command.epoch, task.command.deadline_s) == (3, 4, 30.0)
    (answer,) = [output for output in outputs if isinstance(output, AnswerOperator)]
    assert (answer.response.outcome, answer.response.version) == (Outcome.OK, 3)
    told = device.session.evaluated(EvalResult(task.task_id, 2.5, 100, 40), now=device.now)
    assert Respond(EvalResponse(device.small.RUN, 3, 2.5, 100, 40)) in told


def test_a_device_that_is_paused_evaluates_nothing(device: Device) -> None:
    device.model(3)
    device.ask(PAUSE, words="new fan")
    response = device.answer(EVALUATE)
    assert (response.outcome, response.reason) == (
        Outcome.REFUSED,
        "it is paused: operator: new fan",
    )


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from([PAUSE, DRAIN, RESUME, PING]),
        st.integers(0, 5),
        st.sampled_from([BOOT, "c18e"]),
        st.sampled_from([0.0, 30.0, 2 * MAX_AHEAD_S]),
        st.floats(0, 40),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=100)
@given(script=COMMANDS)
def test_whatever_is_repeated_changes_nothing(small: Any, script: list[Any]) -> None:
    device = Device(small)
    for action, number, session, left_s, pause_s in script:
        device.clock_s += pause_s
        first = device.ask(action, str(number), session=session, left_s=left_s)
        held = device.pauses.hold
        again = device.ask(action, str(number), session=session, left_s=left_s)
        assert again == first[-1:]
        assert device.pauses.hold is held
        answer = first[-1]
        assert isinstance(answer, AnswerOperator)
        in_time = session == BOOT and 0 <= CLOCK_S + left_s - device.clock_s <= MAX_AHEAD_S
        if len(first) > 1:
            assert in_time
            assert answer.response.outcome is Outcome.OK
