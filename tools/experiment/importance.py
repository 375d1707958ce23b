"""What a codec can be given as the importance of coordinates, beside the agent's own Fisher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from agent.adapter import AdaptedModel
from agent.batches import UNLEARNT, pad
from agent.loss import CausalLoss
from agent.tokens import Row
from codec.codec import FloatArray
from codec.layout import Layout

# Rows whose gradients are held side by side: as many times the adapter in memory.
ROWS_AT_ONCE = 16


def magnitude(delta: FloatArray, fisher: FloatArray) -> FloatArray:
    """Return the squared delta, scaled to the Fisher's mean; zeros where nothing was trained."""
    squared = np.square(delta, dtype=np.float64)
    mean = squared.mean()
    if mean > 0:
        squared *= fisher.mean(dtype=np.float64) / mean
    return squared.astype(np.float32)


def shuffled(fisher: FloatArray, *, layout: Layout, generator: np.random.Generator) -> FloatArray:
    """Return a Fisher that says nothing: its own values and matrix means, at random places.

    Coordinates are shuffled within each matrix, and the means among the matrices, so that neither
    a codec that ranks coordinates nor one that ranks matrices can tell it from a real one by its
    spread. A matrix without any Fisher takes on the mean it is dealt in all coordinates.

    Args:
        fisher: float32 (layout.size,), ≥ 0.
        layout: The adapter's.
        generator: Of the places.
    """
    parts = [fisher[tensor.offset : tensor.end].astype(np.float64) for tensor in layout.tensors]
    means = np.array([part.mean() for part in parts])
    dealt = means[generator.permutation(len(parts))]
    made = np.empty(layout.size, dtype=np.float32)
    for tensor, part, mean, given in zip(layout.tensors, parts, means, dealt, strict=True):
        relative = generator.permutation(part) / mean if mean > 0 else np.ones(tensor.size)
        made[tensor.offset : tensor.end] = given * relative
    return made


def oracle(model: AdaptedModel, rows: Sequence[Row], *, loss: CausalLoss) -> FloatArray:
    """Return the adapter's empirical Fisher: the mean over rows of the squared gradient of each.

    A row's loss is the mean over its targets, so that the result is what batches of one row give.
    Rows go through the model side by side: a linear layer's gradient of row n is the sum over
    positions of (gradient of output) ⊗ (input), both of which hooks see.

    Args:
        model: With the trained adapter in it; its gradients are dropped.
        rows: All of a client's, cut; each with at least one target.
        loss: Of the same model.

    Returns:
        float32 (layout.size,).
    """
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in model.parameters]
    ordered = sorted(rows, key=lambda row: len(row.ids))
    with _squares(model, sums):
        for first in range(0, len(ordered), ROWS_AT_ONCE):
            batch = pad(ordered[first : first + ROWS_AT_ONCE])
            learnt = batch.targets != UNLEARNT
            weights = (learnt / learnt.sum(axis=1, keepdims=True)).astype(np.float32)
            loss.backward(
                torch.from_numpy(batch.inputs).to(model.device),
                torch.from_numpy(batch.targets).to(model.device),
                torch.from_numpy(weights).to(model.device),
                normaliser=1.0,
            )
    model.drop_gradients()
    flat = torch.cat([part.reshape(-1) for part in sums]) / len(rows)
    found: FloatArray = flat.float().cpu().numpy()
    return found


@contextmanager
def _squares(model: AdaptedModel, sums: Sequence[torch.Tensor]) -> Iterator[None]:
    """Add each row's squared gradient of every adapter matrix during the backward passes inside."""
    owners = {id(module.weight): module for module in _linear_modules(model.base)}
    handles = [
        owners[id(parameter)].register_forward_hook(_hook(total))
        for parameter, total in zip(model.parameters, sums, strict=True)
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(total: torch.Tensor) -> Any:
    def forward(
        _module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> None:
        seen = inputs[0].detach()

        def backward(gradient: torch.Tensor) -> None:
            per_row = torch.einsum("npo,npi->noi", gradient.float(), seen.float())
            total.add_(per_row.square_().sum(dim=0))

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def _linear_modules(base: Any) -> list[torch.nn.Linear]:
    return [module for module in base.modules() if isinstance(module, torch.nn.Linear)]
