"""What operators ask of this device: pure, and harmless when asked twice or too late.

A command names the session that it is for, and the moment of this device's own clock from which it
is expired. Both are learnt from a ping, so nothing depends on what any wall clock shows: a command
that waited in the broker while the device was away, that was retained by mistake, or that came back
with an old copy of the broker's database is recognised by the device alone. A ping changes nothing
and is always answered anew.

    check, in this order                          outcome
    the same action and id was answered           the same answer again
    another session than this one                 expired
    the clock is beyond `until_s`                 expired
    `until_s` is more than an hour away           refused
    too many answers that are not expired         refused
    evaluate while paused, or without an adapter  refused
    otherwise                                     ok
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from agent.outputs import AnswerOperator, Output, RememberHold
from agent.pauses import OperatorHold, Pauses
from agent.session import Session
from transport.control import OperatorAction, OperatorCommand, OperatorResponse, Outcome

log = logging.getLogger(__name__)

# [s] The furthest expiry: answers are remembered for so long.
MAX_AHEAD_S: Final = 3600.0
# Answers that are remembered; some hundred bytes each.
MAX_ANSWERS: Final = 256


@dataclass(frozen=True, slots=True)
class _Answered:
    until_s: float
    answer: AnswerOperator


class Commands:
    """Obeys operators, and answers each command once decided always the same."""

    def __init__(self, session: Session, *, pauses: Pauses, boot: str) -> None:
        """Begin with no answer given.

        Args:
            session: Is woken where a command changes what it may do.
            pauses: The session's.
            boot: This start's session, as statuses carry it.
        """
        self._session = session
        self._pauses = pauses
        self._boot = boot
        self._answered: dict[tuple[OperatorAction, str], _Answered] = {}

    def receive(
        self,
        action: OperatorAction,
        command_id: str,
        command: OperatorCommand,
        *,
        clock_s: float,
        now: float,
    ) -> list[Output]:
        """Take an operator's command; the same one may come many times.

        Args:
            action: What is asked.
            command_id: Names this asking.
            command: When it ends, and why it was sent.
            clock_s: This device's own clock, which counts on while it sleeps.
            now: Monotonic seconds.
        """
        known = self._answered.get((action, command_id))
        if known:
            return [known.answer]
        outcome, reason = self._judge(action, command, clock_s=clock_s)
        outputs: list[Output] = []
        if outcome is Outcome.OK:
            left_s = command.until_s - clock_s
            outputs, reason = self._obey(action, command, left_s=left_s, now=now)
        response = OperatorResponse(
            outcome=outcome,
            session=self._boot,
            clock_s=clock_s,
            state=self._session.told_state,
            waiting=self._session.waiting,
            version=self._session.newest_version,
            reason=reason,
        )
        answer = AnswerOperator(action, command_id, response)
        if outcome is Outcome.OK and action is not OperatorAction.PING:
            log.info("operator: %s (%s) %s", action.value, command_id, command.words)
            self._answered[action, command_id] = _Answered(command.until_s, answer)
        return [*outputs, answer]

    def _judge(
        self, action: OperatorAction, command: OperatorCommand, *, clock_s: float
    ) -> tuple[Outcome, str]:
        if action is OperatorAction.PING:
            return Outcome.OK, ""
        if command.session != self._boot:
            return Outcome.EXPIRED, "it was for another start of this agent"
        if clock_s > command.until_s:
            return Outcome.EXPIRED, f"it came {clock_s - command.until_s:.0f} s too late"
        if command.until_s > clock_s + MAX_AHEAD_S:
            return Outcome.REFUSED, f"it expires later than in {MAX_AHEAD_S:.0f} s"
        if not self._has_room(clock_s):
            return Outcome.REFUSED, "too many commands at once"
        if action is OperatorAction.EVALUATE and self._pauses.is_paused:
            return Outcome.REFUSED, f"it is paused: {self._pauses.told()}"
        if action is OperatorAction.EVALUATE and self._session.newest_version < 0:
            return Outcome.REFUSED, "no adapter version is known yet"
        return Outcome.OK, ""

    def _has_room(self, clock_s: float) -> bool:
        """Forget the oldest answers that nobody can ask for any more, where there are too many."""
        for key in list(self._answered):
            if len(self._answered) < MAX_ANSWERS:
                break
            if self._answered[key].until_s < clock_s:
                del self._answered[key]
        return len(self._answered) < MAX_ANSWERS

    def _obey(
        self, action: OperatorAction, command: OperatorCommand, *, left_s: float, now: float
    ) -> tuple[list[Output], str]:
        """Return what is to be done, and what an operator should know besides."""
        hold: OperatorHold | None = None
        match action:
            case OperatorAction.PING:
                return [], ""
            case OperatorAction.EVALUATE:
                return self._session.evaluate_newest(deadline_s=left_s, now=now), ""
            case OperatorAction.PAUSE | OperatorAction.DRAIN:
                hold = OperatorHold(action is OperatorAction.DRAIN, command.words)
            case OperatorAction.RESUME:
                pass
        self._pauses.hold = hold
        # Kept before it is answered: what an operator was told outlives a loss of power.
        outputs = [RememberHold(hold), *self._session.tick(now)]
        return outputs, "" if hold else self._pauses.told()
