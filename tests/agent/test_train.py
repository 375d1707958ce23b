"""Local fine-tuning: signs, exactness, masks, accumulation, and what ends it."""

import dataclasses
import functools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from agent import train as train_module
from agent.adapter import AdaptedModel
from agent.batches import UNLEARNT, Batch, pad
from agent.loss import CausalLoss
from agent.memory import OutOfMemory, RowsAtOnce
from agent.micro_batch import Setting
from agent.tokens import Row
from agent.train import Trained, TrainingDiverged, train
from transport.control import TrainingPlan

pytestmark = pytest.mark.torch
VOCABULARY = 40
PLAN = TrainingPlan(local_steps=3, batch_size=4, max_tokens=16, learning_rate=1e-2, clip_norm=1.0)


def adapted(*, dtype: torch.dtype = torch.float32, **options: float) -> AdaptedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    base = LlamaForCausalLM(config)
    with torch.no_grad():
        base.lm_head.weight.mul_(30)  # a random output layer is too weak to be right about anything
    base = base.to(dtype).eval().requires_grad_(requires_grad=False)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    text = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
    return AdaptedModel(base, json.dumps({**text, **options, "target_modules": targets}))


def rows(count: int = 12, *, prompt: int = 3) -> list[Row]:
    """Return rows of one repeated phrase, so that a few steps learn it."""
    phrase = np.arange(1, 11, dtype=np.int32)
    made = []
    for index in range(count):
        ids = np.resize(np.roll(phrase, index), 10 + index % 4)
        made.append(Row(ids, np.arange(len(ids)) >= max(prompt, 1)))
    return made


def start_of(model: AdaptedModel) -> np.ndarray[Any, np.dtype[np.float32]]:
    generator = np.random.default_rng(5)
    return generator.normal(scale=0.05, size=model.layout.size).astype(np.float32)


def run(plan: TrainingPlan, *, model: AdaptedModel | None = None, seed: int = 1) -> Trained:
    model = model or adapted()
    start = start_of(model)
    return train(model, rows(), start=start, plan=plan, seed=seed, on_step=lambda *_: None)


def changed(**changes: Any) -> TrainingPlan:
    return dataclasses.replace(PLAN, **changes)


def test_delta_is_trained_minus_start_exactly() -> None:
    model = adapted()
    start = start_of(model)
    trained = train(model, rows(), start=start, plan=PLAN, seed=1, on_step=lambda *_: None)
    assert trained.delta.dtype == np.float32
    assert (trained.delta == model.read_flat() - start).all()
    assert trained.delta.any()


def test_delta_lowers_the_loss_and_its_opposite_raises_it() -> None:
    model = adapted()
    start = start_of(model)
    plan = changed(local_steps=20)
    losses: list[float] = []
    trained = train(
        model, rows(), start=start, plan=plan, seed=1, on_step=lambda _s, _n, x: losses.append(x)
    )
    assert len(losses) == 20
    assert losses[-1] < 0.7 * losses[0]
    assert trained.train_loss == pytest.approx(sum(losses) / 20)
    batch = pad(rows())
    loss = CausalLoss(model.base)

    def at(flat: np.ndarray[Any, np.dtype[np.float32]]) -> float:
        model.load_flat(flat)
        tally = loss.tally(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))
        return tally.loss / tally.tokens

    assert at(start + trained.delta) < at(start) < at(start - trained.delta / 10)


def test_same_arguments_same_bytes_whatever_was_trained_before() -> None:
    model = adapted()
    first = run(PLAN, model=model)
    run(changed(mask="hard", local_steps=2), model=model, seed=9)
    again = run(PLAN, model=model)
    assert first.delta.tobytes() == again.delta.tobytes()
    assert first.fisher.tobytes() == again.fisher.tobytes()
    assert run(PLAN, seed=2).delta.tobytes() != first.delta.tobytes()


def test_no_step_with_learning_rate_so_small_that_nothing_moves_gives_zero_delta() -> None:
    trained = run(changed(learning_rate=1e-30))
    assert not trained.delta.any()
    assert trained.fisher.any()


