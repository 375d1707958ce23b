"""The trainer process: the base model kept loaded, one task at a time over a Unix socket.

It has no network. The agent starts it as a child, or systemd does when the agent connects:

    python -m agent.trainer        configuration as one line of JSON on stdin, which stays open;
                                   when it closes, the agent is gone and the trainer ends
    fedfstq-trainer@.socket        hands over the listening socket; a trainer that has had no task
                                   for `trainer_idle_s` ends, until somebody connects again

A client that connects gets a `TrainerHello`, sends tasks and gets progress and one answer for each.
One that waits for a trainer that cannot work gets a `TrainerRefusal`.
A newer connection takes the place of an older one. A training goes on when its client is gone: the
client that comes next sends its task again, and gets the progress and the answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from agent.base import BaseError
from agent.config import AgentConfig
from agent.data import DataError
from agent.socket_activation import inherited_listener, turn_away
from agent.socket_address import address_of
from agent.tasks import (
    MAX_LINE_BYTES,
    EvalTask,
    MalformedLine,
    Task,
    TaskFailed,
    TaskProgress,
    TrainerHello,
    TrainerMessage,
    TrainerRefusal,
    TrainTask,
    decode_line,
    encode_line,
)
from transport.exit_codes import ExitCode
from transport.notify import Notifier, duration

if TYPE_CHECKING:
    from agent.model import Loaded
    from agent.tuner import Tuner

_LOG = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S = 0.5
# A trainer whose agent was killed sees it within milliseconds; the next one waits that long.
_LOCK_TIMEOUT_S = 10.0
# A client that reads nothing for so long is given up rather than waited for by the training.
_SEND_TIMEOUT_S = 5


def serve(config: AgentConfig, *, stdin_is_leash: bool) -> int:
    """Serve tasks until SIGTERM or SIGINT, and return the exit code.

    Args:
        config: The agent's; `model` must be set.
        stdin_is_leash: End when stdin closes.
    """
    end = _End()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: end())
    if stdin_is_leash:
        threading.Thread(target=_watch_leash, args=(end,), name="leash", daemon=True).start()
    desk: _Desk | None = None
    if not stdin_is_leash and (listener := inherited_listener()):
        # From now on, so that nobody is left in the queue, whatever comes.
        desk = _Desk(listener)
        threading.Thread(target=desk.accept, name="accept", daemon=True).start()
    try:
        with _only_trainer(config):
            return _serve_on_demand(config, desk, end) if desk else _serve(config, end)
    except (BaseError, DataError, _Unusable) as error:
        return _refuse(desk, "trainer-config", str(error), code=ExitCode.CONFIG)
    except _Busy as error:
        return _refuse(desk, "trainer-busy", str(error), code=ExitCode.TRY_AGAIN)
    except OSError as error:
        return _say(f"{config.trainer_socket}: cannot be used: {error}", ExitCode.TRY_AGAIN)


def main() -> int:
    """Read the configuration from stdin's first line, serve, and return the exit code."""
    try:
        config = AgentConfig.model_validate_json(sys.stdin.buffer.readline())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the configuration"
        return _say(f"{where}: {first['msg']}", ExitCode.CONFIG)
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    return serve(config, stdin_is_leash=True)


class _Unusable(Exception):
    """The configuration names something that cannot be used."""


class _Busy(Exception):
    """Another trainer works in the same state folder, or memory is short."""


class _End:
    """Ends the process at once.

    No exception does it, and no exit handler: raised in the middle of an import of torch, one
    turns into a traceback or into a library that is said to be missing.

    Attributes:
        socket: Removed first, where this trainer has bound it.
        note: Removed too: a task that is ended in order did not end for memory.
    """

    def __init__(self) -> None:
        self.socket: Path | None = None
        self.note: Path | None = None

    def __call__(self) -> NoReturn:
        for path in (self.socket, self.note):
            if path is not None:
                path.unlink(missing_ok=True)
        os._exit(ExitCode.OK)


def _serve(config: AgentConfig, end: _End) -> int:
    began = time.monotonic()
    loaded, tuner = _load(config, end)
    hello = _hello(loaded, tuner)
    path = config.trainer_socket
    path.unlink(missing_ok=True)  # left by a trainer that was killed: the lock is ours
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with address_of(path) as address:
            listener.bind(address)
        end.socket = path
        path.chmod(0o600)
        listener.listen()
        try:
            _LOG.info(
                "ready after %.1f s: %d examples, %d held out",
                time.monotonic() - began,
                hello.examples,
                hello.heldout_examples,
            )
            desk = _Desk(listener, hello)
            threading.Thread(target=desk.accept, name="accept", daemon=True).start()
            while True:
                _work(desk, tuner)
        finally:
            path.unlink(missing_ok=True)


