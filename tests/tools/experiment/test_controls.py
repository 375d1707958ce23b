"""Other token scores: each against its definition."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agent.adapter import AdaptedModel
from agent.batches import UNLEARNT, Batch, pad
from agent.mask import Mask, weights
from agent.tokens import Row
from tools.experiment.controls import RandomScores, logit_gradient_norms, received_attention

pytestmark = pytest.mark.torch


def test_random_scores_keep_as_many_targets_as_any_and_others_each_time() -> None:
    scores = RandomScores(seed=[3, 1])
    ids = np.zeros(50, dtype=np.int64)
    kept = [weights(scores.of(ids), mask=Mask.HARD, ratio=0.3) for _ in range(2)]
    assert [int(each.sum()) for each in kept] == [15, 15]
    assert (kept[0] != kept[1]).any()
    scores.refresh(ids, np.ones(50))
    again = RandomScores(seed=[3, 1])
    assert (weights(again.of(ids), mask=Mask.HARD, ratio=0.3) == kept[0]).all()


def test_random_scores_favour_no_target() -> None:
    scores = RandomScores(seed=[0])
    ids = np.arange(20)
    kept = [weights(scores.of(ids), mask=Mask.HARD, ratio=0.5) for _ in range(400)]
    total = np.sum(kept, axis=0)
    assert 150 < total.min() <= total.max() < 250


def test_gradient_norm_is_that_of_each_targets_own_loss_at_its_logits(
    tiny_model: Callable[[], AdaptedModel], tiny_rows: list[Row]
) -> None:
    model = tiny_model()
    batch = pad(tiny_rows[:3])
    found = logit_gradient_norms(model.base, batch)
    logits = model.base(input_ids=torch.from_numpy(batch.inputs)).logits.detach()
    logits.requires_grad_()
    learnt = torch.from_numpy(batch.targets != UNLEARNT)
    labels = torch.from_numpy(batch.targets)[learnt]
    torch.nn.functional.cross_entropy(logits[learnt], labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    expected = logits.grad.norm(dim=-1).numpy()
    np.testing.assert_allclose(found[learnt.numpy()], expected[learnt.numpy()], atol=1e-5)
    assert np.isnan(found[~learnt.numpy()]).all()


def fixed(weights: Any) -> Any:
    """Return a model whose every layer has these attention weights, (rows, heads, q, k)."""
    base = SimpleNamespace(device="cpu", config=SimpleNamespace(_attn_implementation="sdpa"))
    asked: list[str] = []

    class Model:
        device = "cpu"
        config = base.config

        def set_attn_implementation(self, name: str) -> None:
            asked.append(name)

        def __call__(self, **_options: Any) -> Any:
            assert asked[-1] == "eager"
            return SimpleNamespace(attentions=[torch.full_like(weights, 9.0), weights, weights])

    model = Model()
    return model, asked


def test_attention_is_counted_at_the_place_where_the_target_stands() -> None:
    """Uniform attention gives every token with a later position the score 1, wherever it is."""
    uniform = torch.tril(torch.ones(5, 5)) / torch.arange(1, 6)[:, None]
    model, asked = fixed(uniform[None, None])
    targets = np.array([[UNLEARNT, 2, 3, 4, 5]])
    scores = received_attention(model, Batch(np.array([[1, 1, 2, 3, 4]]), targets))
    np.testing.assert_allclose(scores[0], [np.nan, 1, 1, np.nan, np.nan])
    assert asked == ["eager", "sdpa"]


def test_attention_from_padding_does_not_count() -> None:
    model, _ = fixed(torch.tril(torch.ones(4, 4))[None, None])
    targets = np.array([[7, 8, UNLEARNT, UNLEARNT]])
    scores = received_attention(model, Batch(np.array([[1, 7, 0, 0]]), targets))
    assert np.isnan(scores).all()
    targets = np.array([[7, 8, 9, UNLEARNT]])
    scores = received_attention(model, Batch(np.array([[1, 7, 8, 0]]), targets))
    np.testing.assert_allclose(scores[0], [3, np.nan, np.nan, np.nan])


def test_a_real_models_attention_is_found_and_its_kernel_put_back(
    tiny_model: Callable[[], AdaptedModel], tiny_rows: list[Row]
) -> None:
    model = tiny_model()
    before = model.base.config._attn_implementation
    scores = received_attention(model.base, pad(tiny_rows[:3]))
    assert model.base.config._attn_implementation == before
    found = scores[np.isfinite(scores)]
    assert found.size
    assert (found > 0).all()
    assert 0.3 < found.mean() < 3
