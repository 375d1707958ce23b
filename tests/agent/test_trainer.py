"""The trainer process over its socket: hello, progress, answers, and how it ends."""

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from agent.adapter import make_initial_adapter
from agent.base import base_digest
from agent.config import AgentConfig
from agent.micro_batch_store import note_file
from agent.payload import read_header, read_segment
from agent.tasks import (
    EvalResult,
    EvalTask,
    TaskFailed,
    TaskProgress,
    TrainerHello,
    TrainerMessage,
    TrainResult,
    TrainTask,
    decode_line,
    encode_line,
)
from agent.trainer import _Busy, _Desk, _Job, _ProgressReport, _work
from agent.tuner import TaskCancelled
from codec.layout import Layout
from codec.update import decode
from transport.control import TrainingPlan

pytestmark = pytest.mark.torch
BASE = Path(__file__).parents[2] / "tools" / "base"
PATIENCE_S = 60.0


class Client:
    """One connection to a trainer's socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.lines = self.socket.makefile("rb")

    def send(self, message: TrainerMessage) -> None:
        self.socket.sendall(encode_line(message))

    def receive(self) -> TrainerMessage:
        line = self.lines.readline()
        assert line, "the trainer closed the connection"
        return decode_line(line)

    def answer(self) -> TrainerMessage:
        """Return the next message that is no progress."""
        while isinstance(message := self.receive(), TaskProgress):
            pass
        return message

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


class Trainer:
    """A trainer in a process of its own, on the leash of this one."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        texts = [f"def function_{n}():\n    return {n}\n" for n in range(20)]
        data = folder / "train.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        options = {
            "federation": "f",
            "client_id": "c",
            "state_dir": folder / "state",
            "model": str(BASE),
            "data": {"train": data, "heldout_share": 0.3},
            "device": "cpu",
            "threads": 1,
            **changes,
        }
        self.config = AgentConfig(**options)
        self.clients: list[Client] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent.trainer"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdin
        self.process.stdin.write(self.config.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()

    def connect(self) -> Client:
        wait_until(lambda: self.config.trainer_socket.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, "the trainer ended"
        client = retried(lambda: Client(self.config.trainer_socket))
        self.clients.append(client)
        return client

    def ended(self) -> tuple[int, str]:
        """Wait for the end, and return exit code and stderr."""
        assert self.process.stderr
        code = self.process.wait(PATIENCE_S)
        return code, self.process.stderr.read().decode()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def retried(attempt: Callable[[], Client]) -> Client:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except OSError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    trainers: list[Trainer] = []

    def start_one(**changes: Any) -> Trainer:
        trainers.append(Trainer(tmp_path, **changes))
        return trainers[-1]

    yield start_one
    for trainer in trainers:
        trainer.close()


@pytest.fixture(scope="module")
def initial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("initial") / "0"
    make_initial_adapter(str(BASE), out, rank=2, alpha=4, target_modules=["q_proj"], seed=0)
    return out


def layout_of(initial: Path) -> Layout:
    tensors = load_file(initial / "adapter_model.safetensors")
    return Layout.from_shapes({name: tensor.shape for name, tensor in tensors.items()})


def task_of(initial: Path, folder: Path, **changes: Any) -> TrainTask:
    layout = layout_of(initial)
    adapter_file = folder / "0.f32"
    layout.flatten(load_file(initial / "adapter_model.safetensors")).tofile(adapter_file)
    plan = {"local_steps": 3, "batch_size": 2, "max_tokens": 24, "learning_rate": 1e-2}
    options = {
        "task_id": "train-1",
        "run": "0" * 32,
        "round_id": 1,
        "base_version": 0,
        "base_digest": base_digest(BASE).hex(),
        "adapter_file": adapter_file,
        "adapter_config": (initial / "adapter_config.json").read_text(),
        "layout": tuple((tensor.name, tensor.shape) for tensor in layout.tensors),
        "codec": "fstq",
        "update_bytes": layout.size,
        "segment_bytes": 2048,
        "plan": TrainingPlan(**{**plan, **changes.pop("plan", {})}),
        "seed": 3,
        "leftovers": (),
        "error_feedback": False,
        "residual_decay": 1.0,
        "payload_file": folder / "1.update",
        **changes,
    }
    return TrainTask(**options)


def endless_task(initial: Path, folder: Path) -> TrainTask:
    plan = {"local_steps": 9_999, "eval_examples": 0}
    return task_of(initial, folder, task_id="endless", payload_file=folder / "e", plan=plan)


def test_one_life_hello_train_evaluate_refuse_and_the_end_of_the_leash(
    start: Callable[..., Trainer], initial: Path, tmp_path: Path
) -> None:
    trainer = start()
    client = trainer.connect()
    hello = client.receive()
    assert isinstance(hello, TrainerHello)
    assert hello.pid == trainer.process.pid
    assert hello.examples + hello.heldout_examples == 20
    assert (hello.base_digest, hello.cuda) == (base_digest(BASE).hex(), "")
    assert (hello.base_precision, hello.micro_batch, hello.out_of_memory) == ("float32", 0, 0)
    assert hello.base_precision_reason.startswith("in full it takes 0 % of the memory")
    assert hello.base_mb == 9

    task = task_of(initial, tmp_path)
    client.send(task)
    first = client.receive()
    assert first == TaskProgress("train-1", 0, 3, loss=None, eta_s=None, micro_batch=2)
    assert client.answer() == TrainResult("train-1", task.payload_file, micro_batch=2)
    header = read_header(task.payload_file)
    segments = {i: read_segment(task.payload_file, header, i) for i in range(len(header.lengths))}
    layout = layout_of(initial)
    delta = decode("fstq", segments, layout=layout, segment_count=len(segments))
    assert np.isfinite(delta).all()
    assert delta.any()
    assert header.evaluation is not None

    client.send(
        EvalTask(
            task_id="eval-0",
            run=task.run,
            version=0,
            base_digest=task.base_digest,
            adapter_file=task.adapter_file,
            adapter_config=task.adapter_config,
            layout=task.layout,
            plan=task.plan,
        )
    )
    evaluation = client.answer()
    assert isinstance(evaluation, EvalResult)
    assert evaluation.loss == pytest.approx(header.evaluation.loss, rel=1e-6)
    assert evaluation.tokens == header.evaluation.tokens > 0

    client.send(task_of(initial, tmp_path, task_id="wrong", base_digest="0" * 64, round_id=9))
    wrong = client.answer()
    assert isinstance(wrong, TaskFailed)
    assert (wrong.task_id, wrong.reason, wrong.retryable) == ("wrong", "base-mismatch", False)

    assert trainer.process.stdin
    trainer.process.stdin.close()
    code, stderr = trainer.ended()
    assert code == 0
    assert "Traceback" not in stderr
    assert not trainer.config.trainer_socket.exists()


def test_sigterm_ends_a_training_at_once_and_leaves_no_half_payload(
    start: Callable[..., Trainer], initial: Path, tmp_path: Path
) -> None:
    trainer = start()
    client = trainer.connect()
    client.receive()
    task = endless_task(initial, tmp_path)
    client.send(task)
    assert isinstance(client.receive(), TaskProgress)
    assert note_file(trainer.config.state_dir).exists()
    trainer.process.send_signal(signal.SIGTERM)
    code, stderr = trainer.ended()
    assert code == 0
    assert "Traceback" not in stderr
    assert not task.payload_file.exists()
    assert not note_file(trainer.config.state_dir).exists(), "this end is not held against it"
    assert not trainer.config.trainer_socket.exists()


def test_killed_trainer_leaves_nothing_that_keeps_the_next_from_starting(
    start: Callable[..., Trainer], initial: Path, tmp_path: Path
) -> None:
    first = start()
    client = first.connect()
    client.receive()
    client.send(endless_task(initial, tmp_path))
    assert isinstance(client.receive(), TaskProgress)
    first.process.kill()
    first.process.wait()
    assert first.config.trainer_socket.exists()
    second = start()
    wait_until(lambda: _greets(second))
    client = second.connect()
    assert isinstance(client.receive(), TrainerHello)
    task = task_of(initial, tmp_path)
    client.send(task)
    assert isinstance(client.answer(), TrainResult)


def test_trainer_that_the_kernel_ended_for_memory_begins_the_next_time_with_less(
    start: Callable[..., Trainer], initial: Path, tmp_path: Path
) -> None:
    """No exception tells of it: what tells is a note, and the kernel's counter."""
    first = start()
    client = first.connect()
    client.receive()
    client.send(endless_task(initial, tmp_path))
    assert isinstance(client.receive(), TaskProgress)
    first.process.kill()
    first.process.wait()
    note = note_file(first.config.state_dir)
    left = json.loads(note.read_text())
    assert (left["task_id"], left["rows"]) == ("endless", 2)
    note.write_text(json.dumps({**left, "oom_kills": left["oom_kills"] - 1}))
    second = start()
    wait_until(lambda: _greets(second))
    client = second.connect()
    hello = client.receive()
    assert isinstance(hello, TrainerHello)
    assert (hello.micro_batch, hello.out_of_memory) == (1, 1)
    task = task_of(initial, tmp_path)
    client.send(task)
    assert client.answer() == TrainResult("train-1", task.payload_file, micro_batch=1)


def _greets(trainer: Trainer) -> bool:
    try:
        client = Client(trainer.config.trainer_socket)
    except OSError:
        return False
    try:
        hello = client.receive()
    finally:
        client.close()
    return isinstance(hello, TrainerHello) and hello.pid == trainer.process.pid


def test_training_outlives_its_client_and_answers_the_next_one(
    start: Callable[..., Trainer], initial: Path, tmp_path: Path
) -> None:
    trainer = start()
    first = trainer.connect()
    first.receive()
    task = task_of(initial, tmp_path, plan={"local_steps": 60})
    first.send(task)
    assert isinstance(first.receive(), TaskProgress)
    first.close()
    second = trainer.connect()
    assert isinstance(second.receive(), TrainerHello)
    second.send(task)
    assert second.answer() == TrainResult("train-1", task.payload_file, micro_batch=2)
    second.send(task)
    assert second.answer() == TrainResult("train-1", task.payload_file)


def test_what_is_no_task_closes_the_connection_and_nothing_else(
    start: Callable[..., Trainer],
) -> None:
    trainer = start()
    for line in (b"nonsense\n", b"{}\n", encode_line(TrainResult("x", Path("/x")))):
        client = trainer.connect()
        assert isinstance(client.receive(), TrainerHello)
        client.socket.sendall(line)
        assert client.lines.readline() == b""
    assert isinstance(trainer.connect().receive(), TrainerHello)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "/no/such/model"}, "no base model at /no/such/model"),
        ({"model": None}, "set `model` to a folder or a hub id"),
        ({"data": {"train": "/no/such.jsonl"}}, "/no/such.jsonl: cannot be read"),
    ],
)
def test_bad_model_or_data_is_one_clear_line_and_exit_code_78(
    start: Callable[..., Trainer], changes: dict[str, Any], expected: str
) -> None:
    code, stderr = start(**changes).ended()
    assert code == 78
    assert [line for line in stderr.splitlines() if not line.startswith("20")] == [
        line for line in stderr.splitlines() if expected in line
    ]
    assert expected in stderr


