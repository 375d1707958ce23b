"""Faster products with frozen weights on CPUs for which torch's default library is slow.

torch multiplies float32 matrices by MKL, which leaves AVX-512 to Intel's processors; oneDNN, which
torch brings along for other uses, does not ask who made the processor. The results are those of
another order of additions, as between any two machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Product = Callable[[torch.Tensor], torch.Tensor]


def use_onednn(base: Any) -> int:
    """Let oneDNN compute the products with a frozen model's float32 weights, where it can.

    Args:
        base: A model on the CPU, with or without an adapter in it; an adapter's own matrices, which
            are trained and small, stay with torch.

    Returns:
        How many linear layers are computed by oneDNN now: none where torch has been built
        without it, or the model is not float32.
    """
    if not available():
        return 0
    layers = [module for module in base.modules() if _can(module)]
    for layer in layers:
        layer.forward = _forward(layer.weight.detach())
    return len(layers)


def available() -> bool:
    """Tell whether this build of torch offers oneDNN's product, and it is right."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    inputs, weight = torch.eye(3), torch.arange(6.0).reshape(2, 3)
    try:
        return torch.allclose(_product(inputs, weight), weight.T)
    except (NotImplementedError, RuntimeError):
        return False


def _can(module: Any) -> bool:
    """Tell whether a module is a plain linear layer of frozen float32 weights on the CPU."""
    if type(module) is not torch.nn.Linear or getattr(module, "bias", None) is not None:
        return False
    weight = module.weight
    return (
        not weight.requires_grad and weight.dtype is torch.float32 and weight.device.type == "cpu"
    )


class _Frozen(torch.autograd.Function):
    """x ↦ x·Wᵀ for a weight without a gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, turned: torch.Tensor) -> Any:
        ctx.turned = turned
        return _product(inputs, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _product(gradient.contiguous(), ctx.turned), None, None


def _forward(weight: torch.Tensor) -> Product:
    turned = weight.T.contiguous()

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _Frozen.apply(inputs, weight, turned)  # type: ignore[no-untyped-call]
        return found

    return forward


def _product(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001  # as torch's own compiler calls it
        inputs, weight, None, "none", [], ""
    )
    return found
