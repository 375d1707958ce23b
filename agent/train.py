"""Local fine-tuning: one client's steps from the round's adapter to its delta and Fisher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from agent.adapter import AdaptedModel
from agent.batches import UNLEARNT, Batch, draws, pad
from agent.fisher import DiagonalFisher, EmbeddingScores
from agent.loss import CausalLoss
from agent.mask import Mask, TokenScores, weights
from agent.memory import RowsAtOnce
from agent.tokens import Row
from transport.control import TrainingPlan

FloatArray = npt.NDArray[np.float32]
# step (1 to steps), steps, the step's loss in nats
OnStep = Callable[[int, int, float], None]

# Gradients through a float16 base underflow below 6e-8; the factor is halved when they overflow.
_FLOAT16_SCALE = 2.0**15


class TrainingDiverged(Exception):
    """The loss or a gradient is not finite: these settings do not train this model."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What local fine-tuning gives.

    Attributes:
        delta: float32 (layout.size,), trained - start.
        fisher: float32 (layout.size,), the diagonal Fisher of the adapter.
        train_loss: Mean over the steps of the loss that was minimised, in nats; on masked steps
            it is that of the kept targets.
        steps: Optimizer steps.
        num_examples: Examples that were drawn from.
        seconds: Of wall clock.
        rows_at_once: Examples that went through the model at once in the end.
    """

    delta: FloatArray
    fisher: FloatArray
    train_loss: float
    steps: int
    num_examples: int
    seconds: float
    rows_at_once: int


def train(
    model: AdaptedModel,
    rows: Sequence[Row],
    *,
    start: FloatArray,
    plan: TrainingPlan,
    seed: int,
    on_step: OnStep,
    at_once: RowsAtOnce | None = None,
    make_steps: MakeSteps | None = None,
) -> Trained:
    """Return what `plan.local_steps` AdamW steps from `start` on these rows give.

    The same arguments on the same machine give the same result: token scores and optimizer begin
    anew. How many rows go through the model at once changes sums only by rounding: each step sees
    the same examples with the same weights. (Dropout, where the adapter has it, draws per pass, so
    that it falls on other activations; its law is the same.)

    Args:
        model: The base with an adapter of any values in it; it holds the trained ones afterwards.
        rows: Rows cut to the plan's length, each with at least one target.
        start: float32 (layout.size,), the round's adapter.
        plan: How every device of the run trains.
        seed: Of the batches' order and of dropout.
        on_step: Called after each step; what it raises ends the training.
        at_once: How memory is used, lowered where it runs out; None begins with whole batches.
        make_steps: Makes another kind of steps, for experiments; None makes the agent's.

    Raises:
        TrainingDiverged: A loss or gradient is not finite.
        OutOfMemory: A single row does not fit into memory.
    """
    began = time.monotonic()
    model.load_flat(start)
    at_once = at_once or RowsAtOnce(plan.batch_size, checkpointing=plan.gradient_checkpointing)
    run = (make_steps or Steps)(model, plan, seed=seed, at_once=at_once)
    order = draws(len(rows), rows=plan.batch_size * plan.accumulation_steps, seed=seed)
    losses: list[float] = []
    with _training_mode(model):
        for step in range(plan.local_steps):
            losses.append(run.step(step, [rows[index] for index in next(order)]))
            on_step(step + 1, plan.local_steps, losses[-1])
    fisher = run.fisher.flat()
    del run  # the optimizer's moments are twice the adapter, and encoding needs the room
    model.drop_gradients()
    delta = model.read_flat()
    delta -= start
    if not (np.isfinite(delta).all() and np.isfinite(fisher).all()):
        raise TrainingDiverged("the trained adapter is not finite; lower the learning rate")
    return Trained(
        delta=delta,
        fisher=fisher,
        train_loss=math.fsum(losses) / len(losses),
        steps=len(losses),
        num_examples=len(rows),
        seconds=time.monotonic() - began,
        rows_at_once=at_once.rows,
    )


class Steps:
    """What lasts from step to step of one training; experiments override its public methods.

    Attributes:
        scores: What a mask chooses targets by.
        fisher: Of all steps so far.
        embedding_scores: float32 (rows, positions), how sensitive the last step's loss is at each
            position; zeros where that step refreshes no scores.
    """

    def __init__(
        self,
        model: AdaptedModel,
        plan: TrainingPlan,
        *,
        seed: int,
        at_once: RowsAtOnce,
        loss: CausalLoss | None = None,
    ) -> None:
        self._model = model
        self._plan = plan
        self._seed = seed
        self._at_once = at_once
        self._mask = Mask(plan.mask)
        self._loss = loss or CausalLoss(model.base)
        embedding = model.base.get_input_embeddings()
        self.scores = TokenScores(embedding.weight.shape[0], decay=plan.score_decay)
        self._collector = EmbeddingScores(embedding)
        self._optimizer = torch.optim.AdamW(
            model.parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self._scale = _FLOAT16_SCALE if embedding.weight.dtype is torch.float16 else 1.0
        self.fisher = DiagonalFisher(model.parameters, decay=plan.score_decay)

    def step(self, step: int, rows: Sequence[Row]) -> float:
        """Take one optimizer step, and return its loss."""
        batch = pad(rows)
        refresh = self._mask is not Mask.OFF and step % self._plan.mask_interval == 0
        kept = self._weights(batch, mask=Mask.OFF if refresh else self._mask)
        # A step that is begun anew, for memory or an overflow, draws the same dropout again.
        self._step_seed = (self._seed + step) % 2**63
        loss, norm = self._gradients(batch, kept, refresh=refresh)
        self.fisher.update()
        self._clip(self.corrected(norm))
        self._optimizer.step()
        return loss

    def _weights(self, batch: Batch, *, mask: Mask) -> FloatArray:
        """Return float32 (rows, positions), the weight of each target's loss; 0 elsewhere."""
        learnt = batch.targets != UNLEARNT
        kept = np.zeros(batch.targets.shape, dtype=np.float32)
        scores = self.scores.of(batch.targets[learnt])
        kept[learnt] = weights(scores, mask=mask, ratio=self._plan.token_ratio)
        return kept

    def _gradients(self, batch: Batch, kept: FloatArray, *, refresh: bool) -> tuple[float, float]:
        """Leave the step's gradients in the parameters; return its loss and the gradient's norm."""
        while True:
            loss = self._at_once.run(
                lambda at_once: self._backward(batch, kept, at_once, refresh),
                release=self._release,
                may_checkpoint=bool(self._model.base.supports_gradient_checkpointing),
            )
            norm = self._unscale()
            if math.isfinite(loss) and math.isfinite(norm):
                break
            if self._scale == 1.0:
                raise TrainingDiverged(
                    f"loss {loss:.4g}, gradient norm {norm:.4g}; lower the learning rate"
                )
            self._scale = max(1.0, self._scale / 2)
        if refresh:
            self.refresh_scores(batch)
        return loss, norm

    def refresh_scores(self, batch: Batch) -> None:
        """Take in how sensitive the loss is at each target of a refresh step."""
        learnt = batch.targets != UNLEARNT
        self.scores.refresh(batch.targets[learnt], self.embedding_scores[learnt])

    def corrected(self, norm: float) -> float:
        """Return the norm of the gradients that the optimizer steps with: here those of the loss.

        Called once per step, after the Fisher has taken in the loss's gradients and before they
        are clipped.

        Args:
            norm: Of the loss's gradients, which the parameters hold.
        """
        return norm

    def _backward(self, batch: Batch, kept: FloatArray, at_once: int, refresh: bool) -> float:  # noqa: FBT001  # of one call
        torch.manual_seed(self._step_seed)
        _set_checkpointing(self._model.base, on=self._at_once.checkpointing)
        self._optimizer.zero_grad()
        self.embedding_scores = np.zeros(kept.shape, dtype=np.float32)
        normaliser = float(kept.sum(dtype=np.float64))
        device = self._model.device
        loss = 0.0
        for first in range(0, len(kept), at_once):
            part = slice(first, first + at_once)
            window = (part, slice(0, _reach(kept[part])))
            with self._collector.collecting() if refresh else nullcontext():
                loss += self._loss.backward(
                    torch.from_numpy(batch.inputs[window]).to(device),
                    torch.from_numpy(batch.targets[window]).to(device),
                    torch.from_numpy(kept[window]).to(device),
                    normaliser=normaliser,
                    scale=self._scale,
                )
            if refresh:
                self.embedding_scores[window] = self._collector.take()
        return loss

    def _release(self) -> None:
        """Let go of what a backward pass that was broken off has left."""
        self._model.drop_gradients()
        self._collector.forget()

    @torch.no_grad()
    def _unscale(self) -> float:
        """Undo the loss scale, and return the norm of all gradients."""
        if self._scale != 1.0:
            for parameter in self._model.parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self._scale)
        return self._norm()

    def _norm(self) -> float:
        gradients = [p.grad for p in self._model.parameters if p.grad is not None]
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    @torch.no_grad()
    def _clip(self, norm: float) -> None:
        limit = self._plan.clip_norm
        if limit and norm > limit:
            for parameter in self._model.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(limit / norm)


class MakeSteps(Protocol):
    """Makes what lasts from step to step of one training."""

    def __call__(
        self, model: AdaptedModel, plan: TrainingPlan, *, seed: int, at_once: RowsAtOnce
    ) -> Steps:
        """Return it for one training."""
        ...


def _reach(kept: FloatArray) -> int:
    """Return how many positions reach the loss: nothing after the last kept target does."""
    columns = np.flatnonzero(kept.any(axis=0))
    return int(columns[-1]) + 1 if len(columns) else 1


@contextmanager
def _training_mode(model: AdaptedModel) -> Iterator[None]:
    model.base.train()
    try:
        yield
    finally:
        _set_checkpointing(model.base, on=False)
        model.base.eval()


def _set_checkpointing(base: Any, *, on: bool) -> None:
    if on == base.is_gradient_checkpointing:
        return
    if on:
        # The re-entrant kind loses the gradient where a layer's input needs none, and with a
        # frozen embedding none does.
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    else:
        base.disable_input_require_grads()
        base.gradient_checkpointing_disable()
