"""What one device does in a run: a pure machine of commands, adapter versions, tasks and receipts.

Rule 1: everything that decides what the device does next lives here. Rule 2: this file knows no
clock, socket, disk or thread; whoever drives it performs the outputs and brings back what came of
them. Rule 3: uploads never wait for the trainer; an update whose round is over goes on being
offered behind the next task until its receipt comes (`agent.uploads`). What becomes of a command
that was taken on is in `agent.work`.
"""

from __future__ import annotations

import logging
import random
from typing import Final

from agent.budget import Cost, Outlook, UplinkConfig, cost_of
from agent.fetching import Fetching
from agent.inbox import Inbox
from agent.job import JobPolicy, decline
from agent.outputs import (
    Adapter,
    BeginRun,
    CommitPayload,
    Output,
    PublishProfile,
    PublishProgress,
    PublishStatus,
    Remembered,
    Upload,
)
from agent.pauses import PAUSED, Pauses
from agent.responses import Responses
from agent.states import Event
from agent.tasks import EvalResult, TaskFailed, TaskProgress, TrainerHello, TrainResult
from agent.uploads import Uploads
from agent.work import Work
from codec.registry import CODECS
from transport.control import (
    DeviceState,
    EvalCommand,
    EvalResponse,
    ModelStatus,
    Progress,
    RunAnnouncement,
    TrainCommand,
    TrainResponse,
)
from transport.messages import AdapterManifest, Have, Receipt, Want
from transport.transfer import TransferPolicy

log = logging.getLogger(__name__)


# Progress of an upload is for people: more than one message a second tells them nothing.
UPLOAD_PROGRESS_S = 1.0
# The reason in the status of a device whose adapter version does not come.
FETCH_STALLED = "fetch-stalled"
# The reason in the status of a device that was told what the aggregator has not signed, and how
# long it stays after the last of that: a status must not go to and fro as often as a forger speaks.
UNSIGNED = "signature"
UNSIGNED_S = 60.0

_DEFAULT_UPLINK: Final = UplinkConfig()


