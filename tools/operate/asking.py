"""Asks devices for something and waits for what becomes of it: pure, one exchange per device.

    state     event                                     next
    PINGING   a ping is answered                        ASKED, or OVER where only a ping was wanted
    ASKED     refused, expired, or nothing to wait for  OVER
    ASKED     drain, and something waits                WAITING
    ASKED     evaluate                                  WAITING
    WAITING   a ping is answered, and nothing waits     OVER
    WAITING   the evaluation has come                   OVER
    any       the time is up                            OVER, unanswered or unfinished

A command is good for as long as it is waited for, on the device's own clock, which the ping told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from transport.control import (
    DeviceState,
    EvalResponse,
    OperatorAction,
    OperatorCommand,
    OperatorResponse,
    Outcome,
)

# [s] After so long without an answer the same is asked again.
REPEAT_S = 3.0
# [s] What a device takes for the furthest expiry, with something to spare.
MOST_AHEAD_S = 3500.0
_GONE = frozenset({DeviceState.OFFLINE, DeviceState.LOST})


@dataclass(frozen=True, slots=True)
class Send:
    """Publish a command to a device."""

    client_id: str
    action: OperatorAction
    command_id: str
    command: OperatorCommand


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it at one device.

    Attributes:
        answered: It has done what it was asked for.
        text: One line for people.
        rtt_ms: Of the last ping that it answered, None where there was none.
        response: Its last answer.
        evaluation: What it was asked to measure.
    """

    client_id: str
    answered: bool
    text: str
    rtt_ms: float | None = None
    response: OperatorResponse | None = None
    evaluation: EvalResponse | None = None


class _State(Enum):
    PINGING = "pinging"
    ASKED = "asked"
    WAITING = "waiting"
    OVER = "over"


