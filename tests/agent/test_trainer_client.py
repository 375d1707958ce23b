"""The client against children that are a few lines of Python, and against a socket of the test."""

from __future__ import annotations

import dataclasses
import queue
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig
from agent.tasks import (
    TaskFailed,
    TaskProgress,
    TrainerHello,
    TrainResult,
    decode_line,
    encode_line,
)
from agent.trainer_client import (
    FromTrainer,
    TrainerClient,
    TrainerEvent,
    TrainerGone,
    TrainerUnusable,
)

HELLO = TrainerHello(1, "2.4", "", 90, 10, "ab" * 32)
ASLEEP = "import time; time.sleep(600)"

# A child that says hello to whoever connects, and ends when its leash is cut.
CHILD = """
import os, socket, sys, threading
from agent.config import AgentConfig
from agent.tasks import TrainerHello, encode_line
config = AgentConfig.model_validate_json(sys.stdin.buffer.readline())
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
config.trainer_socket.unlink(missing_ok=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind(str(config.trainer_socket))
listener.listen(1)
connection, _ = listener.accept()
connection.sendall(encode_line(TrainerHello(os.getpid(), "2.4", "", 90, 10, config.model)))
print(connection.recv(1), file=sys.stderr)
os._exit({code})
"""


class Client:
    """A client whose events a test takes one by one."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.events: queue.SimpleQueue[TrainerEvent] = queue.SimpleQueue()
        self.config = AgentConfig.model_validate(
            {
                "federation": "fed",
                "client_id": "dev-1",
                "state_dir": folder,
                "data": {"train": "/t"},
                "model": "base",
            }
        )
        self.client = TrainerClient(
            self.config, deliver=self.events.put, rng=random.Random(1), command=command
        )
        self.client.start()

    def next(self) -> TrainerEvent:
        return self.events.get(timeout=20)

    @property
    def hello(self) -> TrainerHello:
        """The child's, said by the test in its place."""
        assert self.client._child
        return dataclasses.replace(HELLO, pid=self.client._child.pid)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(program: str = ASLEEP) -> Client:
        clients.append(Client(tmp_path, [sys.executable, "-c", program]))
        return clients[-1]

    yield make
    for each in clients:
        each.client.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "trainer.sock"))
        listener.listen(1)
        listener.settimeout(20)
        yield listener


def test_a_child_gets_its_configuration_and_says_hello(client: Any) -> None:
    running = client(program=CHILD.format(code=0))
    match running.next():
        case FromTrainer(TrainerHello(base_digest=model)):
            assert model == "base"
        case other:
            pytest.fail(f"{other}")


def test_a_child_that_dies_is_started_again(client: Any) -> None:
    running = client(program=CHILD.format(code=9))
    pids = []
    for _ in range(2):
        match running.next():
            case FromTrainer(TrainerHello(pid=pid)):
                pids.append(pid)
            case other:
                pytest.fail(f"{other}")
        running.client.send(TrainResult("any", Path("/p")))
        assert running.next() == TrainerGone()
    assert len(set(pids)) == 2


def test_a_child_with_a_bad_configuration_is_not_started_again(client: Any) -> None:
    running = client(program="import sys; sys.stdin.readline(); sys.exit(78)")
    assert running.next() == TrainerUnusable()
    assert running.events.empty()


def test_a_child_that_never_reads_is_started_again(
    client: Any, tmp_path: Path, wait_until: Any
) -> None:
    starts = tmp_path / "starts"
    starts.touch()
    running = client(program=f"open({str(starts)!r}, 'a').write('x')")
    wait_until(lambda: len(starts.read_text()) >= 2)
    assert running.events.empty()


def test_a_child_that_does_not_end_by_itself_is_ended(
    client: Any, tmp_path: Path, wait_until: Any
) -> None:
    program = f"import time; open({str(tmp_path / 'up')!r}, 'w'); time.sleep(600)"
    running = client(program=program)
    wait_until((tmp_path / "up").exists)
    running.client.close()
    assert not running.client._thread.is_alive()


def test_a_trainer_is_spoken_to_over_its_socket(client: Any, service: socket.socket) -> None:
    running = client()
    connection, _ = service.accept()
    with connection, connection.makefile("rb") as lines:
        connection.sendall(encode_line(running.hello))
        assert running.next() == FromTrainer(running.hello)
        running.client.send(TrainResult("t", Path("/p")))
        assert decode_line(lines.readline()) == TrainResult("t", Path("/p"))
        connection.sendall(encode_line(TaskProgress("t", 1, 2, None, None)) * 2)
        assert running.next() == running.next() == FromTrainer(TaskProgress("t", 1, 2, None, None))


@pytest.mark.parametrize("line", [b"", b"nonsense\n", b"x" * (1 << 21)])
def test_a_connection_that_ends_or_talks_nonsense_is_made_anew(
    client: Any, service: socket.socket, line: bytes
) -> None:
    running = client()
    connection, _ = service.accept()
    with connection:
        connection.sendall(encode_line(running.hello))
        assert running.next() == FromTrainer(running.hello)
        try:
            connection.sendall(line)
        except OSError:
            assert line  # it was refused before it was complete
        connection.close()
    assert running.next() == TrainerGone()
    again, _ = service.accept()
    with again:
        again.sendall(encode_line(TaskFailed("t", "r", "x", retryable=True)))
        assert running.next() == FromTrainer(TaskFailed("t", "r", "x", retryable=True))


def test_a_task_without_a_trainer_goes_nowhere(client: Any) -> None:
    client().client.send(TrainResult("t", Path("/p")))


def test_the_trainer_of_a_killed_agent_is_not_taken_for_the_child(
    client: Any, service: socket.socket
) -> None:
    running = client()
    for _ in range(2):
        connection, _ = service.accept()
        with connection:
            connection.sendall(encode_line(HELLO))
            assert connection.recv(1) == b""
    assert running.events.empty()


def test_closing_ends_an_open_connection(client: Any, service: socket.socket) -> None:
    running = client()
    connection, _ = service.accept()
    with connection:
        connection.sendall(encode_line(running.hello))
        running.next()
        running.client.close()
        assert connection.recv(1) == b""
        running.client.send(TrainResult("t", Path("/p")))


HANGING = CHILD.replace("print(connection.recv(1), file=sys.stderr)", "threading.Event().wait()")


@pytest.mark.parametrize("how", ["killed", "takes no task"])
def test_a_child_that_hangs_is_killed_and_started_again(
    client: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("agent.trainer_client._SEND_TIMEOUT_S", 1)
    running = client(program=HANGING.format(code=0))
    first = running.next()
    if how == "killed":
        running.client.kill()
    else:
        long = TaskFailed("t", "r", "x" * 900_000, retryable=True)
        running.client.send(long)
    assert running.next() == TrainerGone()
    second = running.next()
    assert isinstance(first, FromTrainer)
    assert isinstance(second, FromTrainer)
    assert first.message.pid != second.message.pid


def test_a_child_that_cannot_be_started_is_tried_again(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen, refusals = subprocess.Popen, [OSError(12, "no memory for a process")]

    def refusing(*args: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return popen(*args, **options)

    monkeypatch.setattr("agent.trainer_client.subprocess.Popen", refusing)
    running = client(program=CHILD.format(code=0))
    assert isinstance(running.next(), FromTrainer)


def test_killing_without_a_trainer_does_nothing(client: Any) -> None:
    client().client.kill()