def _serve_on_demand(config: AgentConfig, desk: _Desk, end: _End) -> int:
    """Serve over systemd's socket, and end when nothing has been wanted for a while."""
    notifier = Notifier()
    notifier.status("loading the base model")
    loaded, tuner = _load(config, end)
    desk.welcome(_hello(loaded, tuner))
    notifier.ready()
    idle_s = config.trainer_idle_s
    while True:
        notifier.status(f"idle, ends without a task after {duration(idle_s)}")
        if not _work(desk, tuner, idle_s=idle_s, tell=notifier.status):
            _LOG.info("no task for %s: memory and GPU are free", duration(idle_s))
            notifier.status("ended, until there is a task")
            notifier.stopping()
            end()


def refuse_everyone(text: str) -> None:
    """Tell whoever waits for a trainer that systemd started that its configuration is wrong."""
    if listener := inherited_listener():
        with listener:
            turn_away(listener, TrainerRefusal("trainer-config", text, retryable=False))


def _refuse(desk: _Desk | None, reason: str, text: str, *, code: ExitCode) -> ExitCode:
    _say(text, code)
    if desk:
        Notifier().status(text)
        desk.refuse(TrainerRefusal(reason, text, retryable=code is not ExitCode.CONFIG))
        # At once: while torch is taken apart, systemd would leave it to this process to answer.
        os._exit(code)
    return code


def _load(config: AgentConfig, end: _End) -> tuple[Loaded, Tuner]:
    if config.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)  # read once, when torch is loaded
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries to each other
    logging.captureWarnings(capture=True)
    try:
        # Slow: signals and leash are heard before.
        import torch  # noqa: PLC0415

        from agent.memory import is_out_of_memory  # noqa: PLC0415
        from agent.micro_batch_store import MicroBatches, note_file  # noqa: PLC0415
        from agent.model import load  # noqa: PLC0415
        from agent.quantized import hide_others  # noqa: PLC0415
        from agent.tuner import Tuner  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: torch's build wants a CUDA that is not there
        raise _Unusable(f"torch cannot be loaded ({error}): install fedfstq[agent]") from error
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        loaded = load(config)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # torch's own words are of no help here; a MemoryError of ours says what is.
        text = str(error) if type(error) is MemoryError else ""
        text = text or "stop other programs, or take a smaller base model"
        raise _Busy(f"the base model does not fit into memory now: {text}") from error
    hide_others(loaded.library)  # before the first adapter loads peft
    tuner = Tuner(loaded, MicroBatches(config.state_dir))
    end.note = note_file(config.state_dir)  # what was there has been heeded
    return loaded, tuner


def _hello(loaded: Loaded, tuner: Tuner) -> TrainerHello:
    import torch  # noqa: PLC0415  # loaded by now

    record = tuner.micro_batches.record
    return TrainerHello(
        pid=os.getpid(),
        torch=str(torch.__version__),
        cuda=loaded.cuda,
        examples=len(loaded.train_rows),
        heldout_examples=len(loaded.heldout_rows),
        base_digest=loaded.base_digest.hex(),
        base_precision=loaded.precision,
        base_precision_reason=loaded.precision_reason,
        base_mb=loaded.base_bytes >> 20,
        micro_batch=record.rows,
        out_of_memory=record.out_of_memory,
    )


def _work(
    desk: _Desk,
    tuner: Tuner,
    *,
    idle_s: float | None = None,
    tell: Callable[[str], None] = lambda _text: None,
) -> bool:
    """Do the next task and answer it; return False where none came for so many seconds."""
    from agent.tuner import TaskCancelled  # noqa: PLC0415  # torch is loaded by now

    job = desk.take(idle_s)
    if job is None:
        return False
    progress = _ProgressReport(desk, job, tuner)
    try:
        match job.task:
            case TrainTask() as task:
                tell(f"training round {task.round_id}")
                answer: TrainerMessage = tuner.train(task, on_step=progress)
            case EvalTask() as task:
                tell(f"evaluating adapter version {task.version}")
                answer = tuner.evaluate(task, on_step=progress)
    except TaskCancelled:
        _LOG.info("task %s cancelled for a newer one", job.task.task_id)
        text = "a newer connection asked for another task"
        answer = TaskFailed(job.task.task_id, "cancelled", text, retryable=True)
    desk.answer(answer)
    if isinstance(answer, TaskFailed) and answer.reason == "cuda":
        raise _Busy(answer.text)  # whatever this process asks of CUDA fails from now on
    return True


@dataclass(frozen=True, slots=True)
class _Job:
    """A task, and which connection asked for it, counted from 1."""

    task: Task
    connection: int


