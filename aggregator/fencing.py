"""Which aggregator leads a federation: never two; of two, the one of the higher rank.

The rank of two that have one run is (adapter version, epoch, session): who holds less of the run
gives way, whatever its epoch. That of two runs is (epoch, session).

    state      event                                              next
    AWAY       connected                                          LISTENING, and asks who leads
    LISTENING  the question came back, or does not (timeout)      CLAIMING, and says its rank
    CLAIMING   nobody objects for a while                         LEADING
    CLAIMING   the same, and another one has had its epoch        starts anew with a higher one
    LISTENING  what is retained forbids it to lead                FENCED
    CLAIMING   the same; one leads that holds as much of the      FENCED
               run; a claim of a higher rank
    LEADING    another one of a higher rank leads, or one that    FENCED
               holds a newer version claims the lead or has
               announced it
    LEADING    another one has had a higher epoch                 starts anew with one above it
    any other  disconnected                                       AWAY
    FENCED     anything                                           FENCED

Devices ignore an epoch that is lower than one they have seen, and what the broker retains may be
lost: so an epoch that somebody claims is taken for one that devices have seen. A last will is
given when a connection begins, so that a higher epoch needs a new one.

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
# The same where the broker says that another one is at work: its answer may need a slow link.
CLAIM_BESIDE_S = 10.0
# Whoever claims a higher epoch is answered at once, and yields or leads in this time. Starting anew
# only then keeps two from doing so in turn.
RAISE_S = 5.0
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
    """Make this epoch durable, and start anew with it."""

    epoch: int


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
    """End with this line.

    Attributes:
        word: The last that is published, not retained: whoever leads needs a higher epoch.
    """

    text: str
    word: ServiceStatus


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
        session: Random per start; of two that are equal otherwise the higher session wins.
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
        self._raise_at: float | None = None
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
        self._restate_at = self._raise_at = None
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
            if reason := self._fork(self._shown()):
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
        if self._raise_at is not None and now >= self._raise_at:
            return [RaiseEpoch(self._highest + 1)]
        self._restate_at = None
        return [Restate()]

    def next_wakeup(self) -> float | None:
        """Return the moment by which `tick` wants to be called."""
        match self.state:
            case FenceState.LISTENING:
                return self._since + QUESTION_S
            case FenceState.CLAIMING:
                other = self._other
                is_beside = other is not None and other.state in _BUSY
                return self._since + (CLAIM_BESIDE_S if is_beside else CLAIM_S)
            case FenceState.LEADING:
                moments = (self._restate_at, self._raise_at)
                return min((moment for moment in moments if moment is not None), default=None)
        return None

    # What another one says ----------------------------------------------------------------------

    def _status(self, status: ServiceStatus, *, retained: bool, now: float) -> list[FenceOutput]:
        if status.session == self._session:
            return self._own(status, now=now)
        if self._run_of(status) == self._run:
            self._highest = max(self._highest, status.epoch)
        is_claim = status.state is ServiceState.STARTING
        # What comes before the question does, and is not retained, was queued: it may be over.
        if not is_claim and (retained or self.state is not FenceState.LISTENING):
            self._other = status
        match self.state:
            case FenceState.CLAIMING if is_claim:
                return self._rival(status)
            case FenceState.CLAIMING:
                return self._answered(status, retained=retained)
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
        if self._is_outranked_by(status):
            return self._yield(
                f"another aggregator (session {status.session}, run {status.run[:8]}) started at "
                "the same moment and goes on: let one of the two run, and give each run a "
                "federation of its own"
            )
        return [Claim(self._word(self.epoch))]  # it may have subscribed after the first one

    def _answered(self, status: ServiceStatus, *, retained: bool) -> list[FenceOutput]:
        """Take the word of one that leads, or has led, while this one claims the lead."""
        if retained or status.state in _GONE:
            reason = self._objection()
        elif self._is_ahead_of(status):
            return [Claim(self._word(self.epoch))]  # it gives way as soon as it hears of this one
        else:
            reason = self._led_by(status)
        return self._yield(reason) if reason else []

    def _beside(self, status: ServiceStatus, *, now: float) -> list[FenceOutput]:
        """Take the word of another one while this one leads."""
        is_same = self._run_of(status) == self._run
        if status.state is ServiceState.STARTING:
            if is_same and status.adapter_version > self._version:
                return self._yield(self._led_by(status))
            self._plan_raise(above=self.epoch, now=now)
            return [Answer(), *self._alert_two(status)]
        self._restate_at = now + RESTATE_S
        if status.state in _GONE:
            # It does not lead: that would have been heard. Its word took this one's place.
            self._plan_raise(above=self.epoch, now=now)
            return [Answer()]
        if self._is_outranked_by(status):
            return self._yield(self._led_by(status))
        if not is_same:
            return [Answer(), *self._alert_two(status)]
        # With one epoch, devices could not tell the two apart.
        self._plan_raise(above=self.epoch - 1, now=now)
        return [Answer(), *self._alert_fenced(status)]

    def _plan_raise(self, *, above: int, now: float) -> None:
        if self._highest > above and self._raise_at is None:
            self._raise_at = now + RAISE_S

    # Taking the lead ----------------------------------------------------------------------------

    def _claim(self, now: float) -> list[FenceOutput]:
        """Say what this one would lead with, where nothing that is retained forbids it."""
        if reason := self._objection():
            return self._yield(reason)
        self.state, self._since = FenceState.CLAIMING, now
        return [Claim(self._word(self.epoch))]

    def _lead(self) -> list[FenceOutput]:
        if reason := self._objection():
            return self._yield(reason)
        if self._highest >= self.epoch:
            return [RaiseEpoch(self._highest + 1)]
        outputs: list[FenceOutput] = [Lead()]
        if not self._has_led:
            outputs += self._alert_start()
        self.state, self._has_led = FenceState.LEADING, True
        logger.info("session=%s leads run=%s epoch=%d", self._session, self._run, self.epoch)
        return outputs

    def _objection(self) -> str:
        """Return why this one must not lead, as far as what is retained says; "" where it may."""
        other = self._other
        if other is None:
            return self._fork(self._shown())
        if self._run_of(other) != self._run:
            return self._led_by(other) if other.state in _BUSY else self._fork(self._shown())
        is_there = other.state not in _GONE
        if self._has_led and is_there and self._is_outranked_by(other):
            return self._led_by(other)
        had = other.adapter_version, other.adapter_sha256
        return self._fork(self._shown()) or self._fork(had)

    def _shown(self) -> tuple[int, str]:
        """Return the version of this run that the broker shows, and its digest."""
        model = self._model
        is_own = model is not None and model.run == self._run
        return (model.version, model.sha256) if model is not None and is_own else (-1, "")

    def _fork(self, shown: tuple[int, str]) -> str:
        """Return what is wrong where another one has had a version that this one has not made."""
        if shown[0] < self._version or shown == (self._version, self._sha256):
            return ""
        return (
            f"run {self._run[:8]} has an adapter version {shown[0]} that this state folder "
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
        return [Yield(reason, self._word(self.epoch))]

    # Small things -------------------------------------------------------------------------------

    def _run_of(self, status: ServiceStatus) -> str:
        # Software before the field existed says its run on `coord/run` alone.
        return status.run or self._other_run

    def _is_outranked_by(self, status: ServiceStatus) -> bool:
        theirs, own = (status.epoch, status.session), (self.epoch, self._session)
        # Software before the field existed does not say its version.
        if self._run_of(status) != self._run or status.adapter_version < 0:
            return theirs > own
        return (status.adapter_version, *theirs) > (self._version, *own)

    def _is_ahead_of(self, status: ServiceStatus) -> bool:
        is_same = self._run_of(status) == self._run
        return is_same and 0 <= status.adapter_version < self._version

    def _word(self, epoch: int) -> ServiceStatus:
        return ServiceStatus(
            ServiceState.STARTING,
            self._session,
            self._software,
            run=self._run,
            epoch=epoch,
            adapter_version=self._version,
            adapter_sha256=self._sha256,
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
