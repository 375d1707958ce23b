from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.tasks import (
    MAX_LINE_BYTES,
    EvalResult,
    EvalTask,
    Leftover,
    MalformedLine,
    TaskFailed,
    TaskProgress,
    TrainerHello,
    TrainerMessage,
    TrainerRefusal,
    TrainResult,
    TrainTask,
    decode_line,
    encode_line,
)
from transport.control import TrainingPlan

TRAIN = TrainTask(
    task_id="train-1",
    run="ab" * 16,
    round_id=1,
    base_version=0,
    base_digest="cd" * 32,
    adapter_file=Path("/s/0.f32"),
    adapter_config='{"r": 4}',
    layout=(("a", (2, 3)), ("b", ())),
    codec="fstq",
    update_bytes=None,
    segment_bytes=1024,
    plan=TrainingPlan(),
    seed=2**63 - 1,
    leftovers=(Leftover(3, Path("/s/1.upd"), (0, 2)),),
    error_feedback=True,
    residual_decay=0.9,
    payload_file=Path("/s/p.upd"),
)
MESSAGES: list[TrainerMessage] = [
    TRAIN,
    EvalTask("eval-1", "r", 3, "d", Path("/a"), "{}", (("a", (1,)),), TrainingPlan()),
    TrainerHello(1, "2.4", "", 90, 10, "cd" * 32),
    TrainerRefusal("trainer-config", "no text", retryable=False),
    TaskProgress("t", 1, 8, None, 2.5),
    TrainResult("t", Path("/p")),
    EvalResult("t", 2.5, 100, 40),
    TaskFailed("t", "memory", "it is short\nof it", retryable=True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_is_one_line_and_comes_back(message: TrainerMessage) -> None:
    line = encode_line(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_prefix_is_refused(message: TrainerMessage) -> None:
    line = encode_line(message).rstrip(b"\n")
    for length in range(len(line)):
        with pytest.raises(MalformedLine):
            decode_line(line[:length])


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedLine):
        decode_line(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"TrainResult","task_id":"t"}',
        b'{"type":"TrainResult","task_id":"t","payload_file":"/p","more":1}',
        b'{"type":"EvalResult","task_id":"t","loss":NaN,"tokens":1,"correct":1}',
        b'{"type":"EvalResult","task_id":"t","loss":"2.5","tokens":1,"correct":1}',
        b'{"type":"Exec","task_id":"t"}',
        b"[" * 100_000,
    ],
)
def test_wrong_fields_are_refused(line: bytes) -> None:
    with pytest.raises(MalformedLine):
        decode_line(line)


def test_a_loss_that_is_not_finite_is_told_as_unknown() -> None:
    message = object.__new__(TaskProgress)
    for name, value in (("task_id", "t"), ("step", 1), ("steps", 2), ("loss", math.nan)):
        object.__setattr__(message, name, value)
    for name in ("micro_batch", "out_of_memory"):
        object.__setattr__(message, name, 0)
    object.__setattr__(message, "eta_s", None)
    object.__setattr__(message, "type", "TaskProgress")
    decoded = decode_line(encode_line(message))
    assert isinstance(decoded, TaskProgress)
    assert decoded.loss is None


def test_lines_over_the_limit_are_refused_on_both_sides() -> None:
    with pytest.raises(MalformedLine, match="at most"):
        decode_line(b" " * (MAX_LINE_BYTES + 1))
    with pytest.raises(ValueError, match="at most"):
        encode_line(TaskFailed("t", "r", "x" * MAX_LINE_BYTES, retryable=False))