def test_base_stays_as_it_is_bit_by_bit() -> None:
    model = adapted()
    before = {n: p.clone() for n, p in model.base.named_parameters() if "lora" not in n}
    run(PLAN, model=model)
    after = {n: p for n, p in model.base.named_parameters() if "lora" not in n}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not model.base.training


def test_fisher_is_the_average_of_squared_gradients_before_clipping() -> None:
    """Recomputed with autograd by hand along the same path."""
    model = adapted()
    plan = changed(local_steps=3, clip_norm=1e-3, score_decay=0.7)
    trained = run(plan, model=model)
    squares: list[torch.Tensor] = []
    reference = adapted()
    reference.load_flat(start_of(reference))
    optimizer = torch.optim.AdamW(reference.parameters, lr=plan.learning_rate, weight_decay=0.0)
    order = train_module.draws(12, rows=4, seed=1)
    for _ in range(3):
        batch = pad([rows()[index] for index in next(order)])
        targets = torch.from_numpy(batch.targets)
        logits = reference.base(input_ids=torch.from_numpy(batch.inputs)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        squares.append(torch.cat([p.grad.reshape(-1) ** 2 for p in reference.parameters]))  # type: ignore[union-attr,operator]
        torch.nn.utils.clip_grad_norm_(reference.parameters, 1e-3)
        optimizer.step()
    expected = torch.zeros_like(squares[0])
    for square in squares:
        expected = 0.7 * expected + 0.3 * square
    scale = float(expected.max())
    np.testing.assert_allclose(
        trained.fisher, expected.numpy() / (1 - 0.7**3), rtol=2e-3, atol=1e-4 * scale
    )
    np.testing.assert_allclose(
        trained.delta, reference.read_flat() - start_of(reference), rtol=1e-2, atol=2e-4
    )


@pytest.mark.parametrize("mask", ["off", "hard", "soft"])
def test_accumulation_changes_only_rounding(mask: str) -> None:
    whole = run(changed(batch_size=4, mask=mask, mask_interval=2))
    parts = run(changed(batch_size=2, accumulation_steps=2, mask=mask, mask_interval=2))
    single = run(changed(batch_size=1, accumulation_steps=4, mask=mask, mask_interval=2))
    for other in (parts, single):
        assert other.train_loss == pytest.approx(whole.train_loss, rel=1e-4)
        scale = float(whole.fisher.max())
        np.testing.assert_allclose(other.fisher, whole.fisher, rtol=1e-2, atol=1e-4 * scale)


@pytest.mark.parametrize("mask", ["off", "hard"])
def test_gradient_checkpointing_changes_only_rounding(mask: str) -> None:
    model = adapted()
    plain = run(changed(mask=mask), model=model)
    saving = run(changed(mask=mask, gradient_checkpointing=True), model=model)
    np.testing.assert_allclose(
        saving.fisher, plain.fisher, rtol=1e-2, atol=1e-4 * float(plain.fisher.max())
    )
    assert run(changed(mask=mask), model=model).delta.tobytes() == plain.delta.tobytes()


def weights_of_steps(plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Train, and return the (targets, weights) that each step's loss was taken with."""
    seen: list[Any] = []
    backward: Callable[..., float] = CausalLoss.backward

    def spy(self: CausalLoss, inputs: Any, targets: Any, weights: Any, **options: Any) -> float:
        seen.append((targets.numpy().copy(), weights.numpy().copy()))
        return backward(self, inputs, targets, weights, **options)

    monkeypatch.setattr(CausalLoss, "backward", spy)
    run(plan)
    return seen


def test_hard_mask_keeps_its_share_between_refreshes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = changed(local_steps=5, mask="hard", mask_interval=3, token_ratio=0.3)
    learnt_per_row = [row.targets for row in rows()]
    order = train_module.draws(12, rows=4, seed=1)
    for step, (targets, kept) in enumerate(weights_of_steps(plan, monkeypatch)):
        total = sum(learnt_per_row[index] for index in next(order))
        expected = total if step % 3 == 0 else -(-total * 3 // 10)
        assert kept.sum() == expected, step
        assert not kept[targets == UNLEARNT].any()


def test_prompt_tokens_never_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    for mask in ("off", "hard", "soft"):
        for targets, kept in weights_of_steps(changed(mask=mask, mask_interval=2), monkeypatch):
            assert (targets == UNLEARNT).any()
            assert not kept[targets == UNLEARNT].any()
            assert kept[targets != UNLEARNT].any()


def test_scores_are_those_of_the_embeddings_gradients_under_target_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        train_module.TokenScores, "refresh", lambda _self, ids, scores: taken.append((ids, scores))
    )
    run(changed(local_steps=1, mask="hard"))
    ((ids, scores),) = taken
    reference = adapted()
    reference.load_flat(start_of(reference))
    batch = pad([rows()[i] for i in next(train_module.draws(12, rows=4, seed=1))])
    learnt = batch.targets != UNLEARNT
    embedded = reference.base.get_input_embeddings()(torch.from_numpy(batch.inputs))
    embedded = embedded.detach().requires_grad_()
    logits = reference.base(inputs_embeds=embedded).logits
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten()
    ).backward()
    by_hand = embedded.grad.square().sum(-1).numpy()[learnt]
    assert ids.tolist() == batch.targets[learnt].tolist()
    np.testing.assert_allclose(scores, by_hand, rtol=1e-3, atol=1e-6 * by_hand.max())


def test_out_of_memory_halves_the_rows_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(PLAN)
    backward = CausalLoss.backward

    def short(self: CausalLoss, inputs: Any, *others: Any, **options: Any) -> float:
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return backward(self, inputs, *others, **options)

    monkeypatch.setattr(CausalLoss, "backward", short)
    halved = run(PLAN)
    assert (whole.rows_at_once, halved.rows_at_once) == (4, 2)
    assert halved.train_loss == pytest.approx(whole.train_loss, rel=1e-4)
    np.testing.assert_allclose(
        halved.fisher, whole.fisher, rtol=1e-2, atol=1e-4 * float(whole.fisher.max())
    )


@functools.cache
def shared() -> AdaptedModel:
    model = adapted()
    model.load_flat(start_of(model))
    model.base.train()
    return model


def one_step(batch: Batch, kept: Any, *, at_once: int) -> tuple[Any, Any, Any]:
    """Return a step's gradient and token scores, and its Fisher, cut into micro-batches."""
    plan = changed(batch_size=len(kept))
    run = train_module.Steps(shared(), plan, seed=1, at_once=RowsAtOnce(at_once))
    run._step_seed = 1
    taken: list[Any] = []
    run.scores = SimpleNamespace(refresh=lambda _ids, scores: taken.append(scores.copy()))  # type: ignore[assignment]
    run._gradients(batch, kept, refresh=True)
    run.fisher.update()
    gradient = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in shared().parameters
    ]
    return torch.cat(gradient).numpy(), run.fisher.flat(), taken[0]


