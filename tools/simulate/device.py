"""A device as a model: `agent.runtime` and its performer, with a trainer that makes payloads up.

The session is the real one. The disk (outbox, payload files, adapter versions) survives the
process, which may die at any point that `transport.crash_points` names.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from datetime import time
from typing import TYPE_CHECKING, Any

from agent.commands import Commands
from agent.deliveries import Deliveries
from agent.eligibility import Eligibility, EligibilityConfig, Reading
from agent.job import JobPolicy
from agent.outputs import (
    AnswerOperator,
    BeginRun,
    CommitPayload,
    EndTrainer,
    Output,
    PublishProfile,
    PublishProgress,
    PublishStatus,
    PublishWant,
    Remembered,
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
from agent.pauses import Pauses
from agent.session import Session
from agent.tasks import TaskFailed
from tools.simulate import payloads
from tools.simulate.broker import TOPICS, Entry
from tools.simulate.crash import Crash
from tools.simulate.disk import Disk
from tools.simulate.line import Line, Network
from tools.simulate.outbox import Unusable
from tools.simulate.payloads import Payload
from tools.simulate.trainer import Trainer, Traits
from transport import frame
from transport.control import (
    DeviceState,
    DeviceStatus,
    OperatorAction,
    OperatorCommand,
    TrainResponse,
)
from transport.link import Delivery
from transport.messages import AdapterWant, Evaluation, Manifest, Segment
from transport.topics import (
    Command,
    CoordRun,
    DeviceTopic,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
    ModelWant,
    Response,
    UpManifest,
    UpSegment,
)
from transport.transfer import SendManifest, SendSegment, TransferPolicy

if TYPE_CHECKING:
    from tools.simulate.world import World

# [°C] What is too hot for a task.
CEILING_C = 85.0
# [s] From one look at a hot board to the next.
READING_S = 60.0
# [s] Over which the few devices of a simulation come back to a broker that was restarted.
SPREAD_S = 2.0


class Device:
    """One device: its disk, and the process on it while it runs.

    Attributes:
        world: Where it is.
        rng: Of everything that it leaves to chance.
        client_id: Its name.
        disk: What is durable.
        traits: What it is like.
        line: Its link while it runs.
        session: The machine while it runs.
        resent: uid → segments that went again.
        cuts: Connections that it lost.
        gone: It does not come back.
        copied: There is a second board with its identity: neither is let in any more.
    """

    def __init__(
        self,
        world: World,
        *,
        client_id: str,
        disk: Disk,
        traits: Traits,
        network: Network,
        rng: random.Random,
    ) -> None:
        self.client_id = client_id
        self.disk = disk
        self.traits = traits
        self.network = network
        self.line: Line | None = None
        self.session: Session | None = None
        self.resent: dict[str, int] = {}
        self.cuts = 0
        self.gone = False
        self.copied = False
        self.world = world
        self.rng = rng
        self._offset = 0.0
        self._boot = ""
        self._deliveries: Deliveries | None = None
        self._pauses = Pauses()
        self._commands: Commands | None = None
        self._asked = 0
        self._sleeps_until = 0.0
        self._wake_at: float | None = None
        self._trainer = Trainer(self)

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.session is not None

    @property
    def name(self) -> str:
        """The same as its client id, as an aggregator has it."""
        return self.client_id

    @property
    def now(self) -> float:
        """The process's monotonic clock."""
        return self.world.clock.now + self._offset

    # Its life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process on what is on the disk."""
        if self.session is not None or self.gone:
            return
        world, disk = self.world, self.disk
        self._offset = self.rng.uniform(0.0, 1e5) if world.jumps else 0.0
        self._boot = f"{self.rng.getrandbits(64):016x}"
        self._adopt()
        outbox = disk.outbox
        disk.forget_others(outbox.run)
        config = EligibilityConfig(max_temp_c=CEILING_C, hold_s=0.0)
        self._pauses = pauses = Pauses(Eligibility(config), hold=disk.hold)
        self.session = Session(
            self.client_id,
            remembered=Remembered(
                run=outbox.run,
                epoch=outbox.epoch,
                adapters=tuple(adapter for adapter, _ in disk.adapters.values()),
                uploads=outbox.waiting(),
                settled=frozenset(outbox.settled),
                goodput_bps=disk.goodput_bps,
                train_s=disk.train_s,
            ),
            jobs=JobPolicy(),
            transfer=TransferPolicy(),
            rng=self.rng,
            pauses=pauses,
        )
        self._commands = Commands(self.session, pauses=pauses, boot=self._boot)
        self._deliveries = Deliveries(
            TOPICS,
            client_id=self.client_id,
            session=self.session,
            commands=self._commands,
            clock=lambda: self.now,
        )
        self.line = Line(
            world.clock,
            world.broker,
            self,
            client_id=self.client_id,
            filters=TOPICS.agent_filters(self.client_id),
            will=self._last_word(DeviceState.LOST),
            network=self.network,
            rng=self.rng,
            spread_s=SPREAD_S,
        )
        world.lines[self.line] = None
        self._wake_at = None
        self.line.open()
        self._trainer.attach()

    def stop(self, *, goodbye: bool = False) -> None:
        """End the process: killed, or with a goodbye."""
        if self.session is None:
            return
        self.session = None
        self._deliveries = None
        self._commands = None
        if self.line is not None:
            self.cuts += 1
            if goodbye:
                address, message = self._last_word(DeviceState.OFFLINE)
                self.line.publish(address, message, retain=True)
            self.world.lines.pop(self.line, None)
            self.line.close(goodbye=goodbye)
            self.line = None
        self._trainer.detach()

    def suspend(self, duration_s: float) -> None:
        """Sleep with a lid closed: the monotonic clock stands, and the link dies meanwhile."""
        if self.line is not None and self.session is not None:
            self._sleeps_until = max(self._sleeps_until, self.world.clock.now + duration_s)
            self._offset -= duration_s
            self.line.go_dark(duration_s)
            self._wake_at = None
            self.world.clock.after(duration_s, self._arm, self.session)

    # What makes it pause --------------------------------------------------------------------------

    def pause(self) -> None:
        """Let an operator pause it, who gives up where it does not answer."""
        if not self._is_asleep:
            self._operate(OperatorAction.PAUSE)

    def resume(self) -> None:
        """Let an operator resume it, who does not give up before that is done."""
        self._awake(self._operate, OperatorAction.RESUME)

    def heat_up(self) -> None:
        """Grow far too hot, where it works."""
        for _ in range(0 if self._is_asleep else 2):
            self._feel(CEILING_C + 50.0)

    def cool_down(self) -> None:
        """Be cool again, and look at it as often as it takes."""
        self._awake(self._feel, CEILING_C - 50.0)
        if self.running and self._pauses.is_paused:
            self.world.clock.after(READING_S, self.cool_down)

    @property
    def _is_asleep(self) -> bool:
        return self.world.clock.now < self._sleeps_until

    def _awake(self, step: Callable[[Any], None], what: Any) -> None:
        """Do this now, or at the end of its sleep."""
        if self._is_asleep:
            self.world.clock.at(self._sleeps_until, self._awake, step, what)
        else:
            step(what)

    def _operate(self, action: OperatorAction) -> None:
        if action is OperatorAction.RESUME:
            self.disk.hold = None
        commands = self._commands
        if commands is None:
            return
        self._asked += 1
        now = self.now
        command = OperatorCommand(self._boot, now + 10.0)
        number = str(self._asked)
        self.step(lambda _: commands.receive(action, number, command, clock_s=now, now=now))

    def _feel(self, temp_c: float) -> None:
        session, now = self.session, self.now
        if session is not None:
            reading = Reading(time(12), temp_c=temp_c)
            self._pauses.observe(reading, training=session.is_working, now=now)
            self.step(lambda session: session.tick(now))

    # What its line tells --------------------------------------------------------------------------

    def line_up(self) -> None:
        """Tell everything anew."""
        self.step(lambda session: session.connected(self.now))

    def line_down(self) -> None:
        """Go on without a link."""
        self.cuts += 1
        self.step(lambda session: session.disconnected(self.now))

    def line_refused(self) -> None:
        """Another process has this client id: end."""
        self.world.truth.tally["device gave way"] += 1
        self.gone = True
        self.stop()

    def line_delivers(self, entry: Entry) -> None:
        """Take a delivery, do what follows, then let the broker forget it."""
        if self.session is None:
            return
        self.world.note(self.client_id, entry)
        line = self.line
        assert line is not None

        def deliver(session: Session) -> list[Output]:
            return self._read(session, entry)

        self.step(deliver, then=lambda: line.acknowledge(entry))

    def _read(self, session: Session, entry: Entry) -> list[Output]:
        message, now = entry.message, self.now
        if isinstance(message, bytes):
            if isinstance(entry.address, Down):
                self.reach("agent-answer-in")
            assert self._deliveries is not None
            topic = TOPICS.topic(entry.address)
            return self._deliveries.take(Delivery(topic, message, 1, False, 0), now=now)  # noqa: FBT003
        if message is None:
            return []
        match entry.address:
            case Down(_, uid):
                self.reach("agent-answer-in")
                return session.answered(uid, message, now=now)
            case Command(_, "train", _):
                return session.train(message, now=now)
            case Command(_, "eval", _):
                return session.evaluate(message, now=now)
            case Model():
                return session.model(message, now=now)
            case CoordRun():
                return session.announced(message, now=now)
            case ModelManifest(_, delta):
                return session.adapter_manifest(message, delta=delta, now=now)
            case ModelSegment(version, index, delta):
                return session.adapter_segment(
                    version, index=index, body=message.body, delta=delta, now=now
                )
        raise AssertionError(f"nothing that a device listens to: {entry.address}")

    # The loop -------------------------------------------------------------------------------------

    def step(
        self,
        step: Callable[[Session], list[Output]],
        *,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Do one step of the session and its effects; a crash in it ends the process."""
        session = self.session
        if session is None:
            return
        try:
            self._perform(step(session))
            if then is not None:
                then()
        except Crash:
            self.stop()
            self.world.restart(self)
            return
        self._arm(session)

    def _arm(self, session: Session) -> None:
        if session is not self.session:
            return
        wakeup = session.next_wakeup()
        if wakeup is None:
            return
        moment = max(wakeup - self._offset, self.world.clock.now)
        if self._wake_at is None or moment < self._wake_at:
            self._wake_at = moment
            self.world.clock.at(moment, self._wake, session, moment)

    def _wake(self, session: Session, moment: float) -> None:
        if session is self.session and self._wake_at == moment:
            self._wake_at = None
            # A hair later: subtracting the clock's offset may round the moment down.
            self.step(lambda session: session.tick(self.now + 1e-6))

    def _perform(self, outputs: Iterable[Output]) -> None:
        waiting = deque(outputs)
        while waiting:
            output = waiting.popleft()
            more = _PERFORM[type(output)](self, output)
            if more:
                waiting.extend(more)

    # Effects: what is published -------------------------------------------------------------------

    def _publish(self, address: Any, message: Any, *, retain: bool = False) -> None:
        if self.line is not None:
            self.line.publish(address, self.world.packed(address, message), retain=retain)

    def _send_segment(self, output: SendSegment) -> list[Output]:
        uid = output.uid
        row = self.disk.outbox.rows.get(uid)
        if row is None:
            return []
        if output.resend:
            self.resent[uid] = self.resent.get(uid, 0) + 1
        body = Segment(row[1].bodies[output.index])
        self._publish(UpSegment(self.client_id, uid, output.index), body)
        self.reach("agent-segment-sent")
        return []

    def _send_manifest(self, output: SendManifest) -> None:
        row = self.disk.outbox.rows.get(output.uid)
        if row is not None:
            self._publish(UpManifest(self.client_id, output.uid), row[0])

    def _status(self, output: PublishStatus) -> None:
        status = DeviceStatus(
            output.state,
            self._boot,
            round_id=output.round_id,
            reason=output.reason,
            ts=self.world.wall_clock(),
        )
        self._publish(DeviceTopic(self.client_id, "status"), status, retain=True)

    def _respond(self, output: Respond) -> None:
        response = output.response
        name, number = (
            ("train", response.round_id)
            if isinstance(response, TrainResponse)
            else ("eval", response.version)
        )
        self._publish(Response(self.client_id, name, str(number)), response)

    def _want(self, output: PublishWant) -> None:
        address = ModelWant(self.client_id, output.version, delta=output.delta)
        self._publish(address, AdapterWant(output.missing))

    def _subscribe(self, output: Subscribe) -> None:
        assert self.line is not None
        self.line.subscribe(*TOPICS.model_filters(output.version, delta=output.delta))

    def _unsubscribe(self, output: Unsubscribe) -> None:
        assert self.line is not None
        self.line.unsubscribe(*TOPICS.model_filters(output.version, delta=output.delta))

    def _progress(self, output: PublishProgress) -> None:
        self._publish(DeviceTopic(self.client_id, "progress"), output.progress)

    def _pass(self, output: Output) -> None:
        """Tell people something that no machine reads."""

    def _last_word(self, state: DeviceState) -> tuple[DeviceTopic, Any]:
        address = DeviceTopic(self.client_id, "status")
        return address, self.world.packed(address, DeviceStatus(state, self._boot))

    # Effects: what is kept ------------------------------------------------------------------------

    def _commit(self, output: CommitPayload) -> list[Output]:
        session, outbox = self.session, self.disk.outbox
        assert session is not None
        self.reach("agent-row-before")
        parts = output.task_id.split("-")
        payload = outbox.files.get((parts[1], int(parts[2])))
        if payload is None:
            failure = TaskFailed(output.task_id, "payload", "no such file", retryable=True)
            return session.task_failed(failure, now=self.now)
        try:
            upload = outbox.commit(payload, lambda seq: self._name(payload, seq))
        except Unusable as error:
            self.world.truth.discarded(payload, error.reason)
            failure = TaskFailed(output.task_id, error.reason, str(error), error.retryable)
            return session.task_failed(failure, now=self.now)
        self.world.truth.entered(upload.uid, outbox.rows[upload.uid][1])
        self.reach("agent-row-committed")
        return session.committed(upload, now=self.now)

    def _settle(self, output: SettleUpdate) -> None:
        outbox = self.disk.outbox
        self.reach("agent-receipt-before")
        if output.uid in outbox.rows:
            self.world.truth.settled(output.uid, output.receipt)
            outbox.settle(output.uid, output.receipt)
        self.reach("agent-receipt-committed")
        self.reach("agent-receipt-done")

    def _store_adapter(self, output: StoreAdapter) -> list[Output]:
        session, manifest = self.session, output.manifest
        assert session is not None
        adapter = self.disk.keep(output)
        if adapter is None:
            self.world.truth.tally["adapter refused"] += 1
            return session.adapter_refused(
                manifest.version, reason="digest", retryable=True, now=self.now
            )
        self.world.truth.adapter(manifest.run, manifest.version, manifest.sha256)
        return session.adapter_stored(adapter, now=self.now)

    def _begin_run(self, output: BeginRun) -> None:
        outbox = self.disk.outbox
        if outbox.run not in {None, output.run}:
            self.world.truth.cleared(outbox)
        outbox.begin_run(output.run)
        self.disk.forget_others(output.run)

    def _remember_epoch(self, output: RememberEpoch) -> None:
        self.disk.outbox.epoch = output.epoch

    def _remember_goodput(self, output: RememberGoodput) -> None:
        self.disk.goodput_bps = output.bits_per_second

    def _remember_training(self, output: RememberTraining) -> None:
        self.disk.train_s = output.seconds

    def _remember_hold(self, output: RememberHold) -> None:
        self.disk.hold = output.hold

    def _adopt(self) -> None:
        outbox = self.disk.outbox
        before = dict(outbox.files)
        for upload in outbox.adopt(self._name):
            self.world.truth.entered(upload.uid, outbox.rows[upload.uid][1])
            self.world.truth.tally["adopted"] += 1
        left = [leftover.payload for leftover in outbox.left.values()]
        for name, payload in before.items():
            settled = name[1] in outbox.settled and name[0] == outbox.run
            if name not in outbox.files and payload not in left and not settled:
                self.world.truth.discarded(payload, "unusable")

    def _name(self, payload: Payload, seq: int) -> tuple[str, Manifest]:
        world = self.world
        evaluation = Evaluation(3.0, 100, 10) if world.config.plan.eval_examples else None
        manifest = payloads.manifest_of(
            payload,
            layout_digest=world.layout.digest,
            codec=world.config.codec,
            seq=seq,
            num_examples=self.traits.examples,
            evaluation=evaluation,
        )
        return frame.uid(manifest), manifest

    def crash_trainer(self) -> None:
        """Kill the trainer."""
        self._trainer.crash()

    def _end(self, _: EndTrainer) -> None:
        self.world.clock.after(0.0, self._trainer.crash)

    def _give(self, output: StartTraining | StartEvaluation) -> None:
        self._trainer.give(output)

    def reach(self, point: str) -> None:
        """Die here, where the scenario says so.

        Raises:
            Crash: It does.
        """
        if self.world.crashes and self.world.is_fatal(self.client_id, point):
            raise Crash


# One for each output: asked for some hundred times a round, `match` would take longer.
# ruff: noqa: SLF001 - the table belongs to the class above
_PERFORM: dict[type, Callable[[Device, Any], list[Output] | None]] = {
    SendSegment: Device._send_segment,
    SendManifest: Device._send_manifest,
    PublishStatus: Device._status,
    PublishProgress: Device._progress,
    PublishProfile: Device._pass,
    Respond: Device._respond,
    AnswerOperator: Device._pass,
    Subscribe: Device._subscribe,
    Unsubscribe: Device._unsubscribe,
    PublishWant: Device._want,
    StoreAdapter: Device._store_adapter,
    CommitPayload: Device._commit,
    StartTraining: Device._give,
    StartEvaluation: Device._give,
    EndTrainer: Device._end,
    SettleUpdate: Device._settle,
    BeginRun: Device._begin_run,
    RememberEpoch: Device._remember_epoch,
    RememberGoodput: Device._remember_goodput,
    RememberTraining: Device._remember_training,
    RememberHold: Device._remember_hold,
}
