"""Local training under every option: what the option promises, and nothing else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agent.adapter import AdaptedModel
from agent.loss import CausalLoss
from agent.tokens import Row
from agent.train import TrainingDiverged, train
from tools.experiment import importance, local
from tools.experiment.fleet import Control, LocalUpdate
from tools.experiment.local import masked_plan, train_client
from tools.experiment.local_options import Importance, LocalOptions, TokenMask
from tools.experiment.merging import MergedLoss
from transport.control import TrainingPlan

pytestmark = pytest.mark.torch
PLAN = TrainingPlan(local_steps=4, batch_size=3, max_tokens=16, learning_rate=1e-3)
MASKED = (TokenMask.HARD, TokenMask.RANDOM, TokenMask.GRADIENT_NORM, TokenMask.ATTENTION)
Flat = np.ndarray[tuple[int], np.dtype[np.float32]]


class Trainer:
    """One client with the tiny model; `weights` has what each step's targets weighed."""

    def __init__(self, model: AdaptedModel, rows: list[Row], start: Flat) -> None:
        self.model, self.rows, self.start = model, rows, start
        self.plan = PLAN
        self.weights: list[Any] = []
        self.plain = CausalLoss(model.base)

    def train(
        self, *, control: Control | None = None, seed: int = 7, **options: Any
    ) -> LocalUpdate:
        self.weights.clear()
        return train_client(
            self.model,
            self.rows,
            start=self.start,
            plan=self.plan,
            seed=seed,
            options=LocalOptions(**options),
            control=control,
            loss_for=self._loss,
        )

    def _loss(self, options: LocalOptions) -> CausalLoss:
        loss = MergedLoss(self.model.base, share=options.merge) if options.merge else self.plain
        backward = type(loss).backward

        def recorded(inputs: Any, targets: Any, weights: Any, **rest: Any) -> float:
            self.weights.append(weights.clone())
            return backward(loss, inputs, targets, weights, **rest)

        loss.backward = recorded  # type: ignore[method-assign]
        return loss

    @property
    def zeros(self) -> Flat:
        return np.zeros(self.model.layout.size, dtype=np.float32)


@pytest.fixture
def trainer(
    tiny_model: Callable[[], AdaptedModel],
    tiny_rows: list[Row],
    tiny_start: Callable[[AdaptedModel], Flat],
) -> Trainer:
    model = tiny_model()
    return Trainer(model, tiny_rows, tiny_start(model))


@pytest.mark.parametrize("mask", ["off", "hard", "soft"])
def test_the_agents_own_options_give_the_agents_own_results_bit_for_bit(
    trainer: Trainer, mask: Any
) -> None:
    found = trainer.train(mask=TokenMask(mask), ratio=0.4, interval=2)
    plan = dataclasses.replace(PLAN, mask=mask, token_ratio=0.4, mask_interval=2)
    expected = train(
        trainer.model,
        trainer.rows,
        start=trainer.start,
        plan=plan,
        seed=7,
        on_step=lambda *_: None,
    )
    assert found.delta.tobytes() == expected.delta.tobytes()
    assert found.importance is not None
    assert found.importance.tobytes() == expected.fisher.tobytes()
    assert found.num_examples == 12
    assert found.train_s > 0
    assert found.control_delta is None


@pytest.mark.parametrize("mask", MASKED)
def test_masks_differ_in_which_targets_they_keep_not_when_or_how_many(
    trainer: Trainer, mask: TokenMask
) -> None:
    """Steps 0 and 3 refresh with all targets; steps 1 and 2 keep the ratio of theirs."""
    trainer.train()
    full = [int((each > 0).sum()) for each in trainer.weights]
    trainer.train(mask=mask, ratio=0.3, interval=3)
    kept = [int(each.sum()) for each in trainer.weights]
    assert kept[0] == full[0]
    assert kept[3] == full[3]
    for place in (1, 2):
        assert kept[place] == -(-3 * full[place] // 10) < full[place]


def test_no_two_masks_keep_the_same_targets(trainer: Trainer) -> None:
    deltas = [trainer.train(mask=mask, ratio=0.3, interval=2).delta for mask in TokenMask]
    assert len({delta.tobytes() for delta in deltas}) == len(TokenMask)


def test_a_random_mask_is_drawn_from_the_seed(trainer: Trainer) -> None:
    options: dict[str, Any] = {"mask": TokenMask.RANDOM, "ratio": 0.5}
    first, again = trainer.train(**options), trainer.train(**options)
    assert first.delta.tobytes() == again.delta.tobytes()
    trainer.train(**options, seed=7)
    kept = [each.clone() for each in trainer.weights]
    trainer.train(**options, seed=8)
    assert any(
        a.shape != b.shape or bool((a != b).any())
        for a, b in zip(kept, trainer.weights, strict=True)
    )


def test_masked_plan_says_hard_to_the_agent_where_the_score_is_another() -> None:
    plan = masked_plan(PLAN, LocalOptions(mask=TokenMask.ATTENTION, ratio=0.2, interval=5))
    assert (plan.mask, plan.token_ratio, plan.mask_interval) == ("hard", 0.2, 5)
    assert masked_plan(PLAN, LocalOptions(mask=TokenMask.SOFT)).mask == "soft"
    assert masked_plan(PLAN, LocalOptions()).mask == "off"


def test_a_small_prox_changes_little_and_a_great_one_keeps_the_adapter(trainer: Trainer) -> None:
    """AdamW's first step knows no distance yet; from then on, all steps lead back."""
    trainer.plan = dataclasses.replace(PLAN, local_steps=24)
    plain = np.abs(trainer.train().delta).mean()
    little = np.abs(trainer.train(prox=1e-6).delta).mean()
    great = np.abs(trainer.train(prox=1e6).delta).mean()
    assert little == pytest.approx(plain, rel=0.05)
    assert great < PLAN.learning_rate < plain
    assert great < 0.2 * plain


def test_prox_adds_mu_times_the_distance_to_the_gradient(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, float]] = []
    corrected = local._LocalSteps.corrected

    def watched(self: Any, norm: float) -> float:
        parameters = [p for p in self._model.parameters if p.grad is not None]
        before = torch.cat([p.grad.flatten() for p in parameters])
        result = corrected(self, norm)
        after = torch.cat([p.grad.flatten() for p in parameters])
        now = torch.cat([p.detach().flatten() for p in parameters])
        seen.append((after - before, now - torch.from_numpy(trainer.start), result - after.norm()))
        return result

    monkeypatch.setattr(local._LocalSteps, "corrected", watched)
    trainer.train(prox=3.0)
    assert not seen[0][0].any()
    for added, distance, norm_error in seen:
        torch.testing.assert_close(added, 3.0 * distance, rtol=1e-3, atol=1e-6)
        assert abs(float(norm_error)) < 1e-4


