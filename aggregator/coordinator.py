"""The aggregator's decisions: rounds, then the final evaluation, and the newest adapter for all.

    state       event                                       next
    TRAINING    all adapter versions are made               EVALUATING
    EVALUATING  everybody asked has answered, or timeout    FINISHED
    FINISHED    anything                                    FINISHED

Pure: messages and `now` come in, outputs go to the shell, which carries them out in order; whatever
stands behind a durable output happens only when that is on disk. A restart begins at `start` with
the journal's snapshot; the evaluation's timeout begins again at full length then.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from enum import Enum

from aggregator.admission import Refusal, is_measurement
from aggregator.announcements import AdapterFacts, Announcer, RunFacts
from aggregator.closing import Aggregated
from aggregator.cohort import Presence
from aggregator.config import AggregatorConfig
from aggregator.evaluation import FinalEvaluation, FleetEvaluation
from aggregator.inbound import Inbound, Stepped, Unreadable
from aggregator.journal import Snapshot
from aggregator.old_epoch import OLD_EPOCH, OldEpoch
from aggregator.outputs import (
    Finish,
    JournalCloned,
    JournalEvaluation,
    JournalSegment,
    Output,
    Publish,
    SendAdapter,
)
from aggregator.repair import Repair
from aggregator.round import Round
from aggregator.stalls import MAX_NAMED, STALLED, Stalls
from aggregator.traffic import UploadSize
from aggregator.training import Training, TrainingState
from transport.control import (
    AlertNotice,
    DeviceStatus,
    EnergyReport,
    EvalResponse,
    ServiceState,
    TrainResponse,
)
from transport.messages import AdapterWant, Evaluation, Manifest, Segment
from transport.topics import Alert, Command, CoordRun, ModelWant, UpManifest, UpSegment
from transport.transfer import TransferPolicy

logger = logging.getLogger(__name__)

# The time that the broker needs, after a connection, to tell who is online.
PRESENCE_S = 2.0

CLONED = Alert("cloned")


class State(Enum):
    """How far the run is."""

    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"


class Coordinator:
    """Runs one run from its first round to its end.

    Args:
        config: The service's configuration.
        facts: The run.
        adapter: The newest adapter version.
        snapshot: What the journal holds.
        version: The software's version, for the status.
        policy: How acknowledgements of segments are gathered.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        facts: RunFacts,
        *,
        adapter: AdapterFacts,
        snapshot: Snapshot,
        version: str,
        policy: TransferPolicy | None = None,
    ) -> None:
        self.state = State.TRAINING
        self._config = config
        self._run = facts.run
        self._snapshot = snapshot
        self._announcer = Announcer(config, facts, version)
        self._presence = Presence(snapshot.cloned)
        self._repair = Repair()
        self._evaluation: FinalEvaluation | None = None
        self._stalls = Stalls(stall_s=config.stall_s)
        self._old_epoch = OldEpoch(run=facts.run, epoch=facts.epoch)
        self._reviewed: Round | None = None
        self._training = Training(
            self._announcer,
            presence=self._presence,
            adapter=adapter,
            snapshot=snapshot,
            policy=policy or TransferPolicy(),
        )

    @property
    def adapter(self) -> AdapterFacts:
        """The newest adapter version that is durable."""
        return self._training.adapter

    def start(self, now: float) -> list[Output]:
        """Go on where the journal ends; what was told of devices before may be over."""
        outputs: list[Output] = [
            Publish(alert, None, retain=True) for alert in (STALLED, OLD_EPOCH)
        ]
        outputs.append(self._cloned_alert())
        outputs += self._watched(self._training.start(now=now), now=now)
        if self._training.state is not TrainingState.DONE:
            return outputs
        evaluation = self._begin_evaluation(now)
        evaluation.hold_until(evaluation.deadline)  # until devices can be seen
        if self._snapshot.finished:
            self.state = State.FINISHED
        return outputs

    def connected(self, now: float) -> list[Output]:
        """Publish everything that stands, since what was published before may be lost."""
        if self._evaluation is not None:
            self._evaluation.hold_until(now + PRESENCE_S)
        return [
            Publish(CoordRun(), self._announcer.run(), retain=True),
            self._service_status(),
            *self._announcer.standing(self.adapter, self._final_result()),
            *self._training.reconnected(now),
        ]

    def status(self) -> list[Output]:
        """Say again what the service is doing."""
        return [self._service_status()]

    def disconnected(self) -> None:
        """Forget who is online: the broker tells it again, and each then gets its command."""
        self._presence.forget()

    def receive(self, inbound: Inbound, *, now: float) -> list[Output]:
        """Take a device's message."""
        client_id, presence = inbound.client_id, self._presence
        was_cloned = client_id in presence.cloned
        outputs = self._receive(inbound, now=now)
        if (client_id in presence.cloned) is not was_cloned:
            outputs += self._quarantine(client_id, now=now)
        return self._watched(outputs, client_id, now=now)

    def _receive(self, inbound: Inbound, *, now: float) -> list[Output]:
        client_id = inbound.client_id
        if isinstance(inbound.message, EnergyReport):
            # It is retained, so that it proves neither life nor that it was said just now.
            if client_id not in self._presence.cloned:
                self._training.energy(client_id, inbound.message, now=now)
            return []
        if not isinstance(inbound.message, DeviceStatus | None):
            self._presence.heard(client_id)
        match inbound.address, inbound.message:
            case _, (DeviceStatus() | None) as status:
                return self._device(client_id, status, fresh=inbound.fresh, now=now)
            case _, Stepped():
                self._stalls.moved(client_id, now)
                return []
            case _, (TrainResponse() | EvalResponse()) if client_id in self._presence.cloned:
                return []
            case _, (TrainResponse() | EvalResponse()) as foreign if self._old_epoch.is_foreign(
                foreign
            ):
                return []
            case _, TrainResponse() as answer:
                self._stalls.moved(client_id, now)
                told = self._old_epoch.answered(client_id, answer, now=now)
                return [*told, *self._training.answered(client_id, answer, now=now)]
            case _, EvalResponse() as report:
                told = self._old_epoch.answered(client_id, report, now=now)
                return [*told, *self._evaluated(client_id, report, now=now)]
            case UpManifest() as address, Manifest() as manifest:
                self._training.count_up(inbound.packet_bytes)
                size = UploadSize(inbound.packet_bytes, inbound.payload_bytes)
                return self._training.announced(address, manifest, size=size, now=now)
            case UpSegment() as address, Segment() as segment:
                self._training.count_up(inbound.packet_bytes)
                size = UploadSize(inbound.packet_bytes, inbound.payload_bytes)
                return self._training.segment(address, segment, size=size, now=now)
            case ModelWant(_, version, delta), AdapterWant(missing):
                return self._adapter_want(version, missing, delta=delta, now=now)
        raise AssertionError(f"no message: {type(inbound.message)} at {inbound.address}")

    def meter(self, client_id: str, packet_bytes: int, *, now: float) -> Refusal | None:
        """Charge a device for a message of an upload, or say which quota keeps it out."""
        return self._training.quotas.take(client_id, packet_bytes, now=now)

    def unreadable(self, unreadable: Unreadable, *, now: float) -> list[Output]:
        """Take note of bytes that are no message."""
        self._training.count_unread(unreadable.client_id, unreadable.upload_bytes)
        return self._training.refuse(
            unreadable.client_id, unreadable.reason, unreadable.text, now=now
        )

    def login_refused(self, text: str, *, now: float) -> list[Output]:
        """Tell operators of somebody whom the broker has not let in."""
        return self._training.refuse("", "login", text, now=now)

    def stored(self, segments: Mapping[str, Collection[int]], *, now: float) -> list[Output]:
        """Take note that these segments (uid → indices) are durable."""
        return self._training.stored(segments, now=now)

    def aggregated(self, result: Aggregated, *, now: float) -> list[Output]:
        """Take the next adapter, computed and not yet written."""
        outputs = self._watched(self._training.aggregated(result, now=now), now=now)
        if self._training.state is not TrainingState.DONE:
            return outputs
        self._begin_evaluation(now)
        for client_id in self._presence.eligible():
            outputs += self._ask_to_evaluate(client_id, now=now)
        return outputs + self._finish_if_over(now)

    def sent(self, packet_bytes: int) -> None:
        """Count what was published under `flx/`."""
        self._training.count_down(packet_bytes)

    def tick(self, now: float) -> list[Output]:
        """Do what is due; may be called early or late."""
        outputs = self._watched(self._training.tick(now), now=now)
        return [*self._review(now), *outputs, *self._finish_if_over(now)]

    def next_wakeup(self) -> float | None:
        """Return the moment by which `tick` wants to be called."""
        moments = [self._training.next_wakeup(), self._stalls.next_wakeup()]
        if self._evaluation is not None and self.state is State.EVALUATING:
            moments.append(self._evaluation.next_wakeup())
        return min((moment for moment in moments if moment is not None), default=None)

    def _device(
        self, client_id: str, status: DeviceStatus | None, *, fresh: bool, now: float
    ) -> list[Output]:
        presence, before = self._presence, self._presence.state_of(client_id)
        arrived = presence.receive(client_id, status, fresh=fresh)
        if presence.moves(client_id, since=before):
            self._stalls.moved(client_id, now)
        if self.state is State.TRAINING:
            return self._training.device(client_id, arrived=arrived, now=now)
        outputs = self._ask_to_evaluate(client_id, now=now) if arrived else []
        return outputs + self._finish_if_over(now)

    def _quarantine(self, client_id: str, *, now: float) -> list[Output]:
        """Wait no longer for a device that two have become, and tell operators."""
        cloned = client_id in self._presence.cloned
        outputs: list[Output] = [JournalCloned(client_id, cloned), self._cloned_alert(client_id)]
        if cloned:
            logger.error("cloned client=%s: two devices share this identity", client_id)
            leaves = TrainResponse(self._run, self.adapter.version + 1, accepted=False,
                                   reason=Refusal.CLONED.value)  # fmt: skip
            outputs += self._training.answered(client_id, leaves, now=now)
        return outputs

    def _cloned_alert(self, client_id: str = "") -> Publish:
        """Return the alert that names all devices whose identity two share, or clears it."""
        cloned = sorted(self._presence.cloned)
        if not cloned:
            return Publish(CLONED, None, retain=True)
        named = ", ".join(cloned[:MAX_NAMED])
        text = (
            f"{named}: two devices share one identity (one was copied, or set back to an old "
            "copy of its state folder); nothing new is taken from it: give one an identity of its "
            "own, empty both state folders, then clear d/<device>/status"
        )
        notice = AlertNotice("error", text, count=len(cloned), client_id=client_id)
        return Publish(CLONED, notice, retain=True)

    # Who stalls ---------------------------------------------------------------------------------

    def _watched(self, outputs: list[Output], client_id: str = "", *, now: float) -> list[Output]:
        """Note who is asked by these outputs, and whose segments they take."""
        for output in outputs:
            match output:
                case Publish(Command(asked, "train", _)):
                    self._stalls.moved(asked, now)
                case JournalSegment():
                    self._stalls.moved(client_id, now)
        return outputs

    def _review(self, now: float) -> list[Output]:
        current = self._training.open_round
        if current is not self._reviewed:
            self._reviewed = current
            self._stalls.over(now)
        outputs = self._stalls.review(
            now,
            awaited=current.awaited if current else (),
            silent=current.silent if current else (),
            state_of=self._presence.state_of,
        )
        self._training.note_stalled(self._stalls.count)
        return [*outputs]

    def _adapter_want(
        self, version: int, missing: frozenset[int] | None, *, delta: bool, now: float
    ) -> list[Output]:
        count = self.adapter.count(version, delta=delta)
        if count == 0:
            return []  # a device that hears of the newest version will ask for that
        wanted = range(count) if missing is None else missing
        indices = self._repair.due((version, delta), wanted, count=count, now=now)
        return [SendAdapter(version, indices, delta=delta)] if indices else []

    # The final evaluation -----------------------------------------------------------------------

    def _begin_evaluation(self, now: float) -> FinalEvaluation:
        self.state = State.EVALUATING
        wanted = self._config.plan.eval_examples > 0
        restored = self._snapshot
        held = restored.evaluations if restored.version == self.adapter.version else {}
        timeout_s = self._config.final_eval_timeout_s if wanted else 0.0
        self._evaluation = FinalEvaluation(deadline=now + timeout_s, held=held)
        return self._evaluation

    def _ask_to_evaluate(self, client_id: str, *, now: float) -> list[Output]:
        evaluation = self._evaluation
        if self.state is not State.EVALUATING or evaluation is None:
            return []
        remaining_s = evaluation.deadline - now
        if remaining_s <= 0 or not evaluation.ask(client_id):
            return []
        version = self.adapter.version
        return [self._announcer.evaluate(client_id, version=version, remaining_s=remaining_s)]

    def _evaluated(self, client_id: str, report: EvalResponse, *, now: float) -> list[Output]:
        wanted = (self._run, self.adapter.version)
        if self.state is not State.EVALUATING or (report.run, report.version) != wanted:
            return []
        assert self._evaluation is not None
        evaluation: Evaluation | None = None
        outputs: list[Output] = []
        if is_measurement(report.loss, tokens=report.tokens, correct=report.correct):
            evaluation = Evaluation(report.loss, report.tokens, report.correct)
        elif report.tokens != 0:
            reason, text = Refusal.METRICS.value, "an evaluation that is none"
            outputs += self._training.refuse(client_id, reason, text, now=now)
        if self._evaluation.answered(client_id, evaluation) and evaluation is not None:
            outputs.append(JournalEvaluation(report.version, client_id, evaluation))
        return outputs + self._finish_if_over(now)

    def _finish_if_over(self, now: float) -> list[Output]:
        """Finish the run where nobody's evaluation is awaited any more."""
        if self.state is not State.EVALUATING or self._evaluation is None:
            return []
        if not self._evaluation.is_over(now, has_left=self._is_absent):
            return []
        self.state = State.FINISHED
        result = self._final_result()
        logger.info(
            "run=%s is finished version=%d loss=%s",
            self._run,
            self.adapter.version,
            result.loss if result else None,
        )
        return [
            Finish(self.adapter.version),
            self._announcer.model(self.adapter, result),
            self._service_status(),
        ]

    def _is_absent(self, client_id: str) -> bool:
        presence = self._presence
        return (
            presence.has_left(client_id)
            or client_id in presence.silent
            or client_id in presence.cloned
        )

    def _final_result(self) -> FleetEvaluation | None:
        finished = self._evaluation is not None and self.state is State.FINISHED
        return self._evaluation.result() if self._evaluation and finished else None

    def _service_status(self) -> Publish:
        state = ServiceState.RUNNING
        if self.state is State.FINISHED:
            state = ServiceState.FINISHED
        elif self._training.state is TrainingState.WAITING:
            state = ServiceState.WAITING
        return self._announcer.service(state, self.adapter)
