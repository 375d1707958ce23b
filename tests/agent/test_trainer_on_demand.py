"""The client of a trainer on demand, against a socket of the test."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import trainer_on_demand
from agent.config import AgentConfig
from agent.tasks import (
    EvalResult,
    EvalTask,
    TaskFailed,
    TaskProgress,
    TrainerHello,
    TrainerMessage,
    TrainerRefusal,
    decode_line,
    encode_line,
)
from agent.trainer_client import FromTrainer, TrainerEvent, TrainerUnable
from agent.trainer_on_demand import TrainerOnDemand
from transport.backoff import Backoff
from transport.control import TrainingPlan

HELLO = TrainerHello(0, "2.4", "", 90, 10, "ab" * 32)
AT_ONCE = Backoff(first_s=0.0, cap_s=0.0)


def task(number: int) -> EvalTask:
    plan = TrainingPlan(local_steps=1)
    return EvalTask(f"eval-{number}", "r", number, "ab" * 32, Path("/a"), "{}", (), plan)


def result(number: int) -> EvalResult:
    return EvalResult(f"eval-{number}", 1.0, 2, 1)


class Trainer:
    """The test's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        self.socket = connection
        self.lines = connection.makefile("rb")

    def say(self, *messages: TrainerMessage) -> None:
        for message in messages:
            self.socket.sendall(encode_line(message))

    def hear(self) -> TrainerMessage | None:
        line = self.lines.readline()
        return decode_line(line) if line else None

    def end(self) -> None:
        self.lines.close()
        self.socket.close()


