"""A trainer that makes payloads up: it takes its time, fails, hangs on to tasks, and dies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.outputs import StartEvaluation, StartTraining
from agent.tasks import EvalResult, TaskFailed, TrainResult
from tools.simulate import payloads
from tools.simulate.crash import Crash
from tools.simulate.payloads import Payload

if TYPE_CHECKING:
    from tools.simulate.device import Device

# The model has no paths: run and round name a payload.
FILE = Path("payload")


@dataclass(slots=True)
class Traits:
    """What a device is like.

    Attributes:
        train_s: Seconds that it trains.
        load_s: Seconds that its trainer takes to load the base model.
        segments: Of its updates.
        examples: What it trains on.
        stays_away: It takes its first command, and never comes back.
        trainer_is_service: The trainer is a process of its own: it outlives the agent's.
        failures: Share of tasks that fail, and may be tried again.
    """

    train_s: float = 10.0
    load_s: float = 1.0
    segments: int = 3
    examples: int = 10
    stays_away: bool = False
    trainer_is_service: bool = False
    failures: float = 0.0


@dataclass(slots=True, eq=False)
class _Task:
    """What the trainer is at."""

    output: StartTraining | StartEvaluation
    leftovers: tuple[int, ...] = ()


class Trainer:
    """The trainer of one device, which may outlive the agent's process.

    Attributes:
        start_number: Which start of it this is; 0 while there is none.
    """

    def __init__(self, device: Device) -> None:
        self.start_number = 0
        self._device = device
        self._starts = 0
        self._nonce = 0
        self._task: _Task | None = None

    def attach(self) -> None:
        """Have an agent that has started: say hello to it, after having loaded the model."""
        device = self._device
        if self.start_number and device.traits.trainer_is_service:
            device.world.clock.after(0.1, self._hello, self.start_number)
        else:
            self._start()

    def detach(self) -> None:
        """Have an agent that has ended: end as well, but for a service."""
        if not self._device.traits.trainer_is_service:
            self.end()

    def end(self) -> None:
        """End, with whatever was being done."""
        self.start_number = 0
        self._task = None

    def crash(self) -> None:
        """Die, as on a board that is out of memory; the agent starts it again."""
        if not self.start_number:
            return
        self.end()
        device = self._device
        device.step(lambda session: session.trainer_gone(device.now))
        if self.start_number == 0:
            self._start()

    def give(self, output: StartTraining | StartEvaluation) -> None:
        """Take a task; the same one again changes nothing."""
        device, task = self._device, self._task
        if not self.start_number or (task and task.output.task_id == output.task_id):
            return
        self._task = task = _Task(output, tuple(device.disk.outbox.left))
        seconds = 1.0
        if isinstance(output, StartTraining):
            if device.traits.stays_away:
                device.gone = True
                device.world.clock.after(0.0, device.stop)
                return
            known = (output.command.run, output.command.round_id) in device.disk.outbox.files
            seconds = 0.1 if known else device.traits.train_s * device.rng.uniform(0.8, 1.2)
        device.world.clock.after(seconds, self._done, self.start_number, task)

    def _start(self) -> None:
        self._starts += 1
        self.start_number = self._starts
        self._task = None
        device = self._device
        device.world.clock.after(device.traits.load_s, self._hello, self.start_number)

    def _hello(self, start_number: int) -> None:
        device = self._device
        if start_number == self.start_number:
            device.step(lambda session: session.trainer_ready(device.world.hello, now=device.now))

    def _done(self, start_number: int, task: _Task) -> None:
        """Finish a task."""
        if start_number != self.start_number or task is not self._task:
            return
        device, output = self._device, task.output
        self._task = None
        if isinstance(output, StartEvaluation):
            result = EvalResult(output.task_id, 2.5, 100, 20)
            device.step(lambda session: session.evaluated(result, now=device.now))
            return
        if device.traits.failures and device.rng.random() < device.traits.failures:
            failure = TaskFailed(output.task_id, "memory", "out of memory", retryable=True)
            device.step(lambda session: session.task_failed(failure, now=device.now))
            return
        try:
            self._write(output, task.leftovers)
        except Crash:
            device.stop()
            self.end()
            device.world.restart(device)
            return
        trained = TrainResult(output.task_id, FILE)
        device.step(lambda session: session.trained(trained, now=device.now))

    def _write(self, output: StartTraining, leftovers: tuple[int, ...]) -> None:
        """Leave a payload where the task says; one that is there already stays."""
        device, command = self._device, output.command
        truth, outbox = device.world.truth, device.disk.outbox
        name = (command.run, command.round_id)
        if name in outbox.files:
            return
        device.reach("trainer-file-before")
        self._nonce += 1
        own = truth.new_units(device.traits.segments)
        left = [
            unit
            for number in leftovers
            if number in outbox.left
            for unit in outbox.left[number].units()
        ]
        payload = Payload(
            client_id=device.client_id,
            run=command.run,
            round_id=command.round_id,
            nonce=self._nonce,
            bodies=payloads.bodies_of(
                device.client_id,
                command.round_id,
                nonce=self._nonce,
                segments=device.traits.segments,
            ),
            leftovers_used=leftovers,
            own=own,
            cargo=payloads.load(own, left),
        )
        device.reach("trainer-file-written")
        outbox.files[name] = payload
        truth.stored(payload)
        device.reach("trainer-file-renamed")
