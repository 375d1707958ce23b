"""oneDNN's products in place of torch's: the same function, forward and backward."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from agent.adapter import AdaptedModel
from tools.experiment import kernels

pytestmark = pytest.mark.torch


def test_outputs_and_gradients_are_those_of_torch_but_for_rounding(
    tiny_model: Callable[[], AdaptedModel],
    tiny_start: Callable[[AdaptedModel], np.ndarray[tuple[int], np.dtype[np.float32]]],
) -> None:
    if not kernels.available():
        pytest.skip("this torch has no oneDNN product")
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 40, size=(2, 9)))
    found = []
    for onednn in (False, True):
        model = tiny_model()
        model.load_flat(tiny_start(model))
        if onednn:
            # Seven linear layers in each of three, and the output layer.
            assert kernels.use_onednn(model.base) == 22
        logits = model.base(input_ids=ids).logits
        logits.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters if p.grad is not None])
        found.append((logits.detach(), gradient))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-6)


def test_a_torch_without_it_is_left_alone(
    tiny_model: Callable[[], AdaptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert kernels.use_onednn(model.base) == 0


def test_a_product_that_is_not_built_in_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_arguments: object) -> torch.Tensor:
        raise NotImplementedError

    monkeypatch.setattr(kernels, "_product", refuses)
    assert not kernels.available()