def close(found: Any, expected: Any, *, tolerance: float) -> bool:
    return float(np.linalg.norm(found - expected)) <= tolerance * float(np.linalg.norm(expected))


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(2, 14), min_size=1, max_size=7),
    at_once=st.integers(1, 7),
    seed=st.integers(0, 1000),
    soft=st.booleans(),
)
def test_micro_batches_add_up_to_the_whole_steps_gradient_fisher_and_scores(
    lengths: list[int], at_once: int, seed: int, *, soft: bool
) -> None:
    """Whatever lengths, targets and weights: a token weighs what it weighs in the whole batch."""
    generator = np.random.default_rng(seed)
    made = []
    for length in lengths:
        learnt = generator.random(length) < 0.6
        learnt[-1] = True
        made.append(Row(generator.integers(0, VOCABULARY, length, dtype=np.int32), learnt))
    batch = pad(made)
    kept = (batch.targets != UNLEARNT).astype(np.float32)
    if soft:
        kept *= generator.uniform(0.1, 1.0, kept.shape).astype(np.float32)
    gradient, fisher, scores = one_step(batch, kept, at_once=len(made))
    cut = one_step(batch, kept, at_once=at_once)
    assert close(cut[0], gradient, tolerance=1e-5)
    assert close(cut[1], fisher, tolerance=2e-5)
    assert close(cut[2], scores, tolerance=1e-4)


