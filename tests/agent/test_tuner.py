"""Tasks in, payloads and evaluations out, and a typed reason where there is neither."""

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from agent import tuner as tuner_module
from agent.adapter import make_initial_adapter
from agent.config import AgentConfig
from agent.loss import CausalLoss
from agent.micro_batch_store import MicroBatches, note_file
from agent.model import Loaded, load
from agent.payload import PayloadHeader, read_encoded, read_header, read_segment
from agent.tasks import EvalResult, EvalTask, Leftover, TaskFailed, TrainResult, TrainTask
from agent.tokens import Row
from agent.train import TrainingDiverged
from agent.tuner import TaskCancelled, Tuner
from codec.layout import Layout
from codec.update import decode
from transport.control import TrainingPlan
from transport.messages import Evaluation

pytestmark = pytest.mark.torch
BASE = Path(__file__).parents[2] / "tools" / "base"
PLAN = TrainingPlan(local_steps=2, batch_size=2, max_tokens=24, learning_rate=1e-3, eval_examples=3)
RUN = "0" * 32


@pytest.fixture(scope="module")
def initial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("initial") / "0"
    make_initial_adapter(str(BASE), out, rank=2, alpha=4, target_modules=["q_proj"], seed=0)
    return out


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("data")
    texts = [f"def function_{n}():\n    return {n}\n" for n in range(20)]
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return load(
        AgentConfig(
            federation="f",
            client_id="c",
            state_dir=folder / "state",
            model=str(BASE),
            data={"train": folder / "t.jsonl", "heldout_share": 0.3},
            device="cpu",
        )
    )


@pytest.fixture
def tuner(loaded: Loaded) -> Any:
    tuner = Tuner(loaded)
    yield tuner
    if tuner._model is not None:
        tuner._model.detach()


@pytest.fixture
def layout(initial: Path) -> Layout:
    tensors = load_file(initial / "adapter_model.safetensors")
    return Layout.from_shapes({name: tensor.shape for name, tensor in tensors.items()})


@pytest.fixture
def task(initial: Path, layout: Layout, loaded: Loaded, tmp_path: Path) -> TrainTask:
    adapter_file = tmp_path / "0.f32"
    layout.flatten(load_file(initial / "adapter_model.safetensors")).astype("<f4").tofile(
        adapter_file
    )
    return TrainTask(
        task_id="train-1",
        run=RUN,
        round_id=1,
        base_version=0,
        base_digest=loaded.base_digest.hex(),
        adapter_file=adapter_file,
        adapter_config=(initial / "adapter_config.json").read_text(),
        layout=tuple((tensor.name, tensor.shape) for tensor in layout.tensors),
        codec="fp32",
        update_bytes=None,
        segment_bytes=2048,
        plan=PLAN,
        seed=3,
        leftovers=(),
        error_feedback=False,
        residual_decay=1.0,
        payload_file=tmp_path / "payloads" / "1.update",
    )


def evaluation_of(task: TrainTask) -> EvalTask:
    return EvalTask(
        task_id="eval-1",
        run=task.run,
        version=0,
        base_digest=task.base_digest,
        adapter_file=task.adapter_file,
        adapter_config=task.adapter_config,
        layout=task.layout,
        plan=task.plan,
    )


def changed(task: TrainTask, **changes: Any) -> TrainTask:
    return dataclasses.replace(task, **changes)


def quietly(*_: object) -> None:
    """Take a step's report and do nothing."""


def delta_in(path: Path, layout: Layout) -> np.ndarray[Any, np.dtype[np.float32]]:
    header = read_header(path)
    segments = {i: read_segment(path, header, i) for i in range(len(header.lengths))}
    return decode(header.codec, segments, layout=layout, segment_count=len(header.lengths))


def refused(tuner: Tuner, task: TrainTask) -> TaskFailed:
    answer = tuner.train(task, on_step=quietly)
    assert isinstance(answer, TaskFailed)
    assert answer.task_id == task.task_id
    assert "\n" not in answer.text
    assert not task.payload_file.exists()
    return answer


def test_payload_decodes_to_trained_minus_start_bit_by_bit(
    tuner: Tuner, task: TrainTask, layout: Layout
) -> None:
    steps: list[tuple[int, int, float | None]] = []
    answer = tuner.train(task, on_step=lambda *step: steps.append(step))
    assert answer == TrainResult("train-1", task.payload_file, micro_batch=2, out_of_memory=0)
    assert steps[0] == (0, 2, None)
    assert [(step, count) for step, count, _ in steps if step] == [(1, 2), (2, 2)]
    assert tuner._model is not None
    start = np.fromfile(task.adapter_file, dtype="<f4")
    delta = delta_in(task.payload_file, layout)
    assert delta.tobytes() == (tuner._model.read_flat() - start).tobytes()
    assert delta.any()


