"""A client's part of SCAFFOLD: what its gradients were, and how its control variate changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from codec.codec import FloatArray
from tools.experiment.fleet import Control


class MeanGradient:
    """The mean of the loss's gradients over a client's local steps, before any correction."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = tuple(parameters)
        self._sums = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients that the parameters hold now; none counts as zero."""
        self._steps += 1
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad)

    def flat(self) -> FloatArray:
        """Return float32 (coordinates,), in the parameters' order."""
        assert self._steps, "no step was taken"
        total = torch.cat([part.reshape(-1) for part in self._sums])
        mean: FloatArray = (total / self._steps).cpu().numpy()
        return mean


def control_delta(control: Control, *, mean_gradient: FloatArray) -> FloatArray:
    """Return float32 (coordinates,), a client's new control variate minus its old one.

    Option II sets c_i to c_i - c + (x - y) / (K·η): with plain gradient steps, x - y is η times the
    sum of the K corrected gradients g + c - c_i, and so the new c_i is the mean of the g. That form
    is used here: with AdamW, whose steps are about η long whatever the gradients are, the quotient
    is no gradient, and would outweigh all gradients that it is added to.

    Args:
        control: What the local steps were corrected with.
        mean_gradient: float32 (coordinates,), of the loss over these steps.

    Source: Karimireddy et al., "SCAFFOLD", ICML 2020, Algorithm 1 and equation 4.
    """
    change: FloatArray = np.subtract(mean_gradient, control.client, dtype=np.float32)
    return change
