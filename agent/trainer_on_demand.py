"""The agent's end of a trainer that systemd starts when somebody connects, and that ends when idle.

One connection for each task: made when there is one, closed when it is answered. A trainer that
ends before it has answered costs a try of that task, and each further start waits longer; one that
cannot work says why, and is asked again ever more rarely.

    wanted      came back                    what the agent is told, and when it is tried again
    task        its answer                   the answer
    task        the end, without a word      nothing: once more at once, it was just leaving
    task        the end                      TaskFailed, retryable; the next start waits
    hello       the end, again and again     TrainerUnable; tried until there is a hello
    either      a refusal that may pass      as the end
    either      a refusal                    TrainerUnable; tried until there is a hello
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import BinaryIO, Final

from agent.config import AgentConfig
from agent.tasks import (
    MAX_LINE_BYTES,
    EvalResult,
    MalformedLine,
    Task,
    TaskFailed,
    TaskProgress,
    TrainerHello,
    TrainerMessage,
    TrainerRefusal,
    TrainResult,
    decode_line,
    encode_line,
)
from agent.trainer_client import FromTrainer, TrainerEvent, TrainerUnable, connect
from transport.backoff import Backoff

log = logging.getLogger(__name__)

# [s] How long a socket that is not there, or that nobody listens on, is tried: a trainer that was
# started by hand binds it when its model is loaded.
_CONNECT_S: Final = 20.0
_TRY_S: Final = 0.5
# After the end of a trainer: the first start costs a minute of loading, a hundred cost the device.
_RESTART: Final = Backoff(first_s=4.0, cap_s=600.0)
# After a refusal, which only a person can mend. Half of it at least.
_REFUSED: Final = Backoff(first_s=120.0, cap_s=900.0)
# [s] A task that would wait for longer than this is given back at once.
_PATIENCE_S: Final = 30.0
# [ends] A trainer that never said hello is given up for the time being.
_UNGREETED: Final = 3
_LOST: Final = "trainer-lost"
_UNREACHABLE: Final = "nobody listens at {}: is fedfstq-trainer@{}.socket running?"


class _End(Enum):
    """How a connection ended."""

    DONE = auto()  # it was answered, or nothing but a hello was wanted
    SILENT = auto()  # the task was sent, and no word of it came back
    LOST = auto()


@dataclass(frozen=True, slots=True)
class _Ending:
    end: _End
    reason: str = _LOST
    text: str = "the trainer ended; its journal says why"
    refused: bool = False


class TrainerOnDemand:
    """Has tasks done by a trainer that is there only while it is wanted."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        deliver: Callable[[TrainerEvent], None],
        rng: random.Random,
        greet: bool,
    ) -> None:
        """Prepare; nothing is connected before `start`.

        Args:
            config: The agent's.
            deliver: Takes events, from any thread.
            rng: The source of jitter.
            greet: Start the trainer once for its hello, without a task.
        """
        self._config = config
        self._deliver = deliver
        self._rng = rng
        self._greet = greet
        self._changed = threading.Condition()
        self._stopping = False
        self._task: Task | None = None
        self._socket: socket.socket | None = None
        self._pid = 0
        self._failures = 0
        self._not_before = 0.0
        self._thread = threading.Thread(target=self._run, name="trainer-on-demand", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def send(self, task: Task) -> None:
        """Have a task done, in the place of any other.

        Raises:
            ValueError: The task is too long for a line.
        """
        encode_line(task)
        with self._changed:
            left_s = self._not_before - time.monotonic()
            refused = left_s > _PATIENCE_S
            self._task = None if refused else task
            if self._socket:
                _shut(self._socket)
            self._changed.notify_all()
        if refused:
            text = f"the trainer ended {self._failures} times; tried again in {left_s:.0f} s"
            self._fail(task, _LOST, text)

    def kill(self) -> None:
        """End a trainer that hangs, or whose task is not wanted any more."""
        with self._changed:
            task, self._task = self._task, None
            if self._socket:
                if self._pid:
                    # Not by the socket's credentials: these are systemd's, which listened on it.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(self._pid, signal.SIGKILL)
                _shut(self._socket)
        if task:
            self._fail(task, _LOST, "the trainer was ended")

    def close(self) -> None:
        """Disconnect; the trainer goes on with its task, and ends by itself when that is done."""
        with self._changed:
            self._stopping = True
            if self._socket:
                _shut(self._socket)
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            task = self._task
            ending = self._attend(task)
            with self._changed:
                self._socket, self._pid = None, 0
                over = self._stopping or self._task is not task
            if ending.end is _End.DONE or not over:
                self._conclude(task, ending)

    def _wait(self) -> bool:
        """Return True when something is wanted and may be tried, False at the end."""
        with self._changed:
            while not self._stopping:
                left_s = self._not_before - time.monotonic()
                if self._task is None and not self._greet:
                    self._changed.wait()
                elif left_s > 0:
                    self._changed.wait(left_s)
                else:
                    return True
        return False

    def _attend(self, task: Task | None) -> _Ending:
        """Hold one connection, until its task is answered or the trainer is gone."""
        path = self._config.trainer_socket
        connection = self._connect()
        if connection is None:
            text = _UNREACHABLE.format(path, self._config.client_id)
            return _Ending(_End.LOST, text=text)
        with connection:
            with self._changed:
                self._socket = connection
                if self._stopping or self._task is not task:
                    return _Ending(_End.LOST)
            with connection.makefile("rb") as lines:
                return self._converse(connection, lines, task)

    def _connect(self) -> socket.socket | None:
        give_up_at = time.monotonic() + _CONNECT_S
        while True:
            try:
                return connect(self._config.trainer_socket)
            except OSError as error:
                log.debug("%s: %s", self._config.trainer_socket, error)
            with self._changed:
                if self._stopping or time.monotonic() > give_up_at:
                    return None
                self._changed.wait(_TRY_S)

    def _converse(self, connection: socket.socket, lines: BinaryIO, task: Task | None) -> _Ending:
        ending = _Ending(_End.LOST)
        while message := _read(lines):
            match message:
                case TrainerHello() as hello:
                    self._pid, self._greet = hello.pid, False
                    log.info("the trainer is ready: pid %d, torch %s", hello.pid, hello.torch)
                    self._deliver(FromTrainer(hello))
                    if task is None:
                        return _Ending(_End.DONE)
                    with contextlib.suppress(OSError):  # its end is read below
                        connection.sendall(encode_line(task))
                    ending = _Ending(_End.SILENT)
                case TrainerRefusal(reason, text, retryable):
                    return _Ending(_End.LOST, reason, text, refused=not retryable)
                case TaskProgress(task_id=task_id) if task and task_id == task.task_id:
                    ending = _Ending(_End.LOST)
                    self._deliver(FromTrainer(message))
                case TrainResult() | EvalResult() | TaskFailed() as answer:
                    if task and answer.task_id == task.task_id:
                        self._deliver(FromTrainer(answer))
                        return _Ending(_End.DONE)
                case _:
                    pass  # of a task that is not wanted any more
        return ending

    def _conclude(self, task: Task | None, ending: _Ending) -> None:
        """Tell how it went, and set when the trainer may be started next."""
        if ending.end is _End.DONE:
            self._failures = 0
            self._forget(task)
            return
        self._failures += 1
        if ending.end is _End.SILENT and self._failures == 1:
            return
        policy = _REFUSED if ending.refused else _RESTART
        delay_s = policy.delay_s(self._failures, self._rng)
        if ending.refused:
            delay_s = (delay_s + min(policy.cap_s, policy.first_s)) / 2
        log.warning("the trainer: %s; not before %.0f s", ending.text, delay_s)
        self._not_before = time.monotonic() + delay_s
        self._forget(task)
        if ending.refused:
            self._greet = True
        if ending.refused or (self._greet and self._failures >= _UNGREETED):
            self._deliver(TrainerUnable(ending.reason, ending.text))
        elif task:
            self._fail(task, ending.reason, ending.text)

    def _forget(self, task: Task | None) -> None:
        with self._changed:
            if self._task is task:
                self._task = None

    def _fail(self, task: Task, reason: str, text: str) -> None:
        self._deliver(FromTrainer(TaskFailed(task.task_id, reason, text, retryable=True)))


def _read(lines: BinaryIO) -> TrainerMessage | None:
    """Return the next message, None where the connection has ended or carries none."""
    try:
        line = lines.readline(MAX_LINE_BYTES + 1)
        return decode_line(line) if line else None
    except OSError:
        return None
    except MalformedLine as error:
        log.warning("the trainer's line is refused: %s", error)
        return None


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be shut already
        connection.shutdown(socket.SHUT_RDWR)
