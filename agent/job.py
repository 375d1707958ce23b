"""The one thing that the trainer is wanted for: a round's training, or an evaluation.

Pure, and without decisions: `agent.work` moves it.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from agent.outputs import Adapter, StartEvaluation, StartTraining
from transport.control import (
    EvalCommand,
    EvalResponse,
    RunAnnouncement,
    TrainCommand,
    TrainResponse,
)


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """How stubborn a device is.

    Attributes:
        retries: Failures after which a job is declined, less one.
        retry_s: Seconds before the first retry; each further one waits twice as long.
        retry_cap_s: The longest wait.
        silence_s: A trainer at work that says nothing for so long hangs, and is ended. It tells of
            every optimizer step, and one of many large batches takes minutes on a small board.
        adapters_kept: Adapter versions that a device holds: the newest, and the one before it, from
            which an update that is trained again must start.
    """

    retries: int = 3
    retry_s: float = 2.0
    retry_cap_s: float = 60.0
    silence_s: float = 1800.0
    adapters_kept: int = 2

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after so many failures, half of them left to chance."""
        longest_s = min(self.retry_cap_s, self.retry_s * 2.0 ** (failures - 1))
        return longest_s * rng.uniform(0.5, 1.0)


@dataclass(slots=True)
class Job:
    """One command on its way through fetching and training.

    Attributes:
        expires_at: The deadline by this device's clock, at which it gives up fetching.
        failures: How often it failed.
        retry_at: When it is tried again; None at once.
        running: The trainer has it.
    """

    command: TrainCommand | EvalCommand
    expires_at: float
    failures: int = 0
    retry_at: float | None = None
    running: bool = False

    @property
    def round_id(self) -> int:
        """The round that it is for, 0 for an evaluation."""
        return self.command.round_id if isinstance(self.command, TrainCommand) else 0

    @property
    def version(self) -> int:
        """The adapter version that it needs."""
        command = self.command
        return command.base_version if isinstance(command, TrainCommand) else command.version

    @property
    def task_id(self) -> str:
        """The same for the same work, over every restart."""
        if self.round_id:
            return f"train-{self.command.run}-{self.round_id}"
        return f"eval-{self.command.run}-{self.version}"

    def start(self, run: RunAnnouncement, adapter: Adapter) -> StartTraining | StartEvaluation:
        """Return what the trainer is to do."""
        match self.command:
            case TrainCommand():
                return StartTraining(self.task_id, self.command, run, adapter)
            case EvalCommand():
                return StartEvaluation(self.task_id, self.command, run, adapter)

    def declined(self, reason: str) -> TrainResponse | EvalResponse:
        """Return the answer that gives the job back."""
        return decline(self.command, reason)


def decline(
    command: TrainCommand | EvalCommand, reason: str, *, epoch: int = -1
) -> TrainResponse | EvalResponse:
    """Return the answer of a device that does not do what a command asks; `epoch` where it says."""
    match command:
        case TrainCommand():
            return TrainResponse(
                run=command.run,
                round_id=command.round_id,
                accepted=False,
                reason=reason,
                epoch=epoch,
            )
        case EvalCommand():
            return EvalResponse(
                run=command.run,
                version=command.version,
                loss=0.0,
                tokens=0,
                correct=0,
                reason=reason,
                epoch=epoch,
            )


def device_seed(run_seed: int, *, client_id: str, round_id: int) -> int:
    """Return a seed below 2**63 that no other device and no other round of the run has.

    Codecs with random rotations draw them from it: errors average out over devices and rounds only
    where these are independent.
    """
    digest = hashlib.sha256(f"{run_seed}/{round_id}/{client_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
