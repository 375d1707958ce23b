"""What the aggregator says of the run: its announcement, its epoch, and the newest commands.

Pure. A command may come before the run that it speaks of and before the trainer is ready, so the
newest of each kind is held until the session can answer it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agent.outputs import Output, RememberEpoch
from transport.control import EvalCommand, ModelStatus, RunAnnouncement, TrainCommand

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldTrain:
    """A training command, and when it came."""

    command: TrainCommand
    arrived_at: float


@dataclass(frozen=True, slots=True)
class HeldEval:
    """An evaluation command, and when it came."""

    command: EvalCommand
    arrived_at: float


class Inbox:
    """Holds what was said last, and knows a fenced-off aggregator by its epoch."""

    def __init__(self, *, run_id: str | None, epoch: int) -> None:
        self.run_id = run_id
        self.run: RunAnnouncement | None = None
        self.epoch = epoch
        self._model: ModelStatus | None = None
        self._train: HeldTrain | None = None
        self._eval: HeldEval | None = None
        # Kind of command → the last that was declined for its epoch.
        self._declined: dict[type, TrainCommand | EvalCommand] = {}

    @property
    def newest_version(self) -> int:
        """The newest adapter version of this run, -1 where none is known."""
        if self._model is None or self._model.run != self.run_id:
            return -1
        return self._model.version

    def chain_from(self, version: int) -> int:
        """Return the oldest version from which deltas lead to this one, itself where none do."""
        model = self._model
        if model is None or model.run != self.run_id or model.version != version:
            return version - 1  # There may be one from the version before.
        if model.chain_from is not None and model.chain_bytes <= model.bytes:
            return model.chain_from
        return version - 1 if model.delta_segments else version

    def announced(self, run: RunAnnouncement) -> bool:
        """Take a run's announcement; return whether the run is another than before."""
        other = run.run != self.run_id
        if other:
            # Epochs count the starts of one run's aggregator: another run begins to count anew.
            self.epoch = 0
            self.run_id = run.run
        self.run = run
        return other

    def model(self, status: ModelStatus) -> None:
        """Take the newest adapter version's status."""
        self._model = status

    def hold_train(self, command: TrainCommand, *, now: float) -> None:
        """Hold a training command unless a newer round of its run is held already."""
        held = self._train.command if self._train else None
        if held is None or held.run != command.run or held.round_id <= command.round_id:
            self._train = HeldTrain(command, now)

    def hold_eval(self, command: EvalCommand, *, now: float) -> None:
        """Hold an evaluation command unless a newer version of its run is held already."""
        held = self._eval.command if self._eval else None
        if held is None or held.run != command.run or held.version <= command.version:
            self._eval = HeldEval(command, now)

    def next_train(self) -> HeldTrain | None:
        """Return the training command of this run that is to be answered."""
        if self._train and self.run and self._train.command.run == self.run.run:
            return self._train
        return None

    def next_eval(self) -> HeldEval | None:
        """Return the evaluation command of this run that is to be answered."""
        if self._eval and self.run and self._eval.command.run == self.run.run:
            return self._eval
        return None

    def drop_train(self) -> None:
        """The training command is answered, or will never be."""
        self._train = None

    def drop_eval(self) -> None:
        """The evaluation command is answered, or will never be."""
        self._eval = None

    def fenced(self, epoch: int) -> bool:
        """Return whether this epoch is that of an aggregator that another one has replaced."""
        if epoch < self.epoch:
            log.warning("ignored epoch %d of the aggregator: %d was seen", epoch, self.epoch)
            return True
        return False

    def fences(self, command: TrainCommand | EvalCommand) -> bool:
        """Return whether a command of this run has such an epoch."""
        return command.run == self.run_id and self.fenced(command.epoch)

    def is_declined_first(self, command: TrainCommand | EvalCommand) -> bool:
        """Note that a command is declined for its epoch; return whether that is still to be said.

        It may come many times, with less time left.
        """
        before = self._declined.get(type(command))
        self._declined[type(command)] = command
        return before is None or _work(before) != _work(command)

    def advance_epoch(self, epoch: int) -> list[Output]:
        """Learn of a newer epoch."""
        if epoch <= self.epoch:
            return []
        self.epoch = epoch
        return [RememberEpoch(epoch)]


def _work(command: TrainCommand | EvalCommand) -> tuple[str, int, int]:
    number = command.round_id if isinstance(command, TrainCommand) else command.version
    return command.run, command.epoch, number