class _Desk:
    """Where clients hand in tasks and the main thread takes them out; one client at a time."""

    def __init__(self, listener: socket.socket, hello: TrainerHello | None = None) -> None:
        self._listener = listener
        self._hello: TrainerHello | TrainerRefusal | None = hello
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._running: _Job | None = None
        self._cancelled = threading.Event()
        self._client: socket.socket | None = None
        self._connections = 0

    def accept(self) -> None:
        """Greet each client that connects, and read its tasks in a thread of its own."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the listener was closed: the trainer ends
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0)
            )
            with self._lock:
                self._drop_client()
                self._client = client
                self._connections += 1
                number = self._connections
                self._drain()
                hello = self._hello
            if hello:
                self.send(hello)
            threading.Thread(
                target=self._read, args=(client, number), name=f"client-{number}", daemon=True
            ).start()

    def welcome(self, hello: TrainerHello) -> None:
        """Say hello to whoever has waited, and to everyone who comes."""
        with self._lock:
            self._hello = hello
        self.send(hello)

    def refuse(self, refusal: TrainerRefusal) -> None:
        """Tell whoever has waited, or comes before the end, that nobody works here."""
        with self._lock:
            self._hello = refusal
        self.send(refusal)
        turn_away(self._listener, refusal)

    def take(self, timeout_s: float | None = None) -> _Job | None:
        """Wait for the next task; return None where none came for so many seconds."""
        try:
            job = self._jobs.get(timeout=timeout_s)
        except queue.Empty:
            return None
        with self._lock:
            self._running = job
            self._cancelled.clear()
        return job

    @property
    def cancelled(self) -> bool:
        """Whether the running task is no longer wanted."""
        return self._cancelled.is_set()

    def answer(self, message: TrainerMessage) -> None:
        """Send the answer of the running task, which ends it."""
        with self._lock:
            self._running = None
        self.send(message)

    def send(self, message: TrainerMessage) -> None:
        """Send to the client that is connected; one that is gone will ask again."""
        line = encode_line(message)
        with self._lock:
            if self._client is None:
                return
            try:
                self._client.sendall(line)
            except OSError as error:
                _LOG.info("client lost: %s", error)
                self._drop_client()

    def _read(self, client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), client.makefile("rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                try:
                    message = decode_line(line)
                except MalformedLine as error:
                    _LOG.warning("client refused: %s", error)
                    break
                if not isinstance(message, (TrainTask, EvalTask)):
                    _LOG.warning("client refused: %s is no task", type(message).__name__)
                    break
                self._hand_in(_Job(message, number))
        with self._lock:
            if self._client is client:
                self._drop_client()

    def _hand_in(self, job: _Job) -> None:
        with self._lock:
            if job.connection != self._connections:
                return
            running = self._running
            if running and running.task == job.task:
                return  # asked again after a reconnection: its answer goes to the new client
            if running and running.connection < job.connection:
                self._cancelled.set()
            self._jobs.put(job)

    def _drop_client(self) -> None:
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
            self._client.close()
            self._client = None

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()


class _ProgressReport:
    """Reports a task's steps, not too often; raises `TaskCancelled` when it is cancelled."""

    def __init__(self, desk: _Desk, job: _Job, tuner: Tuner | None = None) -> None:
        self._desk = desk
        self._tuner = tuner
        self._task_id = job.task.task_id
        self._began = self._said = float("-inf")

    def __call__(self, step: int, steps: int, loss: float | None) -> None:
        from agent.tuner import TaskCancelled  # noqa: PLC0415  # torch is loaded by now

        if self._desk.cancelled:
            raise TaskCancelled
        now = time.monotonic()
        if step == 0:
            self._began = now
        if now - self._said < _PROGRESS_INTERVAL_S:
            return
        self._said = now
        eta_s = (now - self._began) / step * (steps - step) if step else None
        at_once = self._tuner.at_once if self._tuner else None
        rows, out_of_memory = (at_once.rows, at_once.out_of_memory) if at_once else (0, 0)
        progress = TaskProgress(self._task_id, step, steps, loss, eta_s, rows, out_of_memory)
        self._desk.send(progress)


@contextlib.contextmanager
def _only_trainer(config: AgentConfig) -> Iterator[None]:
    """Hold the state folder's trainer lock, which the kernel frees however this process ends."""
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        lock = config.trainer_lock.open("w")
    except OSError as error:
        raise _Unusable(
            f"{config.state_dir}: cannot be written: {error.strerror}; set state_dir to a folder "
            "that this user owns"
        ) from error
    with lock:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise _Busy(
                        f"{config.trainer_lock}: another trainer holds it; stop that one, or give "
                        "each its own state_dir"
                    ) from error
            time.sleep(0.05)
        yield


def _watch_leash(end: _End) -> None:
    # Not through sys.stdin: its lock, held while it waits, would break the interpreter's end.
    while os.read(0, 4096):
        pass
    _LOG.info("the agent is gone")
    end()


def _say(text: str, code: ExitCode) -> ExitCode:
    print(f"fedfstq trainer: {text}", file=sys.stderr, flush=True)  # noqa: T201  # the one line
    return code


if __name__ == "__main__":
    _code = main()
    logging.shutdown()
    # Taking torch apart object by object takes a second, and nothing of it is wanted any more.
    os._exit(_code)
