"""Does what the session asks for: publishes, keeps, gives tasks, and reports back what came of it.

No decisions: whatever can go one way or another is told to the session, which says how to go on.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.adapter_store import AdapterRefused, AdapterStore
from agent.budget import segment_bytes
from agent.config import AgentConfig
from agent.job import device_seed
from agent.metering import Metering
from agent.outbox import Outbox, UnusablePayload
from agent.outputs import (
    Adapter,
    AnswerOperator,
    BeginRun,
    CommitPayload,
    EndTrainer,
    Output,
    PublishProfile,
    PublishProgress,
    PublishStatus,
    PublishWant,
    RememberEpoch,
    RememberGoodput,
    RememberHold,
    RememberTraining,
    Respond,
    SettleUpdate,
    StartEvaluation,
    StartTraining,
    StoreAdapter,
    Subscribe,
    Unsubscribe,
)
from agent.payload import PayloadError
from agent.profile import device_profile
from agent.session import Session
from agent.tasks import EvalTask, Task, TaskFailed, TrainTask
from agent.telemetry import Sensors
from transport import control, frame
from transport.control import DeviceState, DeviceStatus, TrainResponse
from transport.crash_points import reach
from transport.errors import LinkLost
from transport.link import Link, Publication
from transport.messages import AdapterWant, Manifest, Segment
from transport.signing import Seals, Unsigned
from transport.topics import (
    Address,
    DeviceTopic,
    ModelWant,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)
from transport.transfer import SendManifest, SendSegment

log = logging.getLogger(__name__)

# [bytes] What a segment's packet has besides its body: MQTT's header, topic and frame, rounded up.
PACKET_OVERHEAD_BYTES = 512


class Performer:
    """The session's hands: everything that outputs act upon.

    Attributes of a start: `boot` is random, and statuses carry it as `session`; `give_task` sends a
    task to the trainer; `end_trainer` ends one that hangs; `root` is where the board's own files
    are.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        boot: str,
        topics: Topics,
        link: Link,
        outbox: Outbox,
        adapters: AdapterStore,
        session: Session,
        give_task: Callable[[Task], None],
        end_trainer: Callable[[], None],
        seals: Seals | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._config = config
        self._boot = boot
        self._topics = topics
        self._link = link
        self._seals = seals or Unsigned()
        self._outbox = outbox
        self._adapters = adapters
        self._session = session
        self._give_task = give_task
        self._end_trainer = end_trainer
        self._root = root
        self._metering = Metering(Sensors(root=root, disk=config.state_dir))
        self._manifests: dict[str, Manifest] = {
            upload.uid: upload.manifest for upload in outbox.waiting()
        }

    def perform(self, outputs: Iterable[Output], *, now: float) -> None:
        """Do all of this, and what the session asks for because of it, in order."""
        waiting = deque(outputs)
        while waiting:
            waiting.extend(self._perform(waiting.popleft(), now=now))
        session = self._session
        if self._metering.follow(
            session.state, run=session.run_id, round_id=session.round_id, now=now
        ):
            self._publish_energy()

    def measure(self, now: float) -> float:
        """Sample the board's power where that is due; return the moment when it is due next."""
        return self._metering.tick(now)

    def publish_telemetry(self) -> None:
        """Tell how the device feels; nobody waits for it."""
        telemetry = self._metering.telemetry(
            ts=time.time(), now=time.monotonic(), goodput_bps=self._session.goodput_bps
        )
        self._publish_json(self._own("telemetry"), telemetry, qos=0)
        self._publish_energy()

    def close(self) -> None:
        """Let go of the board's sensors."""
        self._metering.close()

    def _perform(self, output: Output, *, now: float) -> list[Output]:
        match output:
            case SendSegment(uid, index):
                return self._send_segment(uid, index, now=now)
            case SendManifest(uid):
                if uid in self._manifests:
                    body = frame.encode(self._manifests[uid])
                    self._publish(UpManifest(self._config.client_id, uid), body)
            case PublishStatus(state, round_id, reason):
                self._publish_json(
                    self._own("status"), self.status(state, round_id, reason=reason), retain=True
                )
            case PublishProgress(progress):
                self._publish_json(self._own("progress"), progress, qos=0)
            case PublishProfile(hello):
                profile = device_profile(hello, root=self._root)
                self._publish_json(self._own("info"), profile, retain=True)
            case Respond(response):
                self._respond(response)
            case AnswerOperator(action, command_id, answer):
                address = Response(self._config.client_id, action.value, command_id)
                self._publish_json(address, answer)
            case Subscribe(version, delta):
                self._link.subscribe(*self._topics.model_filters(version, delta=delta))
            case Unsubscribe(version, delta):
                self._link.unsubscribe(*self._topics.model_filters(version, delta=delta))
            case PublishWant(version, missing, delta):
                body = frame.encode(AdapterWant(missing))
                self._publish(ModelWant(self._config.client_id, version, delta=delta), body)
            case _:
                return self._keep(output, now=now)
        return []

    def _keep(self, output: Output, *, now: float) -> list[Output]:
        match output:
            case StoreAdapter():
                return self._store_adapter(output, now=now)
            case CommitPayload(task_id, payload_file):
                # Before the update itself: the round may close on its last segment.
                self._metering.sample(now)
                self._publish_energy()
                return self._commit(task_id, payload_file, now=now)
            case StartTraining():
                return self._give(self._train_task(output, now=now), now=now)
            case StartEvaluation():
                return self._give(_eval_task(output), now=now)
            case EndTrainer():
                self._end_trainer()
            case SettleUpdate(uid, receipt):
                self._outbox.settle(uid, receipt)
                self._manifests.pop(uid, None)
            case BeginRun(run):
                self._outbox.begin_run(run)
                self._adapters.load(run)
                self._manifests.clear()
            case RememberEpoch(epoch):
                self._outbox.remember_epoch(epoch)
            case RememberGoodput(bits_per_second):
                self._outbox.remember_goodput(bits_per_second)
            case RememberTraining(seconds):
                self._outbox.remember_training(seconds)
            case RememberHold(hold):
                self._outbox.remember_hold(hold)
            case _:
                raise AssertionError(f"nobody performs {type(output).__name__}")
        return []

    def status(self, state: DeviceState, round_id: int, *, reason: str = "") -> DeviceStatus:
        """Return the device's status with this start's mark on it."""
        return DeviceStatus(state, self._boot, round_id=round_id, reason=reason, ts=time.time())

    def _store_adapter(self, output: StoreAdapter, *, now: float) -> list[Output]:
        manifest = output.manifest
        try:
            adapter = self._adapters.put(output.run, manifest, output.bodies, base=output.base)
        except AdapterRefused as error:
            log.warning(
                "%s: adapter %d refused: %s", self._config.client_id, manifest.version, error
            )
            return self._session.adapter_refused(
                manifest.version, reason=error.reason, retryable=error.retryable, now=now
            )
        return self._session.adapter_stored(adapter, now=now)

    def _give(self, task: Task, *, now: float) -> list[Output]:
        try:
            self._give_task(task)
        except ValueError as error:
            # Names of so many tensors fit into a manifest, but not into a line.
            failure = TaskFailed(task.task_id, "oversized", str(error), retryable=False)
            return self._session.task_failed(failure, now=now)
        return []

    def _commit(self, task_id: str, payload_file: Path, *, now: float) -> list[Output]:
        try:
            upload = self._outbox.commit(payload_file)
        except UnusablePayload as error:
            failure = TaskFailed(task_id, error.reason, str(error), error.retryable)
            return self._session.task_failed(failure, now=now)
        self._manifests[upload.uid] = upload.manifest
        return self._session.committed(upload, now=now)

    def _send_segment(self, uid: str, index: int, *, now: float) -> list[Output]:
        if uid not in self._manifests:
            return []
        try:
            body = self._outbox.segment(uid, index)
        except PayloadError as error:
            log.warning("%s: update %s is lost: %s", self._config.client_id, uid, error)
            self._outbox.discard(uid)
            self._manifests.pop(uid, None)
            return self._session.payload_lost(uid, now=now)
        address = UpSegment(self._config.client_id, uid, index)
        self._publish(address, frame.encode(Segment(body)))
        reach("agent-segment-sent")
        return []

    def _train_task(self, output: StartTraining, *, now: float) -> TrainTask:
        run, command, adapter = output.run, output.command, output.adapter
        cost = self._session.cost(command, now=now)
        log.info("%s round %d: its update takes %s", self._config.client_id, command.round_id, cost)
        # A tight broker may take less than the run's segments; smaller ones are as good.
        most_bytes = self._link.max_packet_bytes - PACKET_OVERHEAD_BYTES
        return TrainTask(
            task_id=output.task_id,
            run=run.run,
            round_id=command.round_id,
            base_version=command.base_version,
            base_digest=run.base_digest,
            adapter_file=adapter.file,
            adapter_config=adapter.adapter_config,
            layout=adapter.layout,
            codec=run.codec,
            update_bytes=cost.update_bytes,
            segment_bytes=segment_bytes(
                cost.goodput_bps,
                most=min(run.segment_bytes, most_bytes),
                expected_bytes=cost.update_bytes or _dense_bytes(adapter),
            ),
            plan=run.plan,
            seed=device_seed(
                command.seed, client_id=self._config.client_id, round_id=command.round_id
            ),
            leftovers=self._outbox.leftovers(),
            error_feedback=run.error_feedback,
            residual_decay=run.residual_decay,
            payload_file=self._outbox.payload_file(run.run, command.round_id),
        )

    def _respond(self, response: TrainResponse | control.EvalResponse) -> None:
        name, number = (
            ("train", response.round_id)
            if isinstance(response, TrainResponse)
            else ("eval", response.version)
        )
        self._publish_json(Response(self._config.client_id, name, str(number)), response)

    def _publish_energy(self) -> None:
        report = self._metering.news()
        if report and self._publish_json(self._own("energy"), report, retain=True):
            self._metering.told()

    def _own(self, leaf: str) -> DeviceTopic:
        return DeviceTopic(self._config.client_id, leaf)

    def _publish_json(
        self, address: Address, message: object, *, qos: int = 1, retain: bool = False
    ) -> bool:
        return self._publish(address, control.encode(message), qos=qos, retain=retain)

    def _publish(
        self, address: Address, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> bool:
        """Hand a message to the link; return whether it took it."""
        topic = self._topics.topic(address)
        try:
            signed = self._seals.seal(topic, payload)
            self._link.publish(Publication(topic, signed, qos=qos, retain=retain))
        except LinkLost:
            # The session says it again once the link is back.
            log.debug("%s: not sent: %s", self._config.client_id, topic)
        except ValueError as error:
            log.error("%s: dropped: %s", self._config.client_id, error)  # noqa: TRY400 - no fault of the code here
        else:
            return True
        return False


def _dense_bytes(adapter: Adapter) -> int:
    """Return what the widest codec takes for an adapter: float32, each coordinate."""
    return 4 * sum(math.prod(shape) for _, shape in adapter.layout)


def _eval_task(output: StartEvaluation) -> EvalTask:
    return EvalTask(
        task_id=output.task_id,
        run=output.run.run,
        version=output.command.version,
        base_digest=output.run.base_digest,
        adapter_file=output.adapter.file,
        adapter_config=output.adapter.adapter_config,
        layout=output.adapter.layout,
        plan=output.run.plan,
    )
