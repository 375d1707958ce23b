"""One attempt at one round: from its opening to the moment when it is closed or abandoned.

    state      event                                                        next
    OPEN       `goal` updates are complete                                  CLOSED
    OPEN       nobody of the cohort is awaited any more, quorum is met      CLOSED
    OPEN       the deadline, quorum is met                                  CLOSED
    OPEN       the deadline, quorum is not met                              ABANDONED
    OPEN       a device has not answered in time                            OPEN, Silent
    OPEN       joined, declined, accepted, arrived                          OPEN
    CLOSED     anything                                                     CLOSED
    ABANDONED  anything                                                     ABANDONED

No bytes, topics or files here: who is in, who has delivered how much, and when it ends. An
abandoned round is opened again as its next attempt, and what had arrived still counts. A device
that is asked and says nothing is not awaited until it answers: its retained status may be all that
is left of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from aggregator.agenda import Agenda
from transport.control import RoundPhase


class CloseReason(str, Enum):
    """Why a round was closed."""

    GOAL = "goal"  # enough complete updates
    EXHAUSTED = "exhausted"  # everybody asked has delivered or declined
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Joined:
    """These devices have been asked to train, for the first time or again.

    Attributes:
        awaited: False for devices that did not answer when they were asked last: the round takes
            what they bring, and waits for them only when they answer.
    """

    client_ids: tuple[str, ...]
    awaited: bool = True


@dataclass(frozen=True, slots=True)
class Declined:
    """A device will not train for this attempt."""

    client_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A device trains, perhaps after all: what it declined was an earlier attempt's command."""

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


@dataclass(frozen=True, slots=True)
class Silent:
    """These devices have not answered in time, and are not awaited until they do."""

    client_ids: tuple[str, ...]


RoundEvent = Joined | Declined | Accepted | Arrived
RoundOutput = Closed | Abandoned | Silent


class Round:
    """Decides when an attempt at a round is over.

    Args:
        goal: Complete updates that close it at once.
        quorum: Updates, complete or partial, that it needs.
        deadline: Moment (monotonic seconds) at which it ends.
        answer_timeout_s: Seconds that a device has to say whether it trains.
        arrived: What had arrived in earlier attempts or before a restart: device → complete.
    """

    def __init__(
        self,
        *,
        goal: int,
        quorum: int,
        deadline: float,
        answer_timeout_s: float,
        arrived: Mapping[str, bool],
    ) -> None:
        self.phase = RoundPhase.OPEN
        self.deadline = deadline
        self.stalled = 0  # of those that are awaited, as the caller tells
        self._goal = goal
        self._quorum = quorum
        self._answer_timeout_s = answer_timeout_s
        self._asked: set[str] = set()
        self._declined: set[str] = set()
        self._silent: set[str] = set()
        self._answer_by = Agenda()
        self._arrived: dict[str, bool] = dict(arrived)
        # What follows from these, kept up by `_place`.
        self._delivered: set[str] = set()
        self._cohort: set[str] = set()
        self._awaited: set[str] = set()
        self._busy: set[str] = set()
        for client_id in arrived:
            self._place(client_id)

    # Whom there is: views, which change.

    @property
    def cohort(self) -> AbstractSet[str]:
        """The devices that have been asked, and have neither declined nor fallen silent."""
        return self._cohort

    @property
    def asked(self) -> AbstractSet[str]:
        """The devices that have been asked in this attempt, those that said no or nothing too."""
        return self._asked

    @property
    def silent(self) -> AbstractSet[str]:
        """The devices that have been asked and have not answered in time."""
        return self._silent

    @property
    def delivered(self) -> AbstractSet[str]:
        """The devices whose updates are complete."""
        return self._delivered

    @property
    def busy(self) -> AbstractSet[str]:
        """The devices that are in the cohort or have brought something."""
        return self._busy

    @property
    def awaited(self) -> AbstractSet[str]:
        """The devices that something is still expected of."""
        return self._awaited

    @property
    def complete(self) -> int:
        """Updates of which everything is durable."""
        return len(self._delivered)

    @property
    def partial(self) -> int:
        """Updates of which a part is durable."""
        return len(self._arrived) - self.complete

    def receive(self, event: RoundEvent, *, now: float) -> list[RoundOutput]:
        """Take what happened; events may repeat."""
        if self.phase is not RoundPhase.OPEN:
            return []
        match event:
            case Joined(client_ids, awaited):
                self._ask(client_ids, answer_by=now + self._answer_timeout_s if awaited else None)
            case Declined(client_id):
                self._heard(client_id)
                self._declined.update({client_id} & self._asked)
                self._place(client_id)
            case Accepted(client_id):
                self._heard(client_id)
                self._declined.discard(client_id)
                self._place(client_id)
            case Arrived(client_id, complete):
                self._heard(client_id)
                self._arrived[client_id] = complete or self._arrived.get(client_id, False)
                self._place(client_id)
        return self.tick(now)

    def tick(self, now: float) -> list[RoundOutput]:
        """Close or abandon the round where it is time; may be called early or late.

        Silent devices are told first, and nothing is decided without them in the same call: who
        drives the round may have others to ask.
        """
        if self.phase is not RoundPhase.OPEN:
            return []
        has_quorum = len(self._arrived) >= self._quorum
        if self.complete >= self._goal:
            return self._close(CloseReason.GOAL)
        if now >= self.deadline:
            if has_quorum:
                return self._close(CloseReason.DEADLINE)
            self.phase = RoundPhase.ABANDONED
            return [Abandoned(len(self._arrived))]
        if silent := self._overdue(now):
            return [Silent(silent)]
        if has_quorum and not self._awaited:
            return self._close(CloseReason.EXHAUSTED)
        return []

    def next_wakeup(self) -> float | None:
        """Return the next moment at which an answer is overdue, at the latest the deadline."""
        if self.phase is not RoundPhase.OPEN:
            return None
        answer_by = self._answer_by.next()
        return self.deadline if answer_by is None else min(self.deadline, answer_by)

    def _ask(self, client_ids: tuple[str, ...], *, answer_by: float | None) -> None:
        self._asked.update(client_ids)
        for client_id in client_ids:
            if client_id not in self._declined and client_id not in self._delivered:
                self._heard(client_id)
                if answer_by is None:
                    self._silent.add(client_id)
                self._answer_by.put(client_id, answer_by)
            self._place(client_id)

    def _heard(self, client_id: str) -> None:
        self._silent.discard(client_id)
        self._answer_by.put(client_id, None)

    def _place(self, client_id: str) -> None:
        """Note where a device belongs by what is known of it."""
        has_declined = client_id in self._declined
        has_sent, has_delivered = client_id in self._arrived, self._arrived.get(client_id, False)
        is_in = client_id in self._asked and not has_declined and client_id not in self._silent
        # A partial update of an earlier attempt is awaited as well: its device still sends.
        is_awaited = (is_in or has_sent) and not has_declined and not has_delivered
        for belongs, devices in (
            (is_in, self._cohort),
            (is_in or has_sent, self._busy),
            (is_awaited, self._awaited),
            (has_delivered, self._delivered),
        ):
            if belongs:
                devices.add(client_id)
            else:
                devices.discard(client_id)

    def _overdue(self, now: float) -> tuple[str, ...]:
        """Return the devices whose answer is overdue, and count them out."""
        overdue = tuple(sorted(self._answer_by.take(now)))
        self._silent.update(overdue)
        for client_id in overdue:
            self._place(client_id)
        return overdue

    def _close(self, reason: CloseReason) -> list[RoundOutput]:
        self.phase = RoundPhase.CLOSED
        return [Closed(reason)]