def test_fisher_of_a_cut_step_is_not_the_sum_of_its_parts_squares() -> None:
    """Squares of parts would make of the same step another estimate on a smaller device."""
    batch = pad(rows(4))
    kept = (batch.targets != UNLEARNT).astype(np.float32)
    gradient, fisher, _ = one_step(batch, kept, at_once=2)
    np.testing.assert_allclose(fisher, gradient**2, rtol=1e-5)
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        only = np.zeros_like(kept)
        only[part] = kept[part]
        share = float(only.sum() / kept.sum())
        halves.append(share * one_step(batch, only, at_once=4)[0])
    assert close(sum(halves), gradient, tolerance=1e-5)
    squares = sum(half**2 for half in halves)
    assert not close(squares, fisher, tolerance=0.2)


def test_a_row_that_only_fits_with_checkpointing_gets_it_and_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = adapted()
    whole = run(PLAN, model=model)
    backward = CausalLoss.backward

    def short(self: CausalLoss, inputs: Any, *others: Any, **options: Any) -> float:
        if len(inputs) > 1 or not model.base.is_gradient_checkpointing:
            raise RuntimeError("CUDA error: out of memory")
        return backward(self, inputs, *others, **options)

    monkeypatch.setattr(CausalLoss, "backward", short)
    at_once = RowsAtOnce(4)
    saving = train(
        model,
        rows(),
        start=start_of(model),
        plan=PLAN,
        seed=1,
        on_step=lambda *_: None,
        at_once=at_once,
    )
    assert (at_once.setting, at_once.out_of_memory) == (Setting(1, checkpointing=True), 3)
    assert not model.base.is_gradient_checkpointing
    assert close(saving.fisher, whole.fisher, tolerance=1e-3)


def test_a_step_that_is_begun_anew_draws_the_same_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that what memory did in one step does not change what the next ones draw."""
    model = adapted(lora_dropout=0.5)
    backward = CausalLoss.backward
    calls: list[int] = []

    def once_short(self: CausalLoss, inputs: Any, *others: Any, **options: Any) -> float:
        calls.append(len(inputs))
        loss = backward(self, inputs, *others, **options)
        if len(calls) == 2:
            raise MemoryError
        return loss

    def trained(at_once: int) -> Trained:
        return train(
            model,
            rows(),
            start=start_of(model),
            plan=PLAN,
            seed=1,
            on_step=lambda *_: None,
            at_once=RowsAtOnce(at_once),
        )

    steady = trained(2)
    monkeypatch.setattr(CausalLoss, "backward", once_short)
    shaken = trained(3)
    assert calls[:4] == [3, 1, 2, 2]
    assert shaken.delta.tobytes() == steady.delta.tobytes()


def test_a_single_row_that_does_not_fit_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(CausalLoss, "backward", never)
    with pytest.raises(OutOfMemory):
        run(PLAN)


def test_divergence_is_told() -> None:
    model = adapted()
    huge = np.full(model.layout.size, 1e30, dtype=np.float32)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        train(model, rows(), start=huge, plan=PLAN, seed=1, on_step=lambda *_: None)


def test_half_precision_base_scales_its_loss_and_goes_on_after_an_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    single = run(PLAN)
    monkeypatch.setattr(train_module, "_FLOAT16_SCALE", 2.0**30)
    half = run(PLAN, model=adapted(dtype=torch.float16))
    assert np.isfinite(half.fisher).all()
    assert half.train_loss == pytest.approx(single.train_loss, rel=2e-2)
    correlation = np.corrcoef(half.fisher, single.fisher)[0, 1]
    assert correlation > 0.99


def test_steps_are_reported_and_what_on_step_raises_ends_the_training() -> None:
    class Stop(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def on_step(step: int, steps: int, _loss: float) -> None:
        seen.append((step, steps))
        if step == 2:
            raise Stop

    model = adapted()
    with pytest.raises(Stop):
        train(model, rows(), start=start_of(model), plan=PLAN, seed=1, on_step=on_step)
    assert seen == [(1, 3), (2, 3)]
    assert not model.base.training