class Device:
    """A client whose events a test takes one by one, and the socket that it connects to."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.events: queue.SimpleQueue[TrainerEvent] = queue.SimpleQueue()
        options = {
            "federation": "fed",
            "client_id": "dev-1",
            "state_dir": folder,
            "data": {"train": "/t"},
            "trainer": "service",
        }
        self.config = AgentConfig.model_validate(options)
        self.listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        self.listener.bind(str(folder / "trainer.sock"))
        self.listener.listen()
        self.listener.settimeout(20)
        self.stack = stack

    def start(self, *, greet: bool = False) -> TrainerOnDemand:
        client = TrainerOnDemand(
            self.config, deliver=self.events.put, rng=random.Random(1), greet=greet
        )
        client.start()
        self.stack.callback(client.close)
        return client

    def accept(self) -> Trainer:
        trainer = Trainer(self.listener.accept()[0])
        self.stack.callback(trainer.end)
        return trainer

    def next(self) -> TrainerEvent:
        return self.events.get(timeout=20)

    def failure(self) -> TaskFailed:
        event = self.next()
        assert isinstance(event, FromTrainer)
        assert isinstance(event.message, TaskFailed)
        return event.message


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(trainer_on_demand, "_RESTART", AT_ONCE)
    monkeypatch.setattr(trainer_on_demand, "_REFUSED", AT_ONCE)
    monkeypatch.setattr(trainer_on_demand, "_CONNECT_S", 0.1)
    monkeypatch.setattr(trainer_on_demand, "_TRY_S", 0.02)
    with contextlib.ExitStack() as stack:
        yield Device(tmp_path, stack)


def test_a_task_is_done_over_a_connection_of_its_own(device: Device) -> None:
    client = device.start()
    for number in (1, 2):
        client.send(task(number))
        trainer = device.accept()
        trainer.say(HELLO)
        assert trainer.hear() == task(number)
        progress = TaskProgress(f"eval-{number}", 1, 2, None, None)
        trainer.say(progress, result(number))
        assert device.next() == FromTrainer(HELLO)
        assert device.next() == FromTrainer(progress)
        assert device.next() == FromTrainer(result(number))
        assert trainer.hear() is None  # so that the trainer may become idle


def test_nothing_is_connected_without_a_task(device: Device) -> None:
    device.start()
    device.listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        device.accept()


def test_a_trainer_that_nobody_knows_is_started_once_for_its_hello(device: Device) -> None:
    device.start(greet=True)
    trainer = device.accept()
    trainer.say(HELLO)
    assert device.next() == FromTrainer(HELLO)
    assert trainer.hear() is None
    device.listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        device.accept()


def test_a_trainer_that_ends_costs_a_try(device: Device) -> None:
    client = device.start()
    client.send(task(1))
    trainer = device.accept()
    trainer.say(HELLO)
    assert trainer.hear() == task(1)
    trainer.say(TaskProgress("eval-1", 1, 2, None, None))
    trainer.end()
    device.next()
    device.next()
    failure = device.failure()
    assert (failure.task_id, failure.reason, failure.retryable) == ("eval-1", "trainer-lost", True)
    client.send(task(1))
    assert device.accept().socket.getblocking()


def test_a_trainer_that_was_just_leaving_costs_nothing(device: Device) -> None:
    device.start().send(task(1))
    leaving = device.accept()
    leaving.say(HELLO)
    assert leaving.hear() == task(1)
    leaving.end()
    trainer = device.accept()
    trainer.say(HELLO)
    assert trainer.hear() == task(1)
    trainer.say(result(1))
    assert [device.next() for _ in range(3)][-1] == FromTrainer(result(1))


def test_one_that_leaves_each_time_is_no_coincidence(device: Device) -> None:
    device.start().send(task(1))
    for _ in range(2):
        trainer = device.accept()
        trainer.say(HELLO)
        trainer.hear()
        trainer.end()
        device.next()
    assert device.failure().reason == "trainer-lost"


def test_a_trainer_that_cannot_work_says_why_and_is_tried_until_it_can(device: Device) -> None:
    client = device.start()
    client.send(task(1))
    for _ in range(2):
        device.accept().say(TrainerRefusal("trainer-config", "no text", retryable=False))
        assert device.next() == TrainerUnable("trainer-config", "no text")
    device.accept().say(HELLO)
    assert device.next() == FromTrainer(HELLO)


def test_a_refusal_that_may_pass_costs_a_try(device: Device) -> None:
    device.start().send(task(1))
    device.accept().say(TrainerRefusal("trainer-busy", "memory is short", retryable=True))
    failure = device.failure()
    assert (failure.reason, failure.text) == ("trainer-busy", "memory is short")


def test_a_trainer_that_never_said_hello_is_given_up_for_the_time_being(device: Device) -> None:
    device.start(greet=True)
    for _ in range(3):
        device.accept().end()
    event = device.next()
    assert isinstance(event, TrainerUnable)
    assert event.reason == "trainer-lost"
    device.accept().say(HELLO)
    assert device.next() == FromTrainer(HELLO)


def test_a_socket_that_is_not_there_is_named(device: Device) -> None:
    device.config.trainer_socket.unlink()
    device.start().send(task(1))
    assert "fedfstq-trainer@dev-1.socket" in device.failure().text


def test_after_many_ends_a_task_is_given_back_at_once(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_on_demand, "_RESTART", Backoff(first_s=1e6, cap_s=1e6))
    client = device.start()
    client.send(task(1))
    device.accept().end()
    assert device.failure().task_id == "eval-1"
    client.send(task(2))
    failure = device.failure()
    assert failure.task_id == "eval-2"
    assert "tried again in" in failure.text


def test_a_newer_task_takes_the_place_of_an_older_one(device: Device) -> None:
    client = device.start()
    client.send(task(1))
    trainer = device.accept()
    trainer.say(HELLO)
    assert trainer.hear() == task(1)
    client.send(task(2))
    assert trainer.hear() is None
    newer = device.accept()
    newer.say(HELLO)
    assert newer.hear() == task(2)
    newer.say(TaskFailed("eval-1", "cancelled", "", retryable=True), result(2))
    assert [device.next() for _ in range(3)][-1] == FromTrainer(result(2))
    assert device.events.empty()


def test_a_trainer_that_hangs_is_killed_by_its_own_id(device: Device) -> None:
    """The socket's credentials would name systemd, which listens on it."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as hanging:
        client = device.start()
        client.send(task(1))
        trainer = device.accept()
        trainer.say(TrainerHello(hanging.pid, "2.4", "", 90, 10, "ab" * 32))
        assert trainer.hear() == task(1)
        device.next()
        client.kill()
        assert hanging.wait(20) == -9
    assert device.failure().task_id == "eval-1"


def test_lines_that_are_none_end_the_connection(device: Device) -> None:
    device.start().send(task(1))
    trainer = device.accept()
    trainer.socket.sendall(b"nonsense\n")
    assert device.failure().reason == "trainer-lost"
    assert trainer.hear() is None


def test_killing_and_closing_without_a_trainer_do_nothing(device: Device) -> None:
    client: Any = device.start()
    client.kill()
    client.close()
    assert device.events.empty()