class Session:
    """One device in one run after another; every method returns what is to be done about it."""

    def __init__(
        self,
        client_id: str,
        *,
        remembered: Remembered,
        jobs: JobPolicy,
        transfer: TransferPolicy,
        rng: random.Random,
        uplink: UplinkConfig = _DEFAULT_UPLINK,
        pauses: Pauses | None = None,
    ) -> None:
        self._client_id = client_id
        self._pauses = pauses or Pauses()
        self._uplink = uplink
        self._inbox = Inbox(run_id=remembered.run, epoch=remembered.epoch)
        self._fetching = Fetching(
            self._inbox,
            adapters=remembered.adapters,
            kept=jobs.adapters_kept,
            policy=transfer,
            rng=rng,
        )
        self._settled = set(remembered.settled)
        self._uploads = Uploads(
            remembered.uploads, policy=transfer, rng=rng, goodput_bps=remembered.goodput_bps
        )
        self._responses = Responses()
        self._work = Work(
            client_id,
            inbox=self._inbox,
            fetching=self._fetching,
            responses=self._responses,
            policy=jobs,
            rng=rng,
            train_s=remembered.train_s,
        )
        self._logged = DeviceState.IDLE
        self._evaluation: EvalResponse | None = None
        self._told: PublishStatus | None = None
        self._progress_at = float("-inf")
        self._unsigned_until: float | None = None

    @property
    def state(self) -> DeviceState:
        """What the device is doing."""
        return self._work.state

    @property
    def told_state(self) -> DeviceState:
        """What its status says: a device that is paused says so, whatever it still finishes."""
        return DeviceState.PAUSED if self._pauses.is_paused else self._work.state

    @property
    def is_working(self) -> bool:
        """Whether the trainer has a task."""
        return self._work.is_running

    @property
    def waiting(self) -> int:
        """Updates without a receipt, and tasks without an update."""
        return len(self._uploads) + (self._work.job is not None)

    @property
    def newest_version(self) -> int:
        """The newest adapter version that it has heard of, -1 for none."""
        return self._inbox.newest_version

    @property
    def run_id(self) -> str:
        """The run that it takes part in, "" before one is announced."""
        return self._inbox.run_id or ""

    @property
    def round_id(self) -> int:
        """The round that it works for, 0 for none."""
        return self._work.job.round_id if self._work.job else self._uploads.newest_round

    @property
    def goodput_bps(self) -> float | None:
        """Bits per second of accepted segments, lately."""
        return self._uploads.goodput_bps

    def cost(self, command: TrainCommand, *, now: float) -> Cost:
        """Return what this round's update may take, by what the link gives at this moment."""
        job = self._work.job
        ours = job and job.round_id == command.round_id
        expires_at = job.expires_at if job and ours else now + command.deadline_s
        outlook = Outlook(
            left_s=expires_at - now,
            train_s=self._work.expected_s,
            goodput_bps=self.goodput_bps,
            waiting_bytes=self._uploads.waiting_bytes,
        )
        return cost_of(command, outlook, config=self._uplink)

    @property
    def standing(self) -> PublishStatus:
        """What its status says at this moment, told or not."""
        return self._status()

    @property
    def base_model(self) -> str | None:
        """The base model that the run names, None before it is announced."""
        return self._inbox.run.base_model if self._inbox.run else None

    def connected(self, now: float) -> list[Output]:
        """Tell everything anew: what was published before the link broke may be lost."""
        self._told = None
        outputs: list[Output] = [PublishProfile(self._work.hello)] if self._work.hello else []
        outputs.extend(self._responses.connected())
        outputs.extend(self._uploads.connected(now))
        outputs.extend(self._fetching.connected(now))
        return self._finish(outputs, now=now)

    def disconnected(self, now: float) -> list[Output]:
        """Go on without the link: the trainer works, the senders wait."""
        self._responses.disconnected()
        self._uploads.disconnected(now)
        self._fetching.disconnected()
        return self._finish([], now=now)

    def announced(self, run: RunAnnouncement, *, now: float) -> list[Output]:
        """Take part in this run; what belongs to another is cleared."""
        outputs: list[Output] = []
        if self._inbox.announced(run):
            outputs.extend(self._work.clear())
            self._uploads.clear()
            outputs.extend(self._fetching.clear())
            self._settled.clear()
            self._responses.clear()
            self._evaluation = None
            outputs.append(BeginRun(run.run))
        return self._finish(outputs, now=now)

    def model(self, status: ModelStatus, *, now: float) -> list[Output]:
        """Learn of the newest adapter version; no job is done with an older one."""
        self._inbox.model(status)
        return self._finish(self._work.outdated(), now=now)

    def train(self, command: TrainCommand, *, now: float) -> list[Output]:
        """Take a round's command; the same one may come many times."""
        if self._inbox.fences(command):
            return self._finish(self._outdated(command), now=now)
        self._inbox.hold_train(command, now=now)
        return self._finish([], now=now)

    def evaluate(self, command: EvalCommand, *, now: float) -> list[Output]:
        """Take a command to evaluate an adapter version; the same one may come many times."""
        if self._inbox.fences(command):
            return self._finish(self._outdated(command), now=now)
        self._inbox.hold_eval(command, now=now)
        return self._finish([], now=now)

    def evaluate_newest(self, *, deadline_s: float, now: float) -> list[Output]:
        """Evaluate the newest adapter version, as if the aggregator had asked for it."""
        assert self._inbox.run_id is not None
        version, epoch = self._inbox.newest_version, self._inbox.epoch
        command = EvalCommand(self._inbox.run_id, epoch, version, deadline_s)
        return self.evaluate(command, now=now)

    def adapter_manifest(
        self, manifest: AdapterManifest, *, delta: bool = False, now: float
    ) -> list[Output]:
        """Take the manifest of an adapter version or of its delta, wanted or not."""
        return self._finish(self._fetching.manifest(manifest, delta=delta, now=now), now=now)

    def adapter_segment(
        self, version: int, *, index: int, body: bytes, delta: bool = False, now: float
    ) -> list[Output]:
        """Take one segment of an adapter version or of its delta, wanted or not."""
        outputs = self._fetching.segment(version, index=index, body=body, delta=delta, now=now)
        return self._finish(outputs, now=now)

    def adapter_stored(self, adapter: Adapter, *, now: float) -> list[Output]:
        """Go on with the job that waited for this version, or for one that it leads to."""
        outputs: list[Output] = []
        if adapter.run == self._inbox.run_id:
            outputs.extend(self._fetching.stored(adapter, now=now))
            self._work.adapter_stored(adapter)
        return self._finish(outputs, now=now)

    def adapter_refused(
        self, version: int, *, reason: str, retryable: bool, now: float
    ) -> list[Output]:
        """Fetch a version that could not be used once more, or decline the job."""
        outputs: list[Output] = []
        if self._fetching.is_storing(version):
            outputs.extend(self._fetching.refused())
            outputs.extend(self._work.adapter_refused(reason, retryable=retryable, now=now))
        return self._finish(outputs, now=now)

    def trainer_ready(self, hello: TrainerHello, *, now: float) -> list[Output]:
        """Give the trainer what there is to do; after its restart the same task again."""
        self._work.trainer_ready(hello)
        outputs: list[Output] = [PublishProfile(hello)] if self._responses.linked else []
        return self._finish(outputs, now=now)

    def trainer_gone(self, now: float) -> list[Output]:
        """Wait for the trainer to come back; uploads go on."""
        return self._finish(self._work.trainer_gone(now), now=now)

    def trainer_unable(self, reason: str, text: str, *, now: float) -> list[Output]:
        """Decline what needs the trainer until it is ready again; uploads go on.

        Args:
            reason: The typed reason, for the aggregator.
            text: One line, for people.
            now: Monotonic seconds.
        """
        return self._finish(self._work.trainer_unable(reason, text, now=now), now=now)

    def task_progress(self, message: TaskProgress, *, now: float) -> list[Output]:
        """Tell how far the task is; whichever it is, the trainer does not hang."""
        self._work.heard(now)
        outputs: list[Output] = []
        job = self._work.running(message.task_id)
        if job and job.round_id and self._responses.linked:
            progress = Progress(
                round_id=job.round_id,
                step=message.step,
                steps=message.steps,
                loss=message.loss,
                eta_s=message.eta_s,
                micro_batch=message.micro_batch,
                out_of_memory=message.out_of_memory,
            )
            outputs.append(PublishProgress(progress))
        return self._finish(outputs, now=now)

    def trained(self, message: TrainResult, *, now: float) -> list[Output]:
        """Have the payload entered into the outbox."""
        outputs: list[Output] = []
        if self._work.running(message.task_id):
            outputs.append(CommitPayload(message.task_id, message.payload_file))
        return self._finish(outputs, now=now)

    def committed(self, upload: Upload, *, now: float) -> list[Output]:
        """Offer the update that is durable now."""
        outputs = self._work.trained(upload.manifest.round_id, now=now)
        outputs.extend(self._uploads.add(upload, linked=self._responses.linked, now=now))
        return self._finish(outputs, now=now)

    def task_failed(self, message: TaskFailed, *, now: float) -> list[Output]:
        """Try the task again after a while, at most as often as the policy says, or decline it."""
        outputs: list[Output] = []
        job = self._work.running(message.task_id)
        if job:
            log.warning("%s: %s failed: %s", self._client_id, message.task_id, message.text)
            retryable = message.retryable
            outputs.extend(self._work.failed(job, message.reason, retryable=retryable, now=now))
        return self._finish(outputs, now=now)

    def evaluated(self, message: EvalResult, *, now: float) -> list[Output]:
        """Answer the command that asked for it."""
        outputs: list[Output] = []
        job = self._work.running(message.task_id)
        if job:
            self._evaluation = EvalResponse(
                run=job.command.run,
                version=job.version,
                loss=message.loss,
                tokens=message.tokens,
                correct=message.correct,
            )
            outputs.extend(self._work.end())
            outputs.extend(self._responses.respond(self._evaluation))
        return self._finish(outputs, now=now)

    def answered(self, uid: str, message: Have | Want | Receipt, *, now: float) -> list[Output]:
        """Take the aggregator's answer about an update."""
        outputs: list[Output] = []
        if uid in self._uploads and not self._inbox.fenced(message.epoch):
            outputs.extend(self._inbox.advance_epoch(message.epoch))
            round_id = self._uploads.round_of(uid)
            outputs.extend(self._uploads.receive(uid, message, now=now))
            if uid not in self._uploads:
                self._settled.add(round_id)
            elif self._responses.linked and now >= self._progress_at + UPLOAD_PROGRESS_S:
                self._progress_at = now
                outputs.append(PublishProgress(self._uploads.progress(now)))
        return self._finish(outputs, now=now)

    def unverified(self, now: float) -> list[Output]:
        """Tell that something came which is not signed as it must be; nothing else follows of it.

        Whatever it was about goes on as if it had not come: an update is offered on.
        """
        self._unsigned_until = now + UNSIGNED_S
        return self._finish([], now=now)

    def payload_lost(self, uid: str, *, now: float) -> list[Output]:
        """Forget an update whose bytes the disk no longer has; its round may be trained again."""
        self._uploads.drop(uid)
        return self._finish([], now=now)

    def tick(self, now: float) -> list[Output]:
        """Do what is due; harmless when called early."""
        outputs = self._uploads.tick(now)
        if self._unsigned_until is not None and now >= self._unsigned_until:
            self._unsigned_until = None
        outputs.extend(self._work.tick(now))
        outputs.extend(self._fetching.tick(now))
        return self._finish(outputs, now=now)

    def next_wakeup(self) -> float | None:
        """Return the earliest moment at which `tick` has something to do."""
        wakeups = (
            self._uploads.next_wakeup(),
            self._fetching.next_wakeup(),
            self._work.next_wakeup(),
            self._unsigned_until,
        )
        return min((moment for moment in wakeups if moment is not None), default=None)

    def _finish(self, outputs: list[Output], *, now: float) -> list[Output]:
        outputs.extend(self._work.heed(self._pauses))
        if self._work.is_trainer_known:
            outputs.extend(self._take_train(now=now))
            outputs.extend(self._take_eval(now=now))
        outputs.extend(self._work.resume(now))
        if not self._uploads:
            self._work.move(Event.SETTLED)
        elif self._uploads.delivered:
            self._work.move(Event.DELIVERED)
        else:
            self._work.move(Event.SENDING)
        status = self._status()
        if status.state is not self._logged:
            states = status.state.value, self._logged.value
            log.info("%s round %d: %s, was %s", self._client_id, status.round_id, *states)
            self._logged = status.state
        if self._responses.linked and status != self._told:
            self._told = status
            outputs.append(status)
        return outputs

    def _status(self) -> PublishStatus:
        job = self._work.job
        round_id = job.round_id if job else self._uploads.newest_round
        stalled = self._work.is_fetching and self._fetching.stalled
        reason = FETCH_STALLED if stalled else self._uploads.stall or self._work.reason
        reason = reason if self._unsigned_until is None else UNSIGNED
        if self._pauses.is_paused:
            waiting = len(self._uploads)
            told = self._pauses.told(round_id=job.round_id if job else 0, waiting=waiting)
            reason = f"{told}; {self._uploads.stall}" if self._uploads.stall else told
        return PublishStatus(self.told_state, round_id, reason)

    def _take_train(self, *, now: float) -> list[Output]:
        held = self._inbox.next_train()
        if held is None:
            return []
        command, job = held.command, self._work.job
        busy = job is not None and (job.running or not job.round_id)
        if job and busy and command.round_id > job.round_id and not self._pauses.is_paused:
            return []
        self._inbox.drop_train()
        if self._inbox.fenced(command.epoch):
            return self._outdated(command)
        outputs = self._inbox.advance_epoch(command.epoch)
        uid = self._uploads.uid_of(command.round_id)
        taken = TrainResponse(run=command.run, round_id=command.round_id, accepted=True)
        if job and job.round_id == command.round_id:
            job.expires_at = held.arrived_at + command.deadline_s
            outputs.extend(self._responses.respond(self.cost(command, now=now).told_in(taken)))
        elif uid:
            # It was trained once, and that is enough: whatever is missing is offered again.
            outputs.extend(self._responses.respond(taken))
            outputs.extend(self._uploads.offer(uid, now=now) if self._responses.linked else [])
        elif command.round_id in self._settled:
            # Nothing more comes from here, so nobody should wait for it.
            outputs.extend(self._responses.respond(decline(command, "settled")))
        elif command.round_id < self._newest_round():
            log.info("%s: ignored an old command for round %d", self._client_id, command.round_id)
        elif self._pauses.is_paused:
            outputs.extend(self._responses.respond(decline(command, PAUSED)))
        elif reason := self._work.unfit(command.base_version) or self._unknown_codec():
            outputs.extend(self._responses.respond(decline(command, reason)))
        else:
            outputs.extend(self._work.end() if job else [])
            outputs.extend(self._responses.respond(self.cost(command, now=now).told_in(taken)))
            outputs.extend(self._work.begin(held, now=now))
        return outputs

    def _take_eval(self, *, now: float) -> list[Output]:
        held = self._inbox.next_eval()
        if held is None or self._work.job:
            return []
        self._inbox.drop_eval()
        command, known = held.command, self._evaluation
        if self._inbox.fenced(command.epoch):
            return self._outdated(command)
        outputs = self._inbox.advance_epoch(command.epoch)
        if known and known.version == command.version:
            outputs.extend(self._responses.respond(known))
        elif self._pauses.is_paused:
            outputs.extend(self._responses.respond(decline(command, PAUSED)))
        elif reason := self._work.unfit(command.version):
            outputs.extend(self._responses.respond(decline(command, reason)))
        else:
            outputs.extend(self._work.begin(held, now=now))
        return outputs

    def _newest_round(self) -> int:
        job_round = self._work.job.round_id if self._work.job else 0
        return max(job_round, self._uploads.newest_round, *self._settled, 0)

    def _unknown_codec(self) -> str:
        """Return the typed reason where no codec here has the name that the run gives."""
        return "codec" if self._inbox.run and self._inbox.run.codec not in CODECS else ""

    def _outdated(self, command: TrainCommand | EvalCommand) -> list[Output]:
        first = self._inbox.is_declined_first(command)
        return (
            self._responses.respond(decline(command, "epoch", epoch=command.epoch)) if first else []
        )
