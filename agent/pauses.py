"""Why a device takes no new task: what an operator said, and how the device itself feels.

Pure. A pause keeps new tasks away and gives back one that has not begun. A training that runs is
finished, and updates are sent whatever holds; only heat ends a task in its middle.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from agent.eligibility import Eligibility, EligibilityConfig, Reading

# The typed reasons of the tasks that are given back.
PAUSED = "paused"
TOO_HOT = "temperature"
# An operator's words: they go into each status.
MAX_WORDS = 200


@checked_dataclass(frozen=True, slots=True, config=ConfigDict(strict=True, extra="forbid"))
class OperatorHold:
    """An operator lets this device take nothing new until a resume; it outlives restarts.

    Attributes:
        drains: To be switched off or taken away once nothing waits, rather than to go on later.
        words: Why, in the operator's own words; may be empty.
    """

    drains: bool
    words: Annotated[str, Field(max_length=MAX_WORDS)] = ""


class Pauses:
    """Knows whether a new task may be taken, and says why not."""

    def __init__(
        self, eligibility: Eligibility | None = None, *, hold: OperatorHold | None = None
    ) -> None:
        self._eligibility = eligibility or Eligibility(EligibilityConfig())
        self.hold = hold

    @property
    def is_paused(self) -> bool:
        """Whether no new task is taken."""
        return self.hold is not None or not self._eligibility.verdict.allowed

    @property
    def gives_up(self) -> bool:
        """Whether a task that runs must end now."""
        return self._eligibility.verdict.gives_up

    def observe(self, reading: Reading, *, training: bool, now: float) -> None:
        """Take how the device feels."""
        self._eligibility.receive(reading, training=training, now=now)

    def told(self, *, round_id: int = 0, waiting: int = 0) -> str:
        """Return the status's reason, "" where nothing holds.

        Args:
            round_id: The round whose training is finished first, 0 for none.
            waiting: Updates that wait for a receipt.
        """
        reasons = [str(reason) for reason in self._eligibility.verdict.reasons]
        if self.hold:
            is_dry = not round_id and not waiting
            word = ("drained" if is_dry else "drain") if self.hold.drains else "operator"
            reasons.insert(0, f"{word}: {self.hold.words}" if self.hold.words else word)
        if not reasons:
            return ""
        if round_id:
            reasons.append(f"round {round_id} is finished first")
        if waiting:
            reasons.append("1 update waits" if waiting == 1 else f"{waiting} updates wait")
        return "; ".join(reasons)