def test_header_says_what_was_done(tuner: Tuner, task: TrainTask, layout: Layout) -> None:
    tuner.train(task, on_step=quietly)
    header = read_header(task.payload_file)
    evaluation = tuner.evaluate(evaluation_of(task), on_step=quietly)
    assert isinstance(evaluation, EvalResult)
    assert header.evaluation is not None
    expected = PayloadHeader(
        run=RUN,
        round_id=1,
        base_version=0,
        base_digest=task.base_digest,
        layout_digest=layout.digest.hex(),
        codec="fp32",
        num_examples=len(tuner._loaded.train_rows),
        train_loss=header.train_loss,
        steps=2,
        train_s=header.train_s,
        evaluation=header.evaluation,
        lengths=header.lengths,
        leftovers_used=(),
        coordinates=0,
    )
    assert header == expected
    # The evaluation is of the version that training starts from, not of what it ends with.
    assert header.evaluation.loss == pytest.approx(evaluation.loss, rel=1e-6)
    assert header.evaluation.tokens == evaluation.tokens > 0


def test_same_task_gives_the_same_bytes(tuner: Tuner, task: TrainTask, tmp_path: Path) -> None:
    other = changed(task, payload_file=tmp_path / "other.update")
    tuner.train(task, on_step=quietly)
    tuner.train(other, on_step=quietly)
    first, second = read_header(task.payload_file), read_header(other.payload_file)
    assert first.lengths == second.lengths
    for index in range(len(first.lengths)):
        assert read_segment(task.payload_file, first, index) == read_segment(
            other.payload_file, second, index
        )


def test_repeated_task_is_answered_from_its_payload(tuner: Tuner, task: TrainTask) -> None:
    tuner.train(task, on_step=quietly)
    before = task.payload_file.stat().st_mtime_ns

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    assert isinstance(tuner.train(task, on_step=never), TrainResult)
    assert task.payload_file.stat().st_mtime_ns == before


def test_broken_payload_and_one_of_another_round_are_made_again(
    tuner: Tuner, task: TrainTask
) -> None:
    tuner.train(task, on_step=quietly)
    task.payload_file.write_bytes(task.payload_file.read_bytes()[:-1])
    tuner.train(task, on_step=quietly)
    assert read_header(task.payload_file).round_id == 1
    tuner.train(changed(task, round_id=2), on_step=quietly)
    assert read_header(task.payload_file).round_id == 2


def test_what_was_left_behind_is_added_to_the_delta_and_named(
    tuner: Tuner, task: TrainTask, layout: Layout, tmp_path: Path
) -> None:
    tuner.train(task, on_step=quietly)
    leftovers = (Leftover(4, task.payload_file, ()), Leftover(7, tmp_path / "gone", ()))
    again = changed(
        task,
        round_id=2,
        leftovers=leftovers,
        residual_decay=0.5,
        error_feedback=True,
        payload_file=tmp_path / "r.update",
    )
    tuner.train(again, on_step=quietly)
    delta = delta_in(task.payload_file, layout)
    expected = delta + np.float32(0.5) * delta
    assert delta_in(again.payload_file, layout).tobytes() == expected.tobytes()
    header = read_header(again.payload_file)
    assert header.leftovers_used == (4, 7)
    assert read_encoded(again.payload_file, header).tobytes() == expected.tobytes()