def test_scaffold_with_equal_controls_trains_as_without_and_learns_the_mean_gradient(
    trainer: Trainer,
) -> None:
    plain = trainer.train()
    zero = trainer.train(scaffold=True, control=Control(trainer.zeros, trainer.zeros))
    assert zero.delta.tobytes() == plain.delta.tobytes()
    assert zero.control_delta is not None
    assert zero.control_delta.any()
    same = np.full_like(trainer.zeros, 0.25)
    equal = trainer.train(scaffold=True, control=Control(same, same))
    assert equal.delta.tobytes() == plain.delta.tobytes()
    assert equal.control_delta is not None
    np.testing.assert_allclose(equal.control_delta, zero.control_delta - same, atol=1e-6)


def test_scaffold_follows_the_servers_control_where_the_clients_differs(trainer: Trainer) -> None:
    server = np.full_like(trainer.zeros, 100.0)
    found = trainer.train(scaffold=True, control=Control(server, trainer.zeros))
    # Every gradient is now positive, so that every AdamW step goes down by its full length.
    np.testing.assert_allclose(found.delta, -4 * PLAN.learning_rate, rtol=1e-2)
    assert found.control_delta is not None
    assert np.abs(found.control_delta).max() < 50, "the correction is no part of the mean"


def test_scaffold_without_control_is_our_mistake(trainer: Trainer) -> None:
    with pytest.raises(AssertionError):
        trainer.train(scaffold=True)


def test_a_frozen_a_stays_as_it_was_and_can_be_trained_again(trainer: Trainer) -> None:
    plain = trainer.train()
    frozen = trainer.train(freeze_a=True)
    for tensor in trainer.model.layout.tensors:
        part = slice(tensor.offset, tensor.end)
        moves = "lora_B" in tensor.name
        assert frozen.delta[part].any() == moves
        assert frozen.importance is not None
        assert frozen.importance[part].any() == moves
    assert trainer.train().delta.tobytes() == plain.delta.tobytes()


def test_merging_trains_on_fewer_targets_and_leaves_the_next_training_alone(
    trainer: Trainer,
) -> None:
    plain = trainer.train()
    merged = trainer.train(merge=0.4)
    assert merged.delta.tobytes() != plain.delta.tobytes()
    assert np.abs(merged.delta).mean() == pytest.approx(np.abs(plain.delta).mean(), rel=0.5)
    assert trainer.train().delta.tobytes() == plain.delta.tobytes()


def test_importance_changes_what_the_codec_is_given_and_no_delta(trainer: Trainer) -> None:
    updates = {each: trainer.train(importance=each) for each in Importance}
    assert len({update.delta.tobytes() for update in updates.values()}) == 1
    fisher = updates[Importance.FISHER].importance
    assert fisher is not None
    assert updates[Importance.UNIFORM].importance is None
    given = {each: update.importance for each, update in updates.items()}
    np.testing.assert_array_equal(given[Importance.GRADIENT_NORM], np.sqrt(fisher))
    delta = updates[Importance.FISHER].delta
    magnitude = given[Importance.MAGNITUDE]
    assert magnitude is not None
    assert np.corrcoef(magnitude, np.square(delta))[0, 1] == pytest.approx(1, abs=1e-5)
    shuffled = given[Importance.RANDOM]
    assert shuffled is not None
    assert shuffled.tobytes() != fisher.tobytes()
    again = trainer.train(importance=Importance.RANDOM).importance
    assert again is not None
    assert again.tobytes() == shuffled.tobytes()
    for each in given.values():
        if each is not None:
            assert each.dtype == np.float32
            assert np.isfinite(each).all()
            assert (each >= 0).all()


def test_the_oracle_is_asked_at_the_trained_adapter(trainer: Trainer) -> None:
    update = trainer.train(importance=Importance.ORACLE)
    trainer.model.load_flat(trainer.start + update.delta)
    expected = importance.oracle(trainer.model, trainer.rows, loss=trainer.plain)
    assert update.importance is not None
    np.testing.assert_allclose(update.importance, expected, rtol=1e-3, atol=1e-6 * expected.max())


def test_a_loss_that_is_not_finite_ends_the_training(trainer: Trainer) -> None:
    trainer.plan = dataclasses.replace(PLAN, learning_rate=1.0, clip_norm=0.0, local_steps=200)
    trainer.start = trainer.start * np.float32(1e20)
    with pytest.raises(TrainingDiverged):
        trainer.train()
