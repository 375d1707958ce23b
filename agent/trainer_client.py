"""The agent's end of the trainer's socket, and the trainer's life, where it is a child.

One thread starts the child, connects, reads lines and puts what it read into the agent's queue;
when the trainer is gone it begins again after a growing pause. It decides nothing else. The trainer
that systemd starts has a client of its own, `agent.trainer_on_demand`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from agent.config import AgentConfig
from agent.socket_address import address_of
from agent.tasks import (
    MAX_LINE_BYTES,
    MalformedLine,
    Task,
    TrainerHello,
    TrainerMessage,
    decode_line,
    encode_line,
)
from transport.backoff import Backoff
from transport.exit_codes import ExitCode

log = logging.getLogger(__name__)

TRAINER_COMMAND = (sys.executable, "-m", "agent.trainer")

# [s] How often the socket of a trainer that is loading its model is tried.
_CONNECT_S = 0.1
# [s] A trainer that takes no line for so long hangs.
_SEND_TIMEOUT_S = 30
# [s] What a trainer gets to end by itself after its leash is cut, and then after SIGTERM.
_FAREWELL_S = 3.0
# [s] A trainer that lived this long makes its next death the first.
_LASTING_S = 60.0
_RESTART = Backoff(first_s=1.0, cap_s=60.0)


@dataclass(frozen=True, slots=True)
class FromTrainer:
    """A message of the trainer."""

    message: TrainerMessage


@dataclass(frozen=True, slots=True)
class TrainerGone:
    """The connection to a trainer that was ready is lost."""


@dataclass(frozen=True, slots=True)
class TrainerUnusable:
    """The trainer says that its model or its data is wrong; starting it again will not help."""


@dataclass(frozen=True, slots=True)
class TrainerUnable:
    """The trainer that systemd starts cannot work for now; it is tried again from time to time.

    Attributes:
        reason: A typed reason, `[a-z0-9-]`.
        text: One line for people.
    """

    reason: str
    text: str


TrainerEvent: TypeAlias = FromTrainer | TrainerGone | TrainerUnusable | TrainerUnable


class TrainerClient:
    """Keeps the trainer running as a child, and one connection to it."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        deliver: Callable[[TrainerEvent], None],
        rng: random.Random,
        command: Sequence[str] = TRAINER_COMMAND,
    ) -> None:
        """Prepare a client; nothing runs before `start`.

        Args:
            config: With `model` given; it goes to the child as it is.
            deliver: Takes events, from this client's own thread.
            rng: The source of jitter.
            command: What starts the child.
        """
        self._config = config
        self._deliver = deliver
        self._rng = rng
        self._command = tuple(command)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="trainer-client", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def send(self, task: Task) -> None:
        """Give the trainer a task; where there is no trainer, its return asks for it anew.

        Raises:
            ValueError: The task is too long for a line.
        """
        line = encode_line(task)
        with self._lock:
            if self._socket is None:
                return
            try:
                self._socket.sendall(line)
            except BlockingIOError:
                log.warning("the trainer takes no task for %d s", _SEND_TIMEOUT_S)
                _kill(self._socket)
            except OSError as error:
                log.warning("the trainer takes no task: %s", error)
                _shut(self._socket)

    def kill(self) -> None:
        """End a trainer that hangs; it is started again."""
        with self._lock:
            if self._socket:
                _kill(self._socket)

    def close(self) -> None:
        """Disconnect, and end the child."""
        self._stopping.set()
        with self._lock:
            if self._socket:
                _shut(self._socket)
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began_at = time.monotonic()
            try:
                code = self._live()
            except OSError as error:
                log.warning("the trainer cannot be started: %s", error)
                code = None
            if code == ExitCode.CONFIG:
                self._deliver(TrainerUnusable())
                return
            failures = 1 if time.monotonic() - began_at > _LASTING_S else failures + 1
            delay_s = _RESTART.delay_s(failures, self._rng)
            if not self._stopping.is_set():
                log.warning("the trainer is gone (exit code %s), again in %.1f s", code, delay_s)
            self._stopping.wait(delay_s)

    def _live(self) -> int | None:
        """Go through one trainer's life, and return its exit code."""
        with subprocess.Popen(  # noqa: S603 - the command is this program's own
            self._command,
            stdin=subprocess.PIPE,
            # A Ctrl-C at the terminal is for the agent, which ends its trainer by the leash.
            start_new_session=True,
        ) as child:
            assert child.stdin is not None
            self._child = child
            try:
                child.stdin.write(self._config.model_dump_json().encode() + b"\n")
                child.stdin.flush()
                while child.poll() is None and not self._stopping.is_set():
                    self._connect_and_read()
            except BrokenPipeError:
                log.warning("the trainer ended before it read its configuration")
            finally:
                self._child = None
                _end(child)
        return child.returncode

    def _connect_and_read(self) -> None:
        connection = self._connect()
        if connection is None:
            return
        with connection:
            with self._lock:
                self._socket = connection
            if self._stopping.is_set():
                _shut(connection)
            with connection.makefile("rb") as lines:
                ready = self._read(lines)
            with self._lock:
                self._socket = None
        if ready:
            self._deliver(TrainerGone())

    def _connect(self) -> socket.socket | None:
        """Return a connection as soon as the trainer takes one, None where it ended before."""
        while not self._stopping.is_set():
            if self._child and self._child.poll() is not None:
                return None
            try:
                return connect(self._config.trainer_socket)
            except OSError:
                self._stopping.wait(_CONNECT_S)
        return None

    def _read(self, lines: BinaryIO) -> bool:
        """Deliver what comes until the connection ends; return whether the trainer was ready."""
        ready = False
        while line := self._line(lines):
            try:
                message = decode_line(line)
            except MalformedLine as error:
                log.warning("the trainer's line is refused: %s", error)
                break
            if isinstance(message, TrainerHello):
                if self._child and message.pid != self._child.pid:
                    # The trainer of an agent that was killed lives for another moment.
                    self._stopping.wait(_CONNECT_S)
                    break
                ready = True
                log.info("the trainer is ready: pid %d, torch %s", message.pid, message.torch)
            self._deliver(FromTrainer(message))
        return ready

    @staticmethod
    def _line(lines: BinaryIO) -> bytes:
        try:
            return lines.readline(MAX_LINE_BYTES + 1)
        except OSError:
            return b""


def connect(path: Path) -> socket.socket:
    """Return a connection to the trainer that listens there.

    Raises:
        OSError: Nobody does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        timeout = struct.pack("ll", _SEND_TIMEOUT_S, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        with address_of(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _kill(connection: socket.socket) -> None:
    """Kill the process at the other end: one that hangs hears nothing else."""
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    pid, _, _ = struct.unpack("3i", credentials)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    _shut(connection)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be shut already
        connection.shutdown(socket.SHUT_RDWR)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Cut the leash, and see to it that the child ends."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it may have ended first
        child.stdin.close()
    for end in (child.terminate, child.kill):
        try:
            child.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            end()
    child.wait()
