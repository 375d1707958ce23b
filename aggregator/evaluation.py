"""Federated evaluation: what the held-out text of many devices says of one adapter version."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from transport.messages import Evaluation


@dataclass(frozen=True, slots=True)
class FleetEvaluation:
    """The token-weighted mean over devices.

    Attributes:
        loss: Mean cross-entropy per held-out token in nats.
        accuracy: Share of held-out tokens that were predicted right.
        tokens: Held-out tokens of all devices.
        devices: Devices that reported.
    """

    loss: float
    accuracy: float
    tokens: int
    devices: int


def weighted_mean(evaluations: Iterable[Evaluation]) -> FleetEvaluation | None:
    """Return the mean over all tokens of all devices, or None where nobody evaluated.

    The sum is exact before it is rounded, so that the order of arrival does not show.
    """
    held = [evaluation for evaluation in evaluations if evaluation.tokens > 0]
    tokens = sum(evaluation.tokens for evaluation in held)
    if not tokens:
        return None
    return FleetEvaluation(
        loss=math.fsum(evaluation.loss * evaluation.tokens for evaluation in held) / tokens,
        accuracy=sum(evaluation.correct for evaluation in held) / tokens,
        tokens=tokens,
        devices=len(held),
    )


class FinalEvaluation:
    """Gathers what devices say of the last adapter version, for a limited time.

    It is over when everybody who was asked has answered or has gone away, or at the deadline.

    Args:
        deadline: Moment (monotonic seconds) at which it ends, whoever has answered.
        held: What was journaled before a restart.
    """

    def __init__(self, *, deadline: float, held: Mapping[str, Evaluation]) -> None:
        self.deadline = deadline
        self._earliest = float("-inf")
        self._asked: set[str] = set(held)
        self._answers: dict[str, Evaluation | None] = dict(held)

    def hold_until(self, moment: float) -> None:
        """Let it not be over before this moment: until then nobody knows who is online."""
        self._earliest = moment

    def ask(self, client_id: str) -> bool:
        """Note that a device is online, and say whether it should be asked now."""
        self._asked.add(client_id)
        return client_id not in self._answers

    def answered(self, client_id: str, evaluation: Evaluation | None) -> bool:
        """Take an answer (None: the device could not), and say whether it is new and wanted."""
        if client_id not in self._asked or client_id in self._answers:
            return False
        self._answers[client_id] = evaluation
        return True

    def is_over(self, now: float, *, has_left: Callable[[str], bool]) -> bool:
        """Say whether nothing more is awaited."""
        if now >= self.deadline:
            return True
        if now < self._earliest:
            return False
        self._earliest = float("-inf")
        awaited = [name for name in self._asked - self._answers.keys() if not has_left(name)]
        return bool(self._answers) and not awaited

    def next_wakeup(self) -> float:
        """Return the next moment at which it may be over without a message."""
        held = self._earliest > float("-inf")
        return min(self.deadline, self._earliest) if held else self.deadline

    def result(self) -> FleetEvaluation | None:
        """Return the mean of what has come."""
        return weighted_mean(answer for answer in self._answers.values() if answer is not None)
