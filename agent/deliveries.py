"""What comes over the link, read and handed to the session; what is no message is refused here."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable

from agent.commands import Commands
from agent.outputs import Output
from agent.session import Session
from transport import control, frame
from transport.control import (
    EvalCommand,
    ModelStatus,
    OperatorAction,
    OperatorCommand,
    RunAnnouncement,
    TrainCommand,
)
from transport.crash_points import reach
from transport.errors import BadSignature, BadTopic, MalformedMessage, MessageError
from transport.link import Delivery
from transport.messages import AdapterManifest, Have, Receipt, Segment, Want
from transport.schemas import SCHEMAS
from transport.signing import Seals, Unsigned
from transport.topics import (
    Command,
    CoordRun,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
    Topics,
)

log = logging.getLogger(__name__)

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ACTIONS = frozenset(action.value for action in OperatorAction)


class Deliveries:
    """Gives each delivery to the session as the message that its topic says it is.

    Operators' commands go to `commands`, with what `clock` shows: seconds that count on while the
    device sleeps.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        client_id: str,
        session: Session,
        commands: Commands,
        clock: Callable[[], float],
        seals: Seals | None = None,
    ) -> None:
        self._topics = topics
        self._seals = seals or Unsigned()
        self._client_id = client_id
        self._session = session
        self._commands = commands
        self._clock = clock
        self.refused: Counter[str] = Counter()

    def take(self, delivery: Delivery, *, now: float) -> list[Output]:
        """Return what the session does about a delivery; what is no message is counted."""
        if not delivery.payload:
            return []  # A retained message that was cleared.
        try:
            return self._take(delivery, now=now)
        except MessageError as error:
            self.refused[error.reason] += 1
            count = self.refused[error.reason]
            # The first of a kind and then ever fewer, so that a flood does not fill the disk.
            if count & (count - 1) == 0:
                log.warning(
                    "%s: refused message %d (%s) on %s: %s",
                    self._client_id,
                    count,
                    error.reason,
                    delivery.topic[:200],
                    error,
                )
            return self._session.unverified(now) if isinstance(error, BadSignature) else []

    def _take(self, delivery: Delivery, *, now: float) -> list[Output]:
        payload = self._seals.unseal(delivery.topic, delivery.payload)
        session = self._session
        match self._topics.parse(delivery.topic):
            case CoordRun():
                return session.announced(_run(payload), now=now)
            case Model():
                return session.model(control.decode(ModelStatus, payload), now=now)
            case Command(client_id, name, command_id) if client_id == self._client_id:
                return self._command(name, command_id, payload, now=now)
            case Down(client_id, uid) if client_id == self._client_id:
                reach("agent-answer-in")
                return session.answered(uid, _answer(payload), now=now)
            case ModelManifest(version, delta):
                manifest = frame.decode(AdapterManifest, payload)
                if manifest.version != version:
                    raise MalformedMessage(f"a manifest of version {manifest.version} there")
                return session.adapter_manifest(manifest, delta=delta, now=now)
            case ModelSegment(version, index, delta):
                body = frame.decode(Segment, payload).body
                return session.adapter_segment(
                    version, index=index, body=body, delta=delta, now=now
                )
            case _:
                raise BadTopic("nothing that a device listens to")

    def _command(self, name: str, command_id: str, payload: bytes, *, now: float) -> list[Output]:
        match name:
            case "train":
                train = control.decode(TrainCommand, payload)
                if command_id != str(train.round_id):
                    raise MalformedMessage(f"the command is for round {train.round_id}")
                if train.round_id < 1 or train.base_version < 0:
                    raise MalformedMessage("rounds begin at 1, adapter versions at 0")
                return self._session.train(train, now=now)
            case "eval":
                evaluation = control.decode(EvalCommand, payload)
                if command_id != str(evaluation.version):
                    raise MalformedMessage(f"the command is for version {evaluation.version}")
                return self._session.evaluate(evaluation, now=now)
            case _ if name in _ACTIONS:
                return self._commands.receive(
                    OperatorAction(name),
                    command_id,
                    control.decode(OperatorCommand, payload),
                    clock_s=self._clock(),
                    now=now,
                )
            case _:
                raise BadTopic(f"this agent knows no command {name!r}")


def _run(payload: bytes) -> RunAnnouncement:
    run = control.decode(RunAnnouncement, payload)
    if not _RUN_ID.fullmatch(run.run):
        # It becomes a part of file names here.
        raise MalformedMessage(f"{run.run!r:.80} is no run's id")
    return run


def _answer(payload: bytes) -> Have | Want | Receipt:
    number = payload[1] if len(payload) > 1 else None
    if number == SCHEMAS[Have].kind:
        return frame.decode(Have, payload)
    if number == SCHEMAS[Receipt].kind:
        return frame.decode(Receipt, payload)
    return frame.decode(Want, payload)