def test_state_folder_that_cannot_be_made(start: Callable[..., Trainer], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, stderr = start(state_dir=tmp_path / "file" / "state").ended()
    assert code == 78
    assert "cannot be written: Not a directory" in stderr


def test_configuration_that_is_none_is_one_clear_line_and_exit_code_78() -> None:
    for line, expected in ((b"", "JSON"), (b'{"federation": "f"}\n', "client_id: Field required")):
        done = subprocess.run(
            [sys.executable, "-m", "agent.trainer"], input=line, capture_output=True, check=False
        )
        assert done.returncode == 78
        assert expected in done.stderr.decode()
        assert len(done.stderr.splitlines()) == 1


FAKE_TORCH = """
import pathlib, time
pathlib.Path(__file__).with_name("begun").touch()
try:
    time.sleep({seconds})
except BaseException:
    raise ImportError("cannot load module more than once per process") from None
raise ImportError("libcudart.so.12: cannot open shared object file")
"""


def fake_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    (folder / "fake").mkdir()
    (folder / "fake" / "torch.py").write_text(FAKE_TORCH.format(seconds=seconds))
    monkeypatch.setenv("PYTHONPATH", str(folder / "fake"))


@pytest.mark.parametrize("how", ["leash", "signal"])
def test_an_end_in_the_middle_of_an_import_is_an_end_like_others(
    start: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Imports turn exceptions into others: torch was said to be missing, with a traceback."""
    fake_torch(tmp_path, monkeypatch, seconds=60)
    trainer = start()
    wait_until((tmp_path / "fake" / "begun").exists)
    if how == "leash":
        assert trainer.process.stdin
        trainer.process.stdin.close()
    else:
        trainer.process.send_signal(signal.SIGTERM)
    code, stderr = trainer.ended()
    assert code == 0
    assert "Error" not in stderr


def test_torch_that_cannot_be_loaded_is_one_clear_line_and_exit_code_78(
    start: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch(tmp_path, monkeypatch, seconds=0)
    code, stderr = start().ended()
    assert code == 78
    assert "libcudart.so.12" in stderr
    assert len(stderr.splitlines()) == 1


def test_a_socket_that_cannot_be_bound_is_one_clear_line_and_exit_code_75(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    (tmp_path / "state" / "trainer.sock" / "in the way").mkdir(parents=True)
    code, stderr = start().ended()
    assert code == 75
    assert "trainer.sock: cannot be used" in stderr
    assert "Traceback" not in stderr


class Listener:
    """A desk on a socket, with a thread that accepts."""

    def __init__(self) -> None:
        # A folder of its own under the system's temporary one, since socket paths must be short.
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"desk-{os.getpid()}-{id(self):x}"
        self.folder.mkdir()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(self.folder / "s"))
        self.socket.listen()
        hello = TrainerHello(1, "2", "", 3, 0, "0" * 64)
        self.desk = _Desk(self.socket, hello)
        self.thread = threading.Thread(target=self.desk.accept, daemon=True)
        self.thread.start()
        self.clients: list[Client] = []

    def connect(self) -> Client:
        client = Client(self.folder / "s")
        self.clients.append(client)
        assert isinstance(client.receive(), TrainerHello)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE_S)
        self.socket.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def taken(desk: _Desk) -> _Job:
    """Take the next task as the trainer's main thread does, but not for ever."""
    jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    threading.Thread(target=lambda: jobs.put(desk.take()), daemon=True).start()
    return jobs.get(timeout=PATIENCE_S)


def test_newer_connection_with_another_task_cancels_the_running_one(
    listener: Listener, initial: Path, tmp_path: Path
) -> None:
    first = listener.connect()
    running = task_of(initial, tmp_path)
    first.send(running)
    job = taken(listener.desk)
    report = _ProgressReport(listener.desk, job)
    report(0, 3, None)
    second = listener.connect()
    second.send(running)  # asked again: it goes on
    second.send(task_of(initial, tmp_path, task_id="another"))
    wait_until(lambda: listener.desk.cancelled)
    with pytest.raises(TaskCancelled):
        report(1, 3, 0.5)
    listener.desk.answer(TaskFailed("train-1", "cancelled", "", retryable=True))
    assert taken(listener.desk).task.task_id == "another"
    assert not listener.desk.cancelled


def test_tasks_of_one_connection_wait_for_each_other(
    listener: Listener, initial: Path, tmp_path: Path
) -> None:
    client = listener.connect()
    client.send(task_of(initial, tmp_path))
    assert taken(listener.desk).task.task_id == "train-1"
    client.send(task_of(initial, tmp_path, task_id="train-2"))
    listener.desk.answer(TrainResult("train-1", Path("/p")))
    assert client.receive() == TrainResult("train-1", Path("/p"))
    assert taken(listener.desk).task.task_id == "train-2"
    assert not listener.desk.cancelled


def test_an_error_of_cuda_is_answered_and_ends_the_trainer(
    listener: Listener, initial: Path, tmp_path: Path
) -> None:
    """A process that has seen one gets nothing else from CUDA; the next may."""
    client = listener.connect()
    client.send(task_of(initial, tmp_path))
    failed = TaskFailed("train-1", "cuda", "CUDA error: unspecified", retryable=True)
    tuner: Any = SimpleNamespace(train=lambda _task, on_step: failed, at_once=None)  # noqa: ARG005
    with pytest.raises(_Busy, match="CUDA error"):
        _work(listener.desk, tuner)
    assert client.receive() == failed


def test_tasks_that_wait_are_dropped_with_their_connection(
    listener: Listener, initial: Path, tmp_path: Path
) -> None:
    first = listener.connect()
    first.send(task_of(initial, tmp_path))
    taken(listener.desk)
    first.send(task_of(initial, tmp_path, task_id="waits"))
    wait_until(lambda: not listener.desk._jobs.empty())
    second = listener.connect()
    listener.desk.answer(TrainResult("train-1", Path("/p")))
    second.send(task_of(initial, tmp_path, task_id="new"))
    assert taken(listener.desk).task.task_id == "new"


def test_progress_is_sent_at_most_twice_a_second(
    listener: Listener, initial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("agent.trainer.time.monotonic", lambda: now[0])
    sent: list[TrainerMessage] = []
    monkeypatch.setattr(_Desk, "send", lambda _self, message: sent.append(message))
    report = _ProgressReport(listener.desk, _Job(task_of(initial, tmp_path), 1))
    for step in range(9):
        report(step, 8, None if step == 0 else 2.0)
        now[0] += 0.25
    steps = [message.step for message in sent if isinstance(message, TaskProgress)]
    assert steps == [0, 2, 4, 6, 8]
    assert sent[1] == TaskProgress("train-1", step=2, steps=8, loss=2.0, eta_s=1.5)
