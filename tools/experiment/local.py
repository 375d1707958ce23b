"""One client's local training as a method has it: the agent's own steps, with what is changed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import numpy as np
import torch

from agent.adapter import AdaptedModel
from agent.batches import UNLEARNT, Batch
from agent.loss import CausalLoss
from agent.memory import RowsAtOnce
from agent.tokens import Row
from agent.train import Steps, Trained, train
from codec.codec import FloatArray
from tools.experiment import importance
from tools.experiment.controls import (
    RandomScores,
    ScoreTargets,
    logit_gradient_norms,
    received_attention,
)
from tools.experiment.fleet import Control, LocalUpdate
from tools.experiment.local_options import Importance, LocalOptions, TokenMask
from tools.experiment.scaffold import MeanGradient, control_delta
from transport.control import TrainingPlan

# Options → the loss that the local steps minimise.
LossFor = Callable[[LocalOptions], CausalLoss]

# Streams of a client's seed that are not the batches'.
_MASK_STREAM = 1
_IMPORTANCE_STREAM = 2

# What a plan takes for no learning rate, and for a table in which late rows count as early ones.
_NOTHING_LEARNT = 1e-30
_ALL_ALIKE = 0.999

_SCORERS: dict[TokenMask, ScoreTargets] = {
    TokenMask.GRADIENT_NORM: logit_gradient_norms,
    TokenMask.ATTENTION: received_attention,
}


def train_client(
    model: AdaptedModel,
    rows: Sequence[Row],
    *,
    start: FloatArray,
    plan: TrainingPlan,
    seed: int,
    options: LocalOptions,
    control: Control | None,
    loss_for: LossFor,
) -> LocalUpdate:
    """Return what a client's local steps from `start` give under a method's options.

    With the default options it is the agents' own training, bit for bit. Batches follow from the
    seed alone, whatever the options are.

    Args:
        model: The base with an adapter in it.
        rows: The client's, cut to the plan's length.
        start: float32 (layout.size,), the round's adapter.
        plan: What all methods share; its mask is the options'.
        seed: Of batches, masks and importance, each from a stream of its own.
        options: How the method differs from plain training.
        control: SCAFFOLD's variates, exactly where the options say so.
        loss_for: Gives the model's loss.

    Raises:
        TrainingDiverged: A loss or gradient is not finite.
    """
    assert options.scaffold == (control is not None)
    began = time.process_time()
    gradients = MeanGradient(model.parameters) if control else None
    make_steps = _MakeSteps(
        options, start=start, control=control, gradients=gradients, loss_for=loss_for
    )
    with _frozen_a(model, frozen=options.freeze_a):
        trained = train(
            model,
            rows,
            start=start,
            plan=masked_plan(plan, options),
            seed=seed,
            on_step=lambda *_: None,
            make_steps=make_steps,
        )
        weights = _importance(
            options, trained, model=model, rows=rows, seed=seed, loss_for=loss_for
        )
    change = None
    if control is not None and gradients is not None:
        change = control_delta(control, mean_gradient=gradients.flat())
    return LocalUpdate(
        delta=trained.delta,
        importance=weights,
        num_examples=trained.num_examples,
        train_s=time.process_time() - began,
        control_delta=change,
    )


def token_order(
    model: AdaptedModel,
    rows: Sequence[Row],
    *,
    adapter: FloatArray,
    plan: TrainingPlan,
    seed: int,
    options: LocalOptions,
    loss_for: LossFor,
) -> list[int]:
    """Return the ids that some rows' targets have, those first that an adapter's mask keeps first.

    A table of token scores is filled as the agent fills its own, from every row, and nothing is
    learnt meanwhile. Without a mask it is the agent's own score, the Fisher proxy.

    Args:
        model: The base with an adapter in it.
        rows: Cut to the plan's length; all are looked at.
        adapter: float32 (layout.size,).
        plan: The trial's.
        seed: Of a random mask.
        options: Whose mask names the score.
        loss_for: Gives the model's loss.
    """
    mask = options.mask if options.mask is not TokenMask.OFF else TokenMask.HARD
    options = replace(options, mask=mask, interval=1, prox=0.0, scaffold=False)
    make_steps = _MakeSteps(options, start=adapter, loss_for=loss_for)
    looked = replace(
        masked_plan(plan, options),
        local_steps=math.ceil(len(rows) / (plan.batch_size * plan.accumulation_steps)),
        learning_rate=_NOTHING_LEARNT,
        score_decay=_ALL_ALIKE,
    )
    train(
        model,
        rows,
        start=adapter,
        plan=looked,
        seed=seed,
        on_step=lambda *_: None,
        make_steps=make_steps,
    )
    ids = np.unique(np.concatenate([np.asarray(row.ids)[np.asarray(row.learnt)] for row in rows]))
    assert make_steps.made is not None
    scores = make_steps.made.scores.of(ids)
    return [int(each) for each in ids[np.argsort(-scores, kind="stable")]]


def masked_plan(plan: TrainingPlan, options: LocalOptions) -> TrainingPlan:
    """Return the plan with the options' mask: to the agent, one by another score is a hard one."""
    mask: Literal["off", "hard", "soft"] = "hard"
    if options.mask is TokenMask.OFF:
        mask = "off"
    elif options.mask is TokenMask.SOFT:
        mask = "soft"
    return replace(
        plan,
        mask=mask,
        token_ratio=options.ratio,
        mask_interval=options.interval,
    )


