"""Does the trainer's tasks: an adapter in, an encoded update or an evaluation out."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from agent.adapter import AdaptedModel, AdapterError, read_adapter_file
from agent.evaluate import chosen, evaluate
from agent.leftovers import add_leftovers
from agent.memory import OutOfMemory, RowsAtOnce, free_memory, is_out_of_memory
from agent.micro_batch_store import MicroBatches
from agent.model import Loaded
from agent.payload import PayloadError, PayloadHeader, read_header, write_payload
from agent.tasks import EvalResult, EvalTask, TaskFailed, TrainResult, TrainTask
from agent.tokens import Row
from agent.train import Trained, TrainingDiverged, train
from codec.codec import Budget, Codec
from codec.errors import CodecError, InvalidInput, UnknownCodec
from codec.layout import Layout
from codec.registry import codec_named
from transport.control import TrainingPlan
from transport.messages import Evaluation

_LOG = logging.getLogger(__name__)
FloatArray = npt.NDArray[np.float32]
OnStep = Callable[[int, int, float | None], None]
Answer = TypeVar("Answer")


class TaskCancelled(Exception):
    """Raised by a task's `on_step` to end it without an answer."""


class _Refused(Exception):
    """The task cannot be done; becomes a `TaskFailed`."""

    def __init__(self, reason: str, text: str, *, retryable: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.retryable = retryable


class Tuner:
    """The base model with the newest task's adapter in it, and the device's rows.

    Attributes:
        micro_batches: What is known of the device's memory.
        at_once: How the running task uses memory, or the last one did; None before the first.
    """

    def __init__(self, loaded: Loaded, micro_batches: MicroBatches | None = None) -> None:
        """Begin without an adapter.

        Args:
            loaded: What `agent.model.load` returned.
            micro_batches: What is known of the device's memory; None begins anew.
        """
        self._loaded = loaded
        self.micro_batches = micro_batches or MicroBatches(None)
        self._model: AdaptedModel | None = None
        self.at_once: RowsAtOnce | None = None

    def train(self, task: TrainTask, *, on_step: OnStep) -> TrainResult | TaskFailed:
        """Return the result of a training whose payload is durable, or why there is none.

        Args:
            task: Where its payload file is there already, nothing is trained.
            on_step: Called with step, steps and loss; what it raises ends the task.
        """
        if _is_done(task):
            return TrainResult(task.task_id, task.payload_file)

        def work(at_once: RowsAtOnce) -> TrainResult:
            self._train(task, on_step, at_once)
            return TrainResult(task.task_id, task.payload_file, at_once.rows, at_once.out_of_memory)

        return self._attempt(task, work)

    def evaluate(self, task: EvalTask, *, on_step: OnStep) -> EvalResult | TaskFailed:
        """Return how an adapter does on the held-out rows; 0 tokens where that is not known.

        Args:
            task: What to evaluate.
            on_step: Called as a sign of life, at step 0 of 0; what it raises ends the task.
        """

        def work(at_once: RowsAtOnce) -> EvalResult:
            model, _ = self._prepare(task)
            evaluation = self._evaluate(model, task, at_once, lambda: on_step(0, 0, None))
            if evaluation is None:
                return EvalResult(task.task_id, loss=0.0, tokens=0, correct=0)
            return EvalResult(task.task_id, evaluation.loss, evaluation.tokens, evaluation.correct)

        return self._attempt(task, work)

    def _attempt(
        self, task: TrainTask | EvalTask, work: Callable[[RowsAtOnce], Answer]
    ) -> Answer | TaskFailed:
        """Return what the work gives, or why it gives nothing."""
        try:
            with self._remembering(task) as at_once:
                return work(at_once)
        except TaskCancelled:
            raise
        except Exception as error:  # noqa: BLE001  # a task that fails must not end the trainer
            failed = _failure(task.task_id, error)
        if failed.reason == "memory":
            # The error is gone by now, and with it all that its frames held.
            if self._model:
                self._model.drop_gradients()
            free_memory()
        return failed

    @contextmanager
    def _remembering(self, task: TrainTask | EvalTask) -> Iterator[RowsAtOnce]:
        """Use memory as earlier tasks taught, and learn from this one, however it ends."""
        known, plan = self.micro_batches, task.plan
        kind = f"{task.base_digest[:16]} {self._loaded.precision} {plan.max_tokens} {plan.mask}"
        work = f"{kind} {_task_layout(task).digest.hex()[:16]}"
        if text := known.refusal(work):
            raise OutOfMemory(text)
        setting = known.begin(
            task_id=task.task_id,
            work=work,
            batch=plan.batch_size,
            checkpointing=plan.gradient_checkpointing,
            training=isinstance(task, TrainTask),
        )
        at_once = RowsAtOnce(
            setting.rows, checkpointing=setting.checkpointing, on_lower=known.lower
        )
        self.at_once = at_once
        done = False
        try:
            yield at_once
            done = True
        finally:
            known.end(at_once.setting, out_of_memory=at_once.out_of_memory, done=done)

    def _train(self, task: TrainTask, on_step: OnStep, at_once: RowsAtOnce) -> None:
        codec = _codec(task.codec)
        model, start = self._prepare(task)
        rows = self._cut(self._loaded.train_rows, task.plan)
        if not rows:
            raise _Refused("data", "no example has a target within the plan's max_tokens")
        steps = task.plan.local_steps
        on_step(0, steps, None)
        evaluation = self._evaluate(model, task, at_once, lambda: on_step(0, steps, None))
        trained = train(
            model,
            rows,
            start=start,
            plan=task.plan,
            seed=task.seed,
            on_step=on_step,
            at_once=at_once,
        )
        delta = trained.delta
        # Encoding needs room of its own, beside a base model that already fills the memory.
        del start
        add_leftovers(delta, task.leftovers, layout=model.layout, decay=task.residual_decay)
        segments = _encode(codec, delta, trained.fisher, task=task, layout=model.layout)
        header = _header(task, model.layout, trained, evaluation, segments)
        task.payload_file.parent.mkdir(parents=True, exist_ok=True)
        encoded = delta if task.error_feedback else None
        write_payload(task.payload_file, header, segments, encoded=encoded)
        _LOG.info(
            "round %d: trained %d steps in %.1f s, loss %.4f, %d bytes in %d segments",
            task.round_id,
            trained.steps,
            trained.seconds,
            trained.train_loss,
            sum(header.lengths),
            len(segments),
        )

    def _prepare(self, task: TrainTask | EvalTask) -> tuple[AdaptedModel, FloatArray]:
        """Return the model with the task's adapter in it, everything that the task says checked."""
        if task.base_digest != self._loaded.base_digest.hex():
            raise _Refused(
                "base-mismatch",
                f"the run's base model is {task.base_digest[:12]}, this device has "
                f"{self._loaded.base_digest.hex()[:12]}; install the run's base model",
            )
        model = self._adapted(task.adapter_config)
        if _task_layout(task).digest != model.layout.digest:
            raise _Refused(
                "layout-mismatch", "the run's layout is not the one that its adapter_config gives"
            )
        flat = read_adapter_file(task.adapter_file, model.layout)
        model.load_flat(flat)
        return model, flat

    def _adapted(self, config_text: str) -> AdaptedModel:
        if self._model is not None and self._model.config_text == config_text:
            return self._model
        if self._model is not None:
            self._model.detach()
            self._model = None
        self._model = AdaptedModel(self._loaded.base, config_text)
        return self._model

    def _cut(self, rows: Sequence[Row], plan: TrainingPlan) -> list[Row]:
        longest = min(plan.max_tokens, self._loaded.max_positions)
        cut = (row.cut(longest) for row in rows)
        return [row for row in cut if row.targets]

    def _evaluate(
        self,
        model: AdaptedModel,
        task: TrainTask | EvalTask,
        at_once: RowsAtOnce,
        alive: Callable[[], None],
    ) -> Evaluation | None:
        """Return how the adapter does; None without held-out rows, or where the loss is none."""
        plan = task.plan
        rows = chosen(self._cut(self._loaded.heldout_rows, plan), plan.eval_examples)
        if not rows:
            return None
        evaluation = evaluate(model.base, rows, rows_at_once=at_once, on_part=alive)
        if not math.isfinite(evaluation.loss):
            _LOG.warning("the held-out loss is %s: no evaluation", evaluation.loss)
            return None
        return evaluation


def _is_done(task: TrainTask) -> bool:
    try:
        header = read_header(task.payload_file)
    except (OSError, PayloadError):
        return False
    return (header.run, header.round_id, header.base_version) == (
        task.run,
        task.round_id,
        task.base_version,
    )


def _codec(name: str) -> Codec:
    try:
        return codec_named(name)
    except UnknownCodec as error:
        raise _Refused("codec", str(error)) from error


def _task_layout(task: TrainTask | EvalTask) -> Layout:
    try:
        return Layout.from_json([[name, list(shape)] for name, shape in task.layout])
    except CodecError as error:
        raise _Refused("layout-mismatch", f"the run's layout: {error}") from error


def _encode(
    codec: Codec, delta: FloatArray, fisher: FloatArray, *, task: TrainTask, layout: Layout
) -> tuple[bytes, ...]:
    budget = Budget(update_bytes=task.update_bytes, segment_bytes=task.segment_bytes)
    try:
        return codec.encode(delta, fisher, layout=layout, budget=budget, seed=task.seed)
    except InvalidInput as error:
        raise _Refused("encoding", f"the update cannot be encoded: {error}") from error


def _header(
    task: TrainTask,
    layout: Layout,
    trained: Trained,
    evaluation: Evaluation | None,
    segments: Sequence[bytes],
) -> PayloadHeader:
    return PayloadHeader(
        run=task.run,
        round_id=task.round_id,
        base_version=task.base_version,
        base_digest=task.base_digest,
        layout_digest=layout.digest.hex(),
        codec=task.codec,
        num_examples=trained.num_examples,
        train_loss=trained.train_loss,
        steps=trained.steps,
        train_s=trained.seconds,
        evaluation=evaluation,
        lengths=tuple(len(segment) for segment in segments),
        leftovers_used=tuple(leftover.number for leftover in task.leftovers),
        coordinates=layout.size if task.error_feedback else 0,
    )


def _failure(task_id: str, error: Exception) -> TaskFailed:
    match error:
        case _Refused():
            failed = TaskFailed(task_id, error.reason, str(error), error.retryable)
        case AdapterError():
            failed = TaskFailed(task_id, "adapter", str(error), retryable=False)
        case TrainingDiverged():
            failed = TaskFailed(task_id, "diverged", str(error), retryable=False)
        case OutOfMemory():
            failed = TaskFailed(task_id, "memory", str(error), retryable=True)
        case _ if is_out_of_memory(error):
            # Outside of the passes through the model: the optimizer's moments, or the encoder.
            text = "memory ran out beside the model; stop other programs, or lower the run's rank"
            failed = TaskFailed(task_id, "memory", text, retryable=True)
        case OSError():
            failed = TaskFailed(task_id, "disk", _disk_trouble(error), retryable=True)
        case RuntimeError() if "CUDA error" in str(error):
            text = f"{_line(error)}; the trainer starts anew (if it stays so, look into dmesg)"
            failed = TaskFailed(task_id, "cuda", text, retryable=True)
        case _:
            text = f"{type(error).__name__}: {_line(error)}"
            _LOG.debug("task %s", task_id, exc_info=error)
            failed = TaskFailed(task_id, "internal", text, retryable=True)
    _LOG.error("task %s failed (%s): %s", task_id, failed.reason, failed.text)
    return failed


def _disk_trouble(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    remedy = "; free some space there" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
    return f"{where}{error.strerror or error}{remedy}"


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
