"""Which aggregator leads a federation: never two; of two, the one of the higher (epoch, session).

    state      event                                              next
    AWAY       connected                                          LISTENING, and asks who leads
    LISTENING  the question came back, or does not (timeout)      CLAIMING, and says its epoch
    CLAIMING   CLAIM_S have passed                                LEADING
    LISTENING  what is retained forbids it to lead                FENCED
    CLAIMING   the same; another leads; a better claim            FENCED
    LEADING    another leads with a higher (epoch, session),      FENCED
               or has made a version that this one has not
    any other  disconnected                                       AWAY
    FENCED     anything                                           FENCED

Pure. A broker delivers in order, so when the own question comes back, everything that it retains
has come, and so has what was queued for an earlier process with this client id: only what comes
later is said by somebody who is there. Whoever leads answers each question with its status.

A connection that was lost may have been used by another aggregator, so each new one begins with the
question again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum

from aggregator.outputs import Publish
from transport import control
from transport.control import (
    AlertNotice,
    ModelStatus,
    RunAnnouncement,
    ServiceState,
    ServiceStatus,
)
from transport.errors import MessageError
from transport.topics import Alert, CoordRun, CoordStatus, Model, Topics

logger = logging.getLogger(__name__)

# The question comes back in one round trip; a broker that does not let this login read
# `coord/status` never delivers it.
QUESTION_S = 5.0
# How long an aggregator that leads, or starts at the same moment, has to answer a claim.
CLAIM_S = 1.0
# Another one's messages come in a bunch; what stands is said again behind the last of them.
RESTATE_S = 1.0

# Said by a process, or by its last will, that is no more; `finished` may be that as well.
_GONE = frozenset({ServiceState.OFFLINE, ServiceState.LOST, ServiceState.FAILED})
_BUSY = frozenset({ServiceState.WAITING, ServiceState.RUNNING})

_TWO = Alert("two-aggregators")
_FENCED = Alert("fenced")


class FenceState(Enum):
    """Whether this aggregator leads."""

    AWAY = "away"
    LISTENING = "listening"
    CLAIMING = "claiming"
    LEADING = "leading"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Claim:
    """Publish this status, not retained, although nothing else may be published yet."""

    status: ServiceStatus


@dataclass(frozen=True, slots=True)
class RaiseEpoch:
    """Make this epoch durable before anything that follows.

    Attributes:
        again: The epoch before was used over this connection already: start anew with the next one.
    """

    epoch: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Lead:
    """Say everything that stands, and go on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Say the service's status again: somebody asks, or another one's has taken its place."""


@dataclass(frozen=True, slots=True)
class Restate:
    """Say everything that stands again: another aggregator has overwritten it."""


@dataclass(frozen=True, slots=True)
class Yield:
    """Publish nothing more, and end with this line."""

    text: str


FenceOutput = Claim | RaiseEpoch | Lead | Answer | Restate | Yield | Publish
Overheard = ServiceStatus | RunAnnouncement | ModelStatus


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said on a topic that an aggregator writes; None was cleared, or is no message."""

    message: Overheard | None


def read_overheard(topics: Topics, topic: str, payload: bytes) -> Heard | None:
    """Return what another aggregator, or this one, said; None for a topic of devices."""
    kinds: dict[str, type[Overheard]] = {
        topics.topic(CoordStatus()): ServiceStatus,
        topics.topic(CoordRun()): RunAnnouncement,
        topics.topic(Model()): ModelStatus,
    }
    kind = kinds.get(topic)
    if kind is None:
        return None
    try:
        return Heard(control.decode(kind, payload) if payload else None)
    except MessageError as error:
        logger.warning("ignored what was said on %s: %s", topic, error)
        return Heard(None)


