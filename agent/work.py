"""The device's one job at a time: from its command over its adapter version to the trainer. Pure.

`agent.session` decides which commands become jobs; what becomes of a job is decided here.
"""

from __future__ import annotations

import logging
import random

from agent.budget import TrainingTimes
from agent.fetching import Fetching
from agent.inbox import HeldEval, HeldTrain, Inbox
from agent.job import Job, JobPolicy
from agent.outputs import Adapter, EndTrainer, Output, RememberTraining
from agent.pauses import PAUSED, TOO_HOT, Pauses
from agent.responses import Responses
from agent.states import TRANSITIONS, Event
from agent.tasks import TrainerHello
from transport.control import DeviceState

log = logging.getLogger(__name__)


class Work:
    """A job or none, the trainer that does it, and the device's state, which follows from both.

    Attributes:
        job: What the trainer is wanted for; None for nothing.
        state: What the device is doing.
        reason: Why the last job was given up, or the trainer cannot work; "" after a new one began.
        hello: What the trainer said of itself; None while it is away.
    """

    def __init__(
        self,
        client_id: str,
        *,
        inbox: Inbox,
        fetching: Fetching,
        responses: Responses,
        policy: JobPolicy,
        rng: random.Random,
        train_s: float | None,
    ) -> None:
        self._client_id = client_id
        self._inbox = inbox
        self._fetching = fetching
        self._responses = responses
        self._policy = policy
        self._rng = rng
        self._times = TrainingTimes(remembered_s=train_s)
        self._trainer_fault = ""
        self._heard_at = float("-inf")
        self.job: Job | None = None
        self.state = DeviceState.IDLE
        self.reason = ""
        self.hello: TrainerHello | None = None

    @property
    def is_running(self) -> bool:
        """Whether the trainer has a task."""
        return self.job is not None and self.job.running

    @property
    def is_fetching(self) -> bool:
        """Whether the job waits for its adapter version."""
        return self.state is DeviceState.FETCHING

    @property
    def is_trainer_known(self) -> bool:
        """Whether the trainer is there, or why it is not: else commands wait to be answered."""
        return self.hello is not None or bool(self._trainer_fault)

    @property
    def expected_s(self) -> float:
        """How long a training takes, 0.0 while nothing is known."""
        return self._times.expected_s or 0.0

    def move(self, event: Event) -> None:
        """Go on to the next state."""
        self.state = TRANSITIONS[self.state][event]

    def clear(self) -> list[Output]:
        """Drop the job and what was learnt: another run begins."""
        outputs = self.end() if self.job else []
        self._times.clear()
        return outputs

    def outdated(self) -> list[Output]:
        """Decline a job whose adapter version is no longer the newest."""
        job = self.job
        if job and self.is_fetching and job.version < self._inbox.newest_version:
            return self.decline(job, "stale")
        return []

    def adapter_stored(self, adapter: Adapter) -> None:
        """Go on with the job if it waited for this version."""
        if self.job and self.is_fetching and self.job.version == adapter.version:
            self.move(Event.ADAPTER)

    def adapter_refused(self, reason: str, *, retryable: bool, now: float) -> list[Output]:
        """Have the version fetched once more, or decline the job."""
        if self.job and self.is_fetching:
            return self.failed(self.job, reason, retryable=retryable, now=now)
        return []

    def trainer_ready(self, hello: TrainerHello) -> None:
        """Have a trainer."""
        self.hello = hello
        if self._trainer_fault:
            self._trainer_fault = self.reason = ""

    def trainer_gone(self, now: float) -> list[Output]:
        """Have no trainer; its task is tried again."""
        self.hello = None
        if self.job and self.job.running:
            return self.failed(self.job, "trainer-lost", retryable=True, now=now)
        return []

    def trainer_unable(self, reason: str, text: str, *, now: float) -> list[Output]:
        """Decline what needs the trainer until it is ready again."""
        self.hello = None
        outputs: list[Output] = []
        if self.job and self.job.running:
            outputs = self.failed(self.job, reason, retryable=False, now=now)
        self._trainer_fault, self.reason = reason, text
        return outputs

    def heard(self, now: float) -> None:
        """Know that the trainer does not hang."""
        self._heard_at = now

    def running(self, task_id: str) -> Job | None:
        """Return the job if it is this task and the trainer has it."""
        job = self.job
        return job if job and job.running and job.task_id == task_id else None

    def trained(self, round_id: int, *, now: float) -> list[Output]:
        """End a round's job, whose update is durable now."""
        job = self.job
        if job is None or not job.running or job.round_id != round_id:
            return []
        outputs = self.end()
        expected_s = self._times.ended(round_id, now=now)
        return outputs if expected_s is None else [*outputs, RememberTraining(expected_s)]

    def unfit(self, version: int) -> str:
        """Return the typed reason why this device cannot do a command, "" where it can."""
        if version < self._inbox.newest_version:
            return "stale"
        if self.hello is None:
            return self._trainer_fault
        if self._inbox.run and self.hello.base_digest != self._inbox.run.base_digest:
            return "base"
        return ""

    def begin(self, held: HeldTrain | HeldEval, *, now: float) -> list[Output]:
        """Make a command the job, and fetch its adapter version if it is not here."""
        self.job = Job(held.command, held.arrived_at + held.command.deadline_s)
        self.reason = ""
        self.move(Event.COMMAND)
        if self._fetching.held(self.job.version):
            self.move(Event.ADAPTER)
            return []
        return self._fetching.want(self.job.version, now=now)

    def resume(self, now: float) -> list[Output]:
        """Give the job to the trainer, or fetch for it again, if that is what it waits for."""
        job = self.job
        if job is None or job.running or now < (job.retry_at or now):
            return []
        if self.is_fetching and self._fetching.busy:
            return []
        job.retry_at = None
        if self.is_fetching:
            return self._fetching.want(job.version, now=now)
        adapter = self._fetching.held(job.version)
        if self.hello is None or self._inbox.run is None:
            return []
        if adapter is None:
            return self.decline(job, "adapter")
        job.running = True
        self._heard_at = now
        self._times.began(job.round_id, now=now)
        return [job.start(self._inbox.run, adapter)]

    def failed(self, job: Job, reason: str, *, retryable: bool, now: float) -> list[Output]:
        """Try the job again after a while, at most as often as the policy says, or decline it."""
        job.running = False
        job.failures += 1
        if not retryable or job.failures > self._policy.retries:
            return self.decline(job, reason)
        job.retry_at = now + self._policy.delay_s(job.failures, self._rng)
        log.warning("%s: %s will be tried again (%s)", self._client_id, job.task_id, reason)
        return []

    def decline(self, job: Job, reason: str) -> list[Output]:
        """Give the job back, and say why."""
        log.warning("%s: %s declined (%s)", self._client_id, job.task_id, reason)
        outputs = self.end()
        self.reason = reason
        return [*outputs, *self._responses.respond(job.declined(reason))]

    def end(self) -> list[Output]:
        """Have no job."""
        self.job = None
        self.move(Event.JOB_OVER)
        return self._fetching.release()

    def heed(self, pauses: Pauses) -> list[Output]:
        """Give back a task that has not begun, and in great heat one that has."""
        job = self.job
        if job is None or not pauses.is_paused:
            return []
        if not job.running:
            return [*self.end(), *self._responses.respond(job.declined(PAUSED))]
        if not pauses.gives_up:
            return []
        log.warning("%s: %s is given up: %s", self._client_id, job.task_id, pauses.told())
        return [*self.end(), *self._responses.respond(job.declined(TOO_HOT)), EndTrainer()]

    def tick(self, now: float) -> list[Output]:
        """Give up what takes too long."""
        job = self.job
        if job and self.is_fetching and now >= job.expires_at:
            return self.decline(job, "deadline")
        if job and job.running and now >= self._heard_at + self._policy.silence_s:
            silent_s = now - self._heard_at
            log.warning("%s: no word of %s for %.0f s", self._client_id, job.task_id, silent_s)
            self._heard_at = now
            return [EndTrainer()]
        return []

    def next_wakeup(self) -> float | None:
        """Return the earliest moment at which `tick` or `resume` has something to do."""
        job = self.job
        if job is None:
            return None
        wakeup = self._heard_at + self._policy.silence_s if job.running else job.retry_at
        if not self.is_fetching:
            return wakeup
        return job.expires_at if wakeup is None else min(wakeup, job.expires_at)
