"""A trainer without torch: speaks the agent's socket and leaves real payloads of made-up deltas.

    python -m tools.soak.synthetic_trainer    the agent's configuration as one line of JSON on
                                              stdin, which is the leash, as with `agent.trainer`

What an update holds follows from the task's seed alone, which has device and round mixed in: a
device that trains a round again after a crash comes to the same bytes, and so can whoever checks
what the aggregator made of them. `synthetic.json` in the state folder says how the device behaves;
`trained.log` there gets the round's number before each payload is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agent.config import AgentConfig
from agent.leftovers import add_leftovers
from agent.payload import PayloadError, PayloadHeader, read_header, write_payload
from agent.socket_address import address_of
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
from codec.codec import Budget, FloatArray
from codec.layout import Layout
from codec.registry import codec_named
from transport.messages import Evaluation

BASE_DIGEST = hashlib.sha256(b"the base model of synthetic trainers").hexdigest()
SETTINGS_FILE = "synthetic.json"
TRAINED_FILE = "trained.log"
# [1] The deltas' standard deviation: of the order of LoRA weights after some steps.
SCALE = 0.01

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one synthetic device behaves.

    Attributes:
        examples: N_k, its weight in the mean.
        train_s: Seconds that a training takes.
        slow: Times longer than that it takes.
        steps: Progress messages of one training.
    """

    examples: int = 90
    train_s: float = 0.0
    slow: float = 1.0
    steps: int = 4

    def write(self, state_dir: Path) -> None:
        """Leave this for the trainer of that state folder."""
        (state_dir / SETTINGS_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_behaviour(state_dir: Path) -> Behaviour:
    """Return how the device of a state folder behaves."""
    path = state_dir / SETTINGS_FILE
    return (
        Behaviour(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Behaviour()
    )


def synthetic_delta(seed: int, size: int) -> FloatArray:
    """Return the delta that a task's seed stands for, float32 (size,)."""
    values: FloatArray = np.random.default_rng(seed).normal(0.0, SCALE, size).astype(np.float32)
    return values


def synthetic_segments(
    seed: int, *, codec: str, layout: Layout, budget: Budget
) -> tuple[bytes, ...]:
    """Return the segments of the update that a task's seed stands for."""
    delta = synthetic_delta(seed, layout.size)
    return codec_named(codec).encode(delta, None, layout=layout, budget=budget, seed=seed)


def main() -> int:
    """Serve tasks until the leash is cut."""
    logging.basicConfig(
        level="INFO",
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    config = AgentConfig.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_follow_leash, name="leash", daemon=True).start()
    path = config.trainer_socket
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        with address_of(path) as address:
            listener.bind(address)
        listener.listen(1)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                _serve(config.state_dir, connection)


def _follow_leash() -> None:
    # Not through sys.stdin: its lock, held while it waits, would break the interpreter's end.
    while os.read(0, 4096):
        pass
    os._exit(0)


def _serve(state_dir: Path, connection: socket.socket) -> None:
    behaviour = read_behaviour(state_dir)

    def send(message: TrainerMessage) -> None:
        connection.sendall(encode_line(message))

    send(TrainerHello(os.getpid(), "synthetic", "", behaviour.examples, 10, BASE_DIGEST))
    with connection.makefile("rb") as lines:
        for line in lines:
            match decode_line(line):
                case TrainTask() as task:
                    for step in range(1, behaviour.steps + 1):
                        time.sleep(behaviour.train_s * behaviour.slow / behaviour.steps)
                        send(TaskProgress(task.task_id, step, behaviour.steps, 3.0 / step, None))
                    send(_train(state_dir, task, behaviour))
                case EvalTask(task_id=task_id):
                    send(EvalResult(task_id, 2.5, 100, 40))
                case other:
                    raise AssertionError(other)


def _train(state_dir: Path, task: TrainTask, behaviour: Behaviour) -> TrainerMessage:
    try:
        if not _is_done(task.payload_file):
            with (state_dir / TRAINED_FILE).open("a", encoding="utf-8") as trained:
                trained.write(f"{task.round_id}\n")
            _write(task, behaviour)
    except OSError as error:
        log.error("task %s failed: %s", task.task_id, error)  # noqa: TRY400  # one clear line
        return TaskFailed(task.task_id, "disk", str(error), retryable=True)
    return TrainResult(task.task_id, task.payload_file)


def _is_done(path: Path) -> bool:
    try:
        read_header(path)
    except (OSError, PayloadError):
        return False
    return True


def _write(task: TrainTask, behaviour: Behaviour) -> None:
    layout = Layout.from_json([[name, list(shape)] for name, shape in task.layout])
    delta = synthetic_delta(task.seed, layout.size)
    add_leftovers(delta, task.leftovers, layout=layout, decay=task.residual_decay)
    budget = Budget(task.update_bytes, task.segment_bytes)
    codec = codec_named(task.codec)
    segments = codec.encode(delta, None, layout=layout, budget=budget, seed=task.seed)
    header = PayloadHeader(
        run=task.run,
        round_id=task.round_id,
        base_version=task.base_version,
        base_digest=task.base_digest,
        layout_digest=layout.digest.hex(),
        codec=task.codec,
        num_examples=behaviour.examples,
        train_loss=1.5,
        steps=behaviour.steps,
        train_s=behaviour.train_s * behaviour.slow,
        evaluation=Evaluation(2.5, 100, 40),
        lengths=tuple(len(body) for body in segments),
        leftovers_used=tuple(leftover.number for leftover in task.leftovers),
        coordinates=layout.size if task.error_feedback else 0,
    )
    encoded = delta if task.error_feedback else None
    write_payload(task.payload_file, header, segments, encoded=encoded)


if __name__ == "__main__":
    sys.exit(main())