class _LocalSteps(Steps):
    """The agent's steps with a method's token scores and gradient terms."""

    def vary(
        self,
        options: LocalOptions,
        *,
        start: FloatArray,
        control: Control | None,
        gradients: MeanGradient | None,
    ) -> None:
        """Take on a method's options; `gradients` is told of every step's."""
        self._scorer = _SCORERS.get(options.mask)
        if options.mask is TokenMask.RANDOM:
            self.scores = RandomScores(seed=[self._seed, _MASK_STREAM])
        self._prox = options.prox
        self._start = _split(self._model, start) if options.prox else []
        self._correction = _split(self._model, control.server - control.client) if control else []
        self._sums = gradients

    def refresh_scores(self, batch: Batch) -> None:
        """Take in another score than the agent's where the mask has one."""
        if self._scorer is None:
            super().refresh_scores(batch)
            return
        scores = self._scorer(self._model.base, batch)
        scored = (batch.targets != UNLEARNT) & np.isfinite(scores)
        self.scores.refresh(batch.targets[scored], scores[scored])

    @torch.no_grad()
    def corrected(self, norm: float) -> float:
        """Add SCAFFOLD's c - c_i and FedProx's μ(θ - θ_t) to the gradients."""
        if self._sums is not None:
            self._sums.update()
        if not self._correction and not self._prox:
            return norm
        parameters = self._model.parameters
        for parameter, change in zip(parameters, self._correction, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(change)
        for parameter, start in zip(parameters, self._start, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._prox)
        return self._norm()


@dataclass
class _MakeSteps:
    """Makes steps as a method has them for `train`, and keeps them."""

    options: LocalOptions
    _: KW_ONLY
    start: FloatArray
    control: Control | None = None
    gradients: MeanGradient | None = None
    loss_for: LossFor
    made: Steps | None = None

    def __call__(
        self, model: AdaptedModel, plan: TrainingPlan, *, seed: int, at_once: RowsAtOnce
    ) -> Steps:
        loss = self.loss_for(self.options)
        steps = _LocalSteps(model, plan, seed=seed, at_once=at_once, loss=loss)
        steps.vary(self.options, start=self.start, control=self.control, gradients=self.gradients)
        self.made = steps
        return steps


def _split(model: AdaptedModel, flat: FloatArray) -> list[torch.Tensor]:
    """Return a flat array as one tensor for each of the adapter's parameters."""
    return [
        torch.from_numpy(flat[tensor.offset : tensor.end].reshape(tensor.shape)).to(model.device)
        for tensor in model.layout.tensors
    ]


@contextmanager
def _frozen_a(model: AdaptedModel, *, frozen: bool) -> Iterator[None]:
    """Keep LoRA's A as it is loaded, where `frozen`: no gradient of it is computed."""
    parameters = [
        parameter
        for tensor, parameter in zip(model.layout.tensors, model.parameters, strict=True)
        if frozen and tensor.name.endswith(".lora_A.weight")
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)  # noqa: FBT003  # torch's own, by place alone
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)  # noqa: FBT003  # the same


def _importance(
    options: LocalOptions,
    trained: Trained,
    *,
    model: AdaptedModel,
    rows: Sequence[Row],
    seed: int,
    loss_for: LossFor,
) -> FloatArray | None:
    match options.importance:
        case Importance.FISHER:
            return trained.fisher
        case Importance.UNIFORM:
            return None
        case Importance.MAGNITUDE:
            return importance.magnitude(trained.delta, trained.fisher)
        case Importance.GRADIENT_NORM:
            return np.sqrt(trained.fisher)
        case Importance.RANDOM:
            generator = np.random.default_rng([seed, _IMPORTANCE_STREAM])
            return importance.shuffled(trained.fisher, layout=model.layout, generator=generator)
        case Importance.ORACLE:
            return importance.oracle(model, rows, loss=loss_for(options))
