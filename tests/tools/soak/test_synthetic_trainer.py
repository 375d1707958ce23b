"""The synthetic trainer's content follows from seeds alone, and goes through the real payload."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest

from agent.payload import read_header, read_segment
from agent.tasks import TaskFailed, TrainResult, TrainTask
from codec.codec import Budget
from codec.layout import Layout
from tools.soak import synthetic_trainer
from tools.soak.synthetic_trainer import (
    BASE_DIGEST,
    TRAINED_FILE,
    Behaviour,
    read_behaviour,
    synthetic_delta,
    synthetic_segments,
)
from transport import crash_points
from transport.control import TrainingPlan
from transport.crash_points import Fault

LAYOUT = Layout.from_shapes({"a": (8, 16), "b": (16, 8)})


@pytest.fixture
def task(tmp_path: Path) -> TrainTask:
    return TrainTask(
        task_id="train-r-1",
        run="r",
        round_id=1,
        base_version=0,
        base_digest=BASE_DIGEST,
        adapter_file=tmp_path / "adapter.f32",
        adapter_config="{}",
        layout=tuple((name, tuple(shape)) for name, shape in LAYOUT.to_json()),
        codec="fstq-r",
        update_bytes=400,
        segment_bytes=128,
        plan=TrainingPlan(),
        seed=11,
        leftovers=(),
        error_feedback=False,
        residual_decay=1.0,
        payload_file=tmp_path / "r-1.upd",
    )


def test_an_update_is_what_its_seed_stands_for(task: TrainTask, tmp_path: Path) -> None:
    result = synthetic_trainer._train(tmp_path, task, Behaviour(examples=7))
    assert result == TrainResult(task.task_id, task.payload_file)
    header = read_header(task.payload_file)
    assert header.num_examples == 7
    found = tuple(read_segment(task.payload_file, header, i) for i in range(len(header.lengths)))
    assert found == synthetic_segments(11, codec="fstq-r", layout=LAYOUT, budget=Budget(400, 128))
    assert (tmp_path / TRAINED_FILE).read_text() == "1\n"


def test_a_payload_that_is_there_is_not_trained_again(task: TrainTask, tmp_path: Path) -> None:
    for _ in range(2):
        synthetic_trainer._train(tmp_path, task, Behaviour())
    assert (tmp_path / TRAINED_FILE).read_text() == "1\n"


def test_a_full_disk_is_a_task_that_may_be_tried_again(
    task: TrainTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("trainer-file-written", error=errno.ENOSPC)
    monkeypatch.setattr(crash_points, "_fault", fault)
    answer = synthetic_trainer._train(tmp_path, task, Behaviour())
    assert isinstance(answer, TaskFailed)
    assert (answer.reason, answer.retryable) == ("disk", True)
    assert not task.payload_file.exists()


def test_with_feedback_the_payload_holds_what_was_encoded(task: TrainTask, tmp_path: Path) -> None:
    ordered = dataclasses.replace(task, codec="fstq", error_feedback=True)
    synthetic_trainer._train(tmp_path, ordered, Behaviour())
    assert read_header(task.payload_file).coordinates == LAYOUT.size


def test_deltas_of_other_seeds_are_others() -> None:
    assert np.array_equal(synthetic_delta(3, 100), synthetic_delta(3, 100))
    assert not np.array_equal(synthetic_delta(3, 100), synthetic_delta(4, 100))


def test_a_behaviour_is_left_in_the_state_folder(tmp_path: Path) -> None:
    assert read_behaviour(tmp_path) == Behaviour()
    Behaviour(examples=3, slow=10.0).write(tmp_path)
    assert read_behaviour(tmp_path) == Behaviour(examples=3, slow=10.0)