class Fence:
    """Decides whether this aggregator may speak.

    Args:
        run: Its run.
        epoch: Its start's number in that run.
        session: Random per start; of two equal epochs the higher session wins.
        software: The software's version, for the status.
        version: The newest adapter version that its journal holds.
        sha256: That version's digest, as it is announced.
    """

    def __init__(
        self, *, run: str, epoch: int, session: str, software: str, version: int, sha256: str
    ) -> None:
        self.state = FenceState.AWAY
        self.epoch = epoch
        self._run = run
        self._session = session
        self._software = software
        self._version = version
        self._sha256 = sha256
        self._has_led = False
        self._questions = 0
        self._since = 0.0
        self._restate_at: float | None = None
        # The newest word of another aggregator, and what the broker says of run and version.
        self._other: ServiceStatus | None = None
        self._other_run = ""
        self._model: ModelStatus | None = None
        # The highest epoch that another one has claimed or had in this run.
        self._highest = 0
        self._told: set[tuple[str, str]] = set()

    @property
    def leads(self) -> bool:
        """Whether anything may be published."""
        return self.state is FenceState.LEADING

    @property
    def was_away(self) -> bool:
        """Whether it led, and the connection over which it did is lost."""
        return self.state is FenceState.AWAY and self._has_led

    @property
    def is_fresh(self) -> bool:
        """Whether what comes now was said after the connection began."""
        return self.state in {FenceState.CLAIMING, FenceState.LEADING}

    def made(self, version: int, sha256: str) -> None:
        """Note the adapter version that is committed, before it is announced."""
        self._version, self._sha256 = version, sha256

    def connected(self, now: float) -> list[FenceOutput]:
        """Ask who leads."""
        if self.state is FenceState.FENCED:
            return []
        self.state, self._since = FenceState.LISTENING, now
        self._other, self._other_run, self._model = None, "", None
        self._restate_at = None
        self._questions += 1
        return [Claim(self._question())]

    def disconnected(self) -> None:
        """Say nothing until the broker has told again who leads."""
        if self.state is not FenceState.FENCED:
            self.state = FenceState.AWAY

    def heard(self, message: Overheard | None, *, retained: bool, now: float) -> list[FenceOutput]:
        """Take what came on `coord/status`, `coord/run` or `model`; None was cleared."""
        match message:
            case ServiceStatus():
                return self._status(message, retained=retained, now=now)
            case RunAnnouncement():
                self._other_run = message.run
                is_foreign = message.run != self._run
            case ModelStatus():
                self._model = message
                is_foreign = message.run != self._run
            case None:
                is_foreign = True  # somebody took away what stands
        if self.state is FenceState.LEADING:
            if reason := self._fork():
                return self._yield(reason)
            if is_foreign:
                self._restate_at = now + RESTATE_S
        return []

    def tick(self, now: float) -> list[FenceOutput]:
        """Do what is due; may be called early or late."""
        moment = self.next_wakeup()
        if moment is None or now < moment:
            return []
        match self.state:
            case FenceState.LISTENING:
                logger.warning(
                    "the broker does not deliver coord/status to this login, so that a second "
                    "aggregator would not be seen: bring the broker's ACL up to date"
                )
                return self._claim(now)
            case FenceState.CLAIMING:
                return self._lead()
        self._restate_at = None
        return [Restate()]

    def next_wakeup(self) -> float | None:
        """Return the moment by which `tick` wants to be called."""
        match self.state:
            case FenceState.LISTENING:
                return self._since + QUESTION_S
            case FenceState.CLAIMING:
                return self._since + CLAIM_S
            case FenceState.LEADING:
                return self._restate_at
        return None

    # What another one says ----------------------------------------------------------------------

    def _status(self, status: ServiceStatus, *, retained: bool, now: float) -> list[FenceOutput]:
        if status.session == self._session:
            return self._own(status, now=now)
        is_claim = status.state is ServiceState.STARTING
        if not is_claim:
            self._other = status
        match self.state:
            case FenceState.CLAIMING if is_claim:
                return self._rival(status)
            case FenceState.CLAIMING:
                is_there = not retained and status.state not in _GONE
                reason = self._led_by(status) if is_there else self._objection()
                return self._yield(reason) if reason else []
            case FenceState.LEADING:
                return self._beside(status, now=now)
        return []

    def _own(self, status: ServiceStatus, *, now: float) -> list[FenceOutput]:
        if self.state is FenceState.LISTENING and status.reason == self._question().reason:
            return self._claim(now)
        if status.state is not ServiceState.STARTING:
            self._other = None
        # The will of an own connection that broke, published after the next one began.
        is_will = self.state is FenceState.LEADING and status.state in _GONE
        return [Answer()] if is_will else []

    def _rival(self, status: ServiceStatus) -> list[FenceOutput]:
        """Take the claim of one that starts at the same moment; questions claim nothing."""
        if status.epoch <= 0:
            return []
        if self._key(status) > (self.epoch, self._session):
            return self._yield(
                f"another aggregator (session {status.session}, run {status.run[:8]}) started at "
                "the same moment and goes on: let one of the two run, and give each run a "
                "federation of its own"
            )
        self._note_epoch(status)
        return [Claim(self._word(self.epoch))]  # it may have subscribed after the first one

    def _beside(self, status: ServiceStatus, *, now: float) -> list[FenceOutput]:
        """Take the word of another one while this one leads."""
        if status.state is ServiceState.STARTING:
            return [Answer(), *self._alert_two(status)]
        self._restate_at = now + RESTATE_S
        if status.state in _GONE:
            # It has never led: that would have been heard. Its word took this one's place.
            return [Answer()]
        is_same = self._run_of(status) == self._run
        if self._key(status) > (self.epoch, self._session):
            return self._yield(self._led_by(status))
        if not is_same:
            return [Answer(), *self._alert_two(status)]
        if status.epoch == self.epoch:
            # Devices could not tell the two apart.
            return [RaiseEpoch(self.epoch + 1, again=True)]
        return [Answer(), *self._alert_fenced(status)]

    # Taking the lead ----------------------------------------------------------------------------

    def _claim(self, now: float) -> list[FenceOutput]:
        """Say what this one would lead with, where nothing that is retained forbids it."""
        if reason := self._objection():
            return self._yield(reason)
        self.state, self._since = FenceState.CLAIMING, now
        return [*self._raise(), Claim(self._word(self.epoch))]

    def _lead(self) -> list[FenceOutput]:
        if reason := self._objection():
            return self._yield(reason)
        outputs: list[FenceOutput] = [*self._raise(), Lead()]
        if not self._has_led:
            outputs += self._alert_start()
        self.state, self._has_led = FenceState.LEADING, True
        logger.info("session=%s leads run=%s epoch=%d", self._session, self._run, self.epoch)
        return outputs

    def _raise(self) -> list[FenceOutput]:
        """Go above every epoch that another one has had in this run."""
        if self._other is not None:
            self._note_epoch(self._other)
        if self._highest < self.epoch:
            return []
        self.epoch = self._highest + 1
        return [RaiseEpoch(self.epoch, again=self._has_led)]

    def _note_epoch(self, status: ServiceStatus) -> None:
        if self._run_of(status) == self._run:
            self._highest = max(self._highest, status.epoch)

    def _objection(self) -> str:
        """Return why this one must not lead, as far as what is retained says; "" where it may."""
        other = self._other
        if other is not None and self._run_of(other) == self._run:
            if self._has_led and self._key(other) > (self.epoch, self._session):
                return self._led_by(other)
        elif other is not None and other.state in _BUSY:
            return self._led_by(other)
        return self._fork()

    def _fork(self) -> str:
        """Return what is wrong where the broker shows a version that this one has not made."""
        model = self._model
        if model is None or model.run != self._run or model.version < self._version:
            return ""
        if (model.version, model.sha256) == (self._version, self._sha256):
            return ""
        return (
            f"run {self._run[:8]} has an adapter version {model.version} that this state folder "
            f"does not hold (its newest is {self._version}): it is an old or another copy, and to "
            "go on would fork the run. Put the newest copy of the state folder back, or begin a "
            "new run in an empty state_dir"
        )

    def _led_by(self, other: ServiceStatus) -> str:
        who = f"aggregator session {other.session} (epoch {other.epoch}, {other.state.value})"
        if self._run_of(other) == self._run:
            return (
                f"fenced off: {who} leads this run {self._run[:8]} already: let one of the two "
                "run, with the newest copy of the state folder"
            )
        return (
            f"{who} leads another run {self._run_of(other)[:8] or '?'} in this federation: stop "
            "it first, or give this run a federation of its own; where it is gone for good, "
            "clear the retained coord/status"
        )

    def _yield(self, reason: str) -> list[FenceOutput]:
        self.state = FenceState.FENCED
        return [Yield(reason)]

    # Small things -------------------------------------------------------------------------------

    def _run_of(self, status: ServiceStatus) -> str:
        # Software before the field existed says its run on `coord/run` alone.
        return status.run or self._other_run

    @staticmethod
    def _key(status: ServiceStatus) -> tuple[int, str]:
        return status.epoch, status.session

    def _word(self, epoch: int) -> ServiceStatus:
        return ServiceStatus(
            ServiceState.STARTING, self._session, self._software, run=self._run, epoch=epoch
        )

    def _question(self) -> ServiceStatus:
        # Numbered, or one that a lost connection left behind would pass for the answer.
        return replace(self._word(0), reason=f"asks who leads ({self._questions})")

    def _alert_start(self) -> list[FenceOutput]:
        """Tell operators where another one has not said goodbye; what was told before is over."""
        other = self._other
        if other is not None and other.state in _BUSY:
            return self._alert_fenced(other)
        return [Publish(address, None, retain=True) for address in (_TWO, _FENCED)]

    def _alert_two(self, other: ServiceStatus) -> list[FenceOutput]:
        text = (
            f"aggregator session {other.session} (run {self._run_of(other)[:8] or '?'}) started "
            f"beside session {self._session} (run {self._run[:8]}), which goes on"
        )
        return self._alert(_TWO, other, text)

    def _alert_fenced(self, other: ServiceStatus) -> list[FenceOutput]:
        text = (
            f"aggregator session {other.session} (epoch {other.epoch}) of run {self._run[:8]} is "
            f"fenced off by session {self._session} (epoch {self.epoch})"
        )
        return self._alert(_FENCED, other, text)

    def _alert(self, address: Alert, other: ServiceStatus, text: str) -> list[FenceOutput]:
        if (address.code, other.session) in self._told:
            return []
        self._told.add((address.code, other.session))
        logger.warning("%s", text)
        count = sum(code == address.code for code, _ in self._told)
        notice = AlertNotice(severity="warning", text=text, count=count)
        return [Publish(address, notice, retain=True)]
