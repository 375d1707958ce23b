"""SCAFFOLD's client part against its own algebra."""

import numpy as np
import pytest
import torch

from tools.experiment.fleet import Control
from tools.experiment.scaffold import MeanGradient, control_delta


def test_option_ii_is_the_mean_gradient_for_plain_gradient_steps() -> None:
    """(x - y) / (K·η) - c + c_i, as the paper has it, is what the mean of the gradients gives."""
    generator = np.random.default_rng(0)
    control = Control(*generator.normal(size=(2, 5)).astype(np.float32))
    gradients = generator.normal(size=(4, 5))
    step = 0.1
    x, y = np.zeros(5), np.zeros(5)
    for gradient in gradients:
        y = y - step * (gradient - control.client + control.server)
    published = control.client - control.server + (x - y) / (4 * step)
    found = control_delta(control, mean_gradient=gradients.mean(axis=0).astype(np.float32))
    np.testing.assert_allclose(control.client + found, published, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_mean_gradient_counts_a_missing_one_as_zero() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 2))]
    mean = MeanGradient(parameters)
    with pytest.raises(AssertionError):
        mean.flat()
    parameters[0].grad = torch.tensor([2.0, 4.0])
    mean.update()
    parameters[1].grad = torch.tensor([[6.0, 8.0]])
    mean.update()
    assert mean.flat().tolist() == [2, 4, 3, 4]
