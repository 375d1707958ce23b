"""One exchange on a virtual clock, the device played by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from tools.operate.asking import MOST_AHEAD_S, REPEAT_S, Exchange, Send, document
from transport.control import (
    DeviceState,
    EvalResponse,
    OperatorAction,
    OperatorCommand,
    OperatorResponse,
    Outcome,
)

PING, PAUSE, DRAIN = OperatorAction.PING, OperatorAction.PAUSE, OperatorAction.DRAIN
EVALUATE = OperatorAction.EVALUATE


class Desk:
    """An operator who asks one device."""

    def __init__(self, action: OperatorAction, *, timeout_s: float = 60.0, words: str = "") -> None:
        self.now = 100.0
        numbers = count(1)
        self.exchange = Exchange(
            "nano-01",
            action,
            words=words,
            timeout_s=timeout_s,
            new_id=lambda: f"id-{next(numbers)}",
            now=self.now,
        )
        self.sent: list[Send] = []
        self.sleep()

    def sleep(self) -> None:
        wakeup = self.exchange.next_wakeup()
        assert wakeup is not None
        self.now = max(self.now, wakeup)
        self.sent += self.exchange.tick(self.now)

    def answer(self, send: Send | None = None, *, after_s: float = 0.25, **changes: Any) -> None:
        self.now += after_s
        send = send or self.sent[-1]
        fields: dict[str, Any] = {
            "outcome": Outcome.OK,
            "session": "b07d",
            "clock_s": 5000.0,
            "state": DeviceState.IDLE,
            "waiting": 0,
            "version": 6,
        }
        response = OperatorResponse(**(fields | changes))
        self.sent += self.exchange.answered(send.action, send.command_id, response, now=self.now)

    @property
    def told(self) -> tuple[bool, str]:
        result = self.exchange.result
        assert result is not None
        return result.answered, result.text


def test_a_ping_shows_how_long_it_took() -> None:
    desk = Desk(PING)
    assert desk.sent == [Send("nano-01", PING, "id-1", OperatorCommand())]
    assert desk.exchange.result is None
    desk.answer(after_s=0.25)
    assert desk.told == (True, "idle, adapter 6")
    assert desk.exchange.result is not None
    assert desk.exchange.result.rtt_ms == 250.0
    assert desk.exchange.next_wakeup() is None
    assert desk.exchange.tick(desk.now + 1e6) == []


def test_a_command_goes_out_with_its_end_on_the_devices_clock() -> None:
    desk = Desk(PAUSE, words="new fan")
    desk.answer(after_s=1.0)
    ping, pause = desk.sent
    assert pause == Send(
        "nano-01", PAUSE, "id-2", OperatorCommand("b07d", 5000.0 + 59.0, "new fan")
    )
    desk.answer(state=DeviceState.PAUSED, waiting=2, reason="why", version=-1)
    assert desk.told == (True, "paused, 2 waiting, why")
    desk.answer(ping)  # late, and of no use any more
    assert len(desk.sent) == 2


def test_no_command_expires_later_than_a_device_takes() -> None:
    desk = Desk(DRAIN, timeout_s=86_400.0)
    desk.answer()
    assert desk.sent[-1].command.until_s == 5000.0 + MOST_AHEAD_S


def test_what_is_not_answered_is_asked_again() -> None:
    desk = Desk(PAUSE)
    desk.sleep()
    assert [send.command_id for send in desk.sent] == ["id-1", "id-2"]  # each ping is timed alone
    desk.answer(desk.sent[0], after_s=0.5)
    assert desk.exchange.tick(desk.now) == []
    desk.sleep()
    command, again = desk.sent[-2:]
    assert command is again
    desk.answer(desk.sent[1])  # the other ping
    desk.answer(command)
    assert desk.told[0]
    assert desk.exchange.result is not None
    assert desk.exchange.result.rtt_ms == pytest.approx(1000 * (0.5 + REPEAT_S + 0.25))


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.EXPIRED])
def test_a_refusal_is_no_answer(outcome: Outcome) -> None:
    desk = Desk(PAUSE)
    desk.answer()
    desk.answer(outcome=outcome, reason="because")
    assert desk.told == (False, f"{outcome.value}: because")


def test_silence_ends_with_the_time() -> None:
    desk = Desk(PAUSE, timeout_s=10.0)
    while desk.exchange.result is None:
        desk.sleep()
    assert desk.now == 110.0
    assert desk.told == (False, "no answer; no status is known")
    assert {send.action for send in desk.sent} == {PING}
    desk.answer()  # nothing is sent to a device that was given up
    assert {send.action for send in desk.sent} == {PING}


def test_a_device_that_is_gone_is_pinged_once() -> None:
    desk = Desk(PAUSE, timeout_s=10.0)
    desk.exchange.last_state = DeviceState.LOST
    while desk.exchange.result is None:
        desk.sleep()
    assert len(desk.sent) == 1
    assert desk.told == (False, "no answer; its status says lost")


def test_answers_to_somebody_else_are_left_alone() -> None:
    desk = Desk(PAUSE)
    desk.answer(Send("nano-01", PING, "other", OperatorCommand()))
    assert len(desk.sent) == 1
    desk.answer(desk.sent[0])
    desk.answer(Send("nano-01", PAUSE, "other", OperatorCommand()))
    assert desk.exchange.result is None


def test_a_drain_is_over_when_nothing_waits() -> None:
    desk = Desk(DRAIN)
    desk.answer()
    desk.answer(state=DeviceState.PAUSED, waiting=2)
    assert desk.exchange.result is None
    desk.sleep()
    desk.answer(state=DeviceState.PAUSED, waiting=1)
    assert desk.exchange.result is None
    desk.sleep()
    desk.answer(state=DeviceState.PAUSED)
    assert desk.told == (True, "paused, adapter 6")


def test_a_drain_that_takes_too_long_says_what_waits() -> None:
    desk = Desk(DRAIN, timeout_s=20.0)
    desk.answer()
    desk.answer(state=DeviceState.PAUSED, waiting=2)
    while desk.exchange.result is None:
        desk.sleep()
    assert desk.told == (False, "still drains: paused, 2 waiting, adapter 6")


@pytest.mark.parametrize("is_early", [False, True])
def test_an_evaluation_is_waited_for(*, is_early: bool) -> None:
    desk = Desk(EVALUATE)
    evaluation = EvalResponse("r", 6, 2.5, 200, 50)
    desk.answer()
    desk.exchange.evaluated(EvalResponse("r", 5, 9.0, 1, 1))
    if is_early:
        desk.exchange.evaluated(evaluation)
    assert desk.exchange.result is None
    desk.answer()
    if not is_early:
        desk.exchange.evaluated(EvalResponse("r", 5, 9.0, 1, 1))
        desk.sleep()  # the device works: it is not asked again
        assert len(desk.sent) == 2
        desk.exchange.evaluated(evaluation)
    assert desk.told == (True, "version 6: loss 2.5000, accuracy 0.250")
    assert desk.exchange.result is not None
    (row,) = document({"nano-01": desk.exchange.result})
    assert (row["loss"], row["tokens"], row["correct"], row["rtt_ms"]) == (2.5, 200, 50, 250.0)


def test_an_evaluation_that_cannot_be_made_is_no_answer() -> None:
    desk = Desk(EVALUATE)
    desk.answer()
    desk.answer()
    desk.exchange.evaluated(EvalResponse("r", 6, 0.0, 0, 0, "base"))
    assert desk.told == (False, "version 6 not evaluated: base")


def test_an_evaluation_that_does_not_come_is_no_answer() -> None:
    desk = Desk(EVALUATE)
    desk.answer()
    desk.answer()
    while desk.exchange.result is None:
        desk.sleep()
    assert desk.told == (False, "the evaluation has not come in time")


def test_the_document_is_in_the_order_of_names() -> None:
    results = {}
    for name in ("b", "a"):
        desk = Desk(PING, timeout_s=1.0)
        desk.sleep()
        assert desk.exchange.result is not None
        results[name] = desk.exchange.result
    rows = document(results)
    assert [row["device"] for row in rows] == ["a", "b"]
    assert rows[0]["answered"] is False
    assert rows[0]["outcome"] is None
