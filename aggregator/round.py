"""One attempt at one round: from its opening to the moment when it is closed or abandoned.

    state      event                                                        next
    OPEN       `goal` updates are complete                                  CLOSED
    OPEN       nobody of the cohort is awaited any more, quorum is met      CLOSED
    OPEN       the deadline, quorum is met                                  CLOSED
    OPEN       the deadline, quorum is not met                              ABANDONED
    OPEN       joined, declined, accepted, arrived                          OPEN
    CLOSED     anything                                                     CLOSED
    ABANDONED  anything                                                     ABANDONED

No bytes, topics or files here: who is in, who has delivered how much, and when it ends. An
abandoned round is opened again as its next attempt, and what had arrived still counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from transport.control import RoundPhase


class CloseReason(str, Enum):
    """Why a round was closed."""

    GOAL = "goal"  # enough complete updates
    EXHAUSTED = "exhausted"  # everybody asked has delivered or declined
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Joined:
    """These devices have been asked to train."""

    client_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    """A device will not train for this attempt."""

    client_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A device trains after all: what it declined was an earlier attempt's command."""

    client_id: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """So much of a device's update is durable: one segment or more, perhaps all."""

    client_id: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The round is over and has a quorum."""

    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The deadline came before the quorum."""

    arrived: int


RoundEvent = Joined | Declined | Accepted | Arrived
RoundOutput = Closed | Abandoned


class Round:
    """Decides when an attempt at a round is over.

    Args:
        goal: Complete updates that close it at once.
        quorum: Updates, complete or partial, that it needs.
        deadline: Moment (monotonic seconds) at which it ends.
        arrived: What had arrived in earlier attempts or before a restart: device → complete.
    """

    def __init__(
        self, *, goal: int, quorum: int, deadline: float, arrived: Mapping[str, bool]
    ) -> None:
        self.phase = RoundPhase.OPEN
        self.deadline = deadline
        self._goal = goal
        self._quorum = quorum
        self._cohort: set[str] = set()
        self._declined: set[str] = set()
        self._arrived: dict[str, bool] = dict(arrived)

    @property
    def cohort(self) -> frozenset[str]:
        """The devices that have been asked, and have not declined."""
        return frozenset(self._cohort - self._declined)

    @property
    def asked(self) -> frozenset[str]:
        """The devices that have been asked in this attempt, those that declined too."""
        return frozenset(self._cohort)

    @property
    def complete(self) -> int:
        """Updates of which everything is durable."""
        return sum(self._arrived.values())

    @property
    def partial(self) -> int:
        """Updates of which a part is durable."""
        return len(self._arrived) - self.complete

    def receive(self, event: RoundEvent, *, now: float) -> list[RoundOutput]:
        """Take what happened; events may repeat."""
        if self.phase is not RoundPhase.OPEN:
            return []
        match event:
            case Joined(client_ids):
                self._cohort.update(client_ids)
            case Declined(client_id):
                self._declined.update({client_id} & self._cohort)
            case Accepted(client_id):
                self._declined.discard(client_id)
            case Arrived(client_id, complete):
                self._arrived[client_id] = complete or self._arrived.get(client_id, False)
        return self.tick(now)

    def tick(self, now: float) -> list[RoundOutput]:
        """Close or abandon the round where it is time; may be called early or late."""
        if self.phase is not RoundPhase.OPEN:
            return []
        has_quorum = len(self._arrived) >= self._quorum
        if self.complete >= self._goal:
            return self._close(CloseReason.GOAL)
        if has_quorum and not self._awaited():
            return self._close(CloseReason.EXHAUSTED)
        if now < self.deadline:
            return []
        if has_quorum:
            return self._close(CloseReason.DEADLINE)
        self.phase = RoundPhase.ABANDONED
        return [Abandoned(len(self._arrived))]

    def next_wakeup(self) -> float | None:
        """Return the deadline while the round is open."""
        return self.deadline if self.phase is RoundPhase.OPEN else None

    def _awaited(self) -> set[str]:
        # A partial update of an earlier attempt is awaited as well: its device still sends.
        done = {client_id for client_id, complete in self._arrived.items() if complete}
        return (self._cohort | self._arrived.keys()) - self._declined - done

    def _close(self, reason: CloseReason) -> list[RoundOutput]:
        self.phase = RoundPhase.CLOSED
        return [Closed(reason)]