def test_papers_codec_keeps_its_budget(tuner: Tuner, task: TrainTask, layout: Layout) -> None:
    small = changed(task, codec="fstq", update_bytes=layout.size // 2)
    assert isinstance(tuner.train(small, on_step=quietly), TrainResult)
    header = read_header(small.payload_file)
    assert sum(header.lengths) <= layout.size // 2
    assert delta_in(small.payload_file, layout).any()


def test_another_adapter_takes_the_place_of_the_first(
    tuner: Tuner, task: TrainTask, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    make_initial_adapter(str(BASE), out, rank=3, alpha=4, target_modules=["v_proj"], seed=0)
    tensors = load_file(out / "adapter_model.safetensors")
    layout = Layout.from_shapes({name: tensor.shape for name, tensor in tensors.items()})
    layout.flatten(tensors).tofile(tmp_path / "other.f32")
    other = changed(
        task,
        adapter_file=tmp_path / "other.f32",
        adapter_config=(out / "adapter_config.json").read_text(),
        layout=tuple((tensor.name, tensor.shape) for tensor in layout.tensors),
        payload_file=tmp_path / "other.update",
    )
    for one in (task, other):
        assert isinstance(tuner.train(one, on_step=quietly), TrainResult)
    assert read_header(other.payload_file).layout_digest == layout.digest.hex()


def test_other_base_model_is_refused(tuner: Tuner, task: TrainTask) -> None:
    answer = refused(tuner, changed(task, base_digest="ab" * 32))
    assert (answer.reason, answer.retryable) == ("base-mismatch", False)
    assert "abababababab" in answer.text


def test_layout_that_is_not_the_adapters_is_refused(tuner: Tuner, task: TrainTask) -> None:
    for layout in (task.layout[:-1], (), (("a", (1 << 40,)),)):
        answer = refused(tuner, changed(task, layout=layout))
        assert (answer.reason, answer.retryable) == ("layout-mismatch", False)


def test_adapter_that_changes_the_base_is_refused(tuner: Tuner, task: TrainTask) -> None:
    config = {**json.loads(task.adapter_config), "init_lora_weights": "pissa"}
    answer = refused(tuner, changed(task, adapter_config=json.dumps(config)))
    assert (answer.reason, answer.retryable) == ("adapter", False)


def test_adapter_file_that_is_short_is_refused_and_one_that_is_missing_retryable(
    tuner: Tuner, task: TrainTask, tmp_path: Path
) -> None:
    task.adapter_file.write_bytes(task.adapter_file.read_bytes()[:-4])
    assert refused(tuner, task).reason == "adapter"
    answer = refused(tuner, changed(task, adapter_file=tmp_path / "absent"))
    assert (answer.reason, answer.retryable) == ("disk", True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"codec": "zip"}, "codec"),
        ({"codec": "fp32", "update_bytes": 10}, "encoding"),
        ({"plan": dataclasses.replace(PLAN, max_tokens=2, local_steps=1)}, None),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    tuner: Tuner, task: TrainTask, changes: dict[str, Any], reason: str | None
) -> None:
    answer = tuner.train(changed(task, **changes), on_step=quietly)
    assert getattr(answer, "reason", None) == reason


def test_examples_without_a_target_in_reach_are_refused(loaded: Loaded, task: TrainTask) -> None:
    unlearnt = Row(np.zeros(5, dtype=np.int32), np.zeros(5, dtype=np.bool_))
    tuner = Tuner(dataclasses.replace(loaded, train_rows=(unlearnt,)))
    assert refused(tuner, task).reason == "data"
    assert tuner._model is not None
    tuner._model.detach()


def raising(error: Exception) -> Callable[..., Any]:
    def raise_it(*_: object, **__: object) -> Any:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (TrainingDiverged("loss nan"), "diverged", False),
        (OSError(28, "No space left on device"), "disk", True),
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), "cuda", True),
        (RuntimeError("something\nelse"), "internal", True),
    ],
)
def test_failures_have_a_typed_reason(
    tuner: Tuner,
    task: TrainTask,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
    *,
    retryable: bool,
) -> None:
    monkeypatch.setattr(tuner_module, "train", raising(error))
    answer = refused(tuner, task)
    assert (answer.reason, answer.retryable) == (reason, retryable)