class Exchange:
    """One action at one device, from the first ping to its result."""

    def __init__(
        self,
        client_id: str,
        action: OperatorAction,
        *,
        words: str,
        timeout_s: float,
        new_id: Callable[[], str],
        now: float,
    ) -> None:
        """Begin; `tick` returns the first ping.

        Args:
            client_id: The device.
            action: What is asked of it.
            words: Why, for people.
            timeout_s: How long everything may take.
            new_id: Makes an identifier that nobody has had.
            now: Monotonic seconds.
        """
        self.client_id = client_id
        self.last_state: DeviceState | None = None
        self._action = action
        self._words = words
        self._ends_at = now + timeout_s
        self._new_id = new_id
        self._state = _State.PINGING
        self._pings: dict[str, float] = {}
        self._command: Send | None = None
        self._next_at = now
        self._rtt_ms: float | None = None
        self._response: OperatorResponse | None = None
        self._evaluation: EvalResponse | None = None
        self._result: Result | None = None

    @property
    def result(self) -> Result | None:
        """What became of it, None while it goes on."""
        return self._result

    def answered(
        self, action: OperatorAction, command_id: str, response: OperatorResponse, *, now: float
    ) -> list[Send]:
        """Take a device's answer; that to somebody else is left alone."""
        if self._state is _State.OVER:
            return []
        if action is OperatorAction.PING and command_id in self._pings:
            self._rtt_ms = round(1000 * (now - self._pings.pop(command_id)), 2)
            self._response = response
            return self._pinged(response, now=now)
        sent = self._command
        is_ours = sent is not None and (action, command_id) == (sent.action, sent.command_id)
        if is_ours and self._state is _State.ASKED:
            self._response = response
            return self._obeyed(response, now=now)
        return []

    def evaluated(self, evaluation: EvalResponse) -> None:
        """Take a device's evaluation, which may come before the answer that tells its version."""
        if self._action is OperatorAction.EVALUATE and self._state is not _State.OVER:
            self._evaluation = evaluation
            self._end_if_evaluated()

    def tick(self, now: float) -> list[Send]:
        """Ask again where that is due, or give up."""
        if self._state is _State.OVER or now < min(self._next_at, self._ends_at):
            return []
        if now >= self._ends_at:
            self._give_up()
            return []
        self._next_at = now + REPEAT_S
        if self._state is _State.ASKED:
            assert self._command is not None
            return [self._command]
        if self._state is _State.WAITING and self._action is OperatorAction.EVALUATE:
            return []
        if self._pings and self.last_state in _GONE:
            return []  # one is enough: it waits in the broker until the device is back
        return [self._ping(now)]

    def next_wakeup(self) -> float | None:
        """Return the moment by which `tick` wants to be called."""
        return None if self._state is _State.OVER else min(self._next_at, self._ends_at)

    def _ping(self, now: float) -> Send:
        command_id = self._new_id()
        self._pings[command_id] = now
        return Send(self.client_id, OperatorAction.PING, command_id, OperatorCommand())

    def _pinged(self, response: OperatorResponse, *, now: float) -> list[Send]:
        if self._action is OperatorAction.PING:
            self._end(_told(response), answered=True)
        elif self._state is _State.PINGING:
            left_s = min(self._ends_at - now, MOST_AHEAD_S)
            command = OperatorCommand(response.session, response.clock_s + left_s, self._words)
            self._command = Send(self.client_id, self._action, self._new_id(), command)
            self._state, self._next_at = _State.ASKED, now + REPEAT_S
            return [self._command]
        elif self._state is _State.WAITING and not response.waiting:
            self._end(_told(response), answered=True)
        return []

    def _obeyed(self, response: OperatorResponse, *, now: float) -> list[Send]:
        waits = self._action is OperatorAction.EVALUATE or (
            self._action is OperatorAction.DRAIN and response.waiting
        )
        if response.outcome is not Outcome.OK:
            self._end(f"{response.outcome.value}: {response.reason}")
        elif waits:
            self._state, self._next_at = _State.WAITING, now + REPEAT_S
            self._end_if_evaluated()
        else:
            self._end(_told(response), answered=True)
        return []

    def _end_if_evaluated(self) -> None:
        evaluation, response = self._evaluation, self._response
        if self._state is not _State.WAITING or evaluation is None or response is None:
            return
        if evaluation.version != response.version:
            return
        if not evaluation.tokens:
            self._end(f"version {evaluation.version} not evaluated: {evaluation.reason}")
            return
        accuracy = evaluation.correct / evaluation.tokens
        text = f"version {evaluation.version}: loss {evaluation.loss:.4f}, accuracy {accuracy:.3f}"
        self._end(text, answered=True)

    def _give_up(self) -> None:
        match self._state:
            case _State.WAITING if self._action is OperatorAction.DRAIN:
                assert self._response is not None
                self._end(f"still drains: {_told(self._response)}")
            case _State.WAITING:
                self._end("the evaluation has not come in time")
            case _:
                state = self.last_state
                status = f"its status says {state.value}" if state else "no status is known"
                self._end(f"no answer; {status}")

    def _end(self, text: str, *, answered: bool = False) -> None:
        self._state = _State.OVER
        self._result = Result(
            client_id=self.client_id,
            answered=answered,
            text=text,
            rtt_ms=self._rtt_ms,
            response=self._response,
            evaluation=self._evaluation if answered else None,
        )


def _told(response: OperatorResponse) -> str:
    parts = [response.state.value]
    if response.waiting:
        parts.append(f"{response.waiting} waiting")
    if response.version >= 0:
        parts.append(f"adapter {response.version}")
    if response.reason:
        parts.append(response.reason)
    return ", ".join(parts)


def document(results: Mapping[str, Result]) -> list[dict[str, object]]:
    """Return results for programs, in the order of the devices' names."""
    rows: list[dict[str, object]] = []
    for client_id in sorted(results):
        result = results[client_id]
        response, evaluation = result.response, result.evaluation
        rows.append(
            {
                "device": client_id,
                "answered": result.answered,
                "text": result.text,
                "rtt_ms": result.rtt_ms,
                "outcome": response.outcome.value if response else None,
                "state": response.state.value if response else None,
                "waiting": response.waiting if response else None,
                "version": response.version if response else None,
                "loss": evaluation.loss if evaluation else None,
                "tokens": evaluation.tokens if evaluation else None,
                "correct": evaluation.correct if evaluation else None,
            }
        )
    return rows
