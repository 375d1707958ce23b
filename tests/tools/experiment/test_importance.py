"""What codecs are given in the Fisher's place."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from agent.adapter import AdaptedModel
from agent.batches import pad
from agent.loss import CausalLoss
from agent.tokens import Row
from codec.layout import Layout
from tools.experiment import importance

pytestmark = pytest.mark.torch
LAYOUT = Layout.from_shapes({"a": (40,), "b": (10, 6), "c": (3,)})


def test_magnitude_is_the_squared_delta_with_the_fishers_mean() -> None:
    delta = np.array([1, -2, 0, 3], dtype=np.float32)
    fisher = np.array([1, 1, 1, 4], dtype=np.float32) * np.float32(1e-9)
    found = importance.magnitude(delta, fisher)
    np.testing.assert_allclose(found / found[0], [1, 4, 0, 9], rtol=1e-6)
    assert found.mean() == pytest.approx(fisher.mean(), rel=1e-6)
    assert not importance.magnitude(np.zeros_like(delta), fisher).any()


def test_a_shuffled_fisher_keeps_its_values_and_means_but_not_their_places() -> None:
    fisher = np.random.default_rng(0).exponential(size=LAYOUT.size).astype(np.float32)
    fisher[:40] *= 100
    found = importance.shuffled(fisher, layout=LAYOUT, generator=np.random.default_rng(2))
    means = [found[t.offset : t.end].mean() for t in LAYOUT.tensors]
    expected = [fisher[t.offset : t.end].mean() for t in LAYOUT.tensors]
    assert sorted(means) == pytest.approx(sorted(expected), rel=1e-5)
    assert means != pytest.approx(expected, rel=1e-5)
    within = found[:40] / found[:40].mean()
    assert sorted(within) == pytest.approx(sorted(fisher[:40] / fisher[:40].mean()), rel=1e-4)
    assert (np.abs(within - fisher[:40] / fisher[:40].mean()) > 1e-3).any()


def test_a_matrix_without_fisher_takes_on_what_it_is_dealt() -> None:
    fisher = np.zeros(LAYOUT.size, dtype=np.float32)
    fisher[40:100] = 2.0
    for seed in range(8):
        found = importance.shuffled(fisher, layout=LAYOUT, generator=np.random.default_rng(seed))
        assert np.isfinite(found).all()
        parts = [found[t.offset : t.end] for t in LAYOUT.tensors]
        assert sorted(float(part.mean()) for part in parts) == [0, 0, 2]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_oracle_is_the_mean_square_of_every_rows_own_gradient(
    tiny_model: Callable[[], AdaptedModel],
    tiny_start: Callable[[AdaptedModel], np.ndarray[tuple[int], np.dtype[np.float32]]],
    tiny_rows: list[Row],
    *,
    frozen: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By brute force: batches of one, whatever rows stand beside each other in the fast pass."""
    monkeypatch.setattr(importance, "ROWS_AT_ONCE", 5)
    model = tiny_model()
    model.load_flat(tiny_start(model))
    for tensor, parameter in zip(model.layout.tensors, model.parameters, strict=True):
        parameter.requires_grad_(not (frozen and "lora_A" in tensor.name))
    loss = CausalLoss(model.base)
    total = np.zeros(model.layout.size)
    for row in tiny_rows:
        model.drop_gradients()
        batch = pad([row])
        weights = (batch.targets != -100).astype(np.float32)
        arrays = (batch.inputs, batch.targets, weights)
        loss.backward(*map(torch.from_numpy, arrays), normaliser=float(weights.sum()))
        parts = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in model.parameters
        ]
        total += torch.cat(parts).double().square().numpy()
    found = importance.oracle(model, tiny_rows, loss=loss)
    expected = total / len(tiny_rows)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())
    assert found.dtype == np.float32
    assert found.any()
    assert all(parameter.grad is None for parameter in model.parameters)