def test_memory_that_runs_out_is_retryable(
    tuner: Tuner, task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr("agent.loss.CausalLoss.backward", raising(error))
    answer = refused(tuner, task)
    assert (answer.reason, answer.retryable) == ("memory", True)


def test_a_disk_that_is_full_is_named_with_what_helps(
    tuner: Tuner, task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(28, "No space left on device", "/state/1.update.tmp")
    monkeypatch.setattr(tuner_module, "write_payload", raising(error))
    text = "/state/1.update.tmp: No space left on device; free some space there"
    assert refused(tuner, task).text == text


def test_memory_that_runs_out_beside_the_model_is_retryable_too(
    tuner: Tuner, task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimizer's moments, or the encoder: a smaller micro-batch is no help there."""
    monkeypatch.setattr(tuner_module, "_encode", raising(MemoryError()))
    answer = refused(tuner, task)
    assert (answer.reason, answer.retryable) == ("memory", True)
    assert "beside the model" in answer.text
    assert tuner._model is not None
    assert all(parameter.grad is None for parameter in tuner._model.parameters)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, *, fits: int) -> None:
    backward = CausalLoss.backward

    def short(self: CausalLoss, inputs: Any, *others: Any, **options: Any) -> float:
        if len(inputs) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return backward(self, inputs, *others, **options)

    monkeypatch.setattr(CausalLoss, "backward", short)


def test_the_next_task_begins_with_the_micro_batch_that_worked_even_in_another_trainer(
    loaded: Loaded, task: TrainTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, fits=1)
    state = tmp_path / "state"
    first = Tuner(loaded, MicroBatches(state))
    seen: list[bool] = []
    answer = first.train(task, on_step=lambda *_: seen.append(note_file(state).exists()))
    assert answer == TrainResult("train-1", task.payload_file, micro_batch=1, out_of_memory=1)
    assert seen == [True] * len(seen)
    assert not note_file(state).exists()
    assert first._model is not None
    first._model.detach()
    second = Tuner(loaded, MicroBatches(state))
    again = changed(task, payload_file=tmp_path / "2.update")
    assert second.train(again, on_step=quietly) == TrainResult(
        "train-1", again.payload_file, micro_batch=1, out_of_memory=0
    )
    assert isinstance(second.evaluate(evaluation_of(task), on_step=quietly), EvalResult)
    assert second.at_once is not None
    assert second.at_once.rows == 1
    assert second.micro_batches.record.out_of_memory == 1
    assert second._model is not None
    second._model.detach()


def test_a_task_that_would_only_be_ended_again_is_refused_in_one_line(
    tuner: Tuner, task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the kernel ended the trainer for memory with one example at once"
    monkeypatch.setattr(tuner.micro_batches, "refusal", lambda _work: text)
    answer = refused(tuner, task)
    assert (answer.reason, answer.text, answer.retryable) == ("memory", text, True)


def test_cancelled_task_ends_without_an_answer(tuner: Tuner, task: TrainTask) -> None:
    with pytest.raises(TaskCancelled):
        tuner.train(task, on_step=raising(TaskCancelled()))
    assert tuner.micro_batches.record.ends == 0
    assert isinstance(tuner.train(task, on_step=quietly), TrainResult)


def test_evaluation_of_another_base_is_refused_and_without_rows_has_no_tokens(
    tuner: Tuner, task: TrainTask
) -> None:
    wrong = dataclasses.replace(evaluation_of(task), base_digest="00" * 32)
    answer = tuner.evaluate(wrong, on_step=quietly)
    assert isinstance(answer, TaskFailed)
    assert answer.reason == "base-mismatch"
    without = dataclasses.replace(
        evaluation_of(task), plan=dataclasses.replace(PLAN, eval_examples=0)
    )
    assert tuner.evaluate(without, on_step=quietly) == EvalResult(
        "eval-1", loss=0.0, tokens=0, correct=0
    )


def test_held_out_loss_that_is_none_is_not_told(
    tuner: Tuner, task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter version may have diverged; neither message nor payload may hold such a number."""
    monkeypatch.setattr(
        tuner_module, "evaluate", lambda *_args, **_options: Evaluation(float("nan"), 9, 3)
    )
    nothing = EvalResult("eval-1", loss=0.0, tokens=0, correct=0)
    assert tuner.evaluate(evaluation_of(task), on_step=quietly) == nothing
    assert isinstance(tuner.train(task, on_step=quietly), TrainResult)
    assert read_header(task.payload_file).evaluation is None


def test_nothing_of_training_is_held_while_the_update_is_encoded(
    tuner: Tuner, task: TrainTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients and moments would be four adapters more beside the encoder."""
    held: list[bool] = []

    def encode(*_args: object, **_options: object) -> tuple[bytes, ...]:
        assert tuner._model is not None
        held.append(any(p.grad is not None for p in tuner._model.parameters))
        held.append(any(isinstance(each, torch.optim.Optimizer) for each in gc.get_objects()))
        return (b"segment",)

    monkeypatch.setattr(tuner_module, "_encode", encode)
    gc.collect()
    tuner.train(task, on_step=quietly)
    assert held == [False, False]


def test_an_evaluation_tells_that_it_lives_and_can_be_cancelled(
    tuner: Tuner, task: TrainTask
) -> None:
    told: list[tuple[int, int, float | None]] = []
    tuner.evaluate(evaluation_of(task), on_step=lambda *said: told.append(said))
    assert told == [(0, 0, None)] * 2  # three rows, two at once
    with pytest.raises(TaskCancelled):
        tuner.evaluate(evaluation_of(task), on_step=raising(TaskCancelled()))
