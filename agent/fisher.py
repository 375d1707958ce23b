"""Fisher information from the backward pass that training does anyway: tokens and the adapter.

Which id keys a token score: the paper scores the *input* position i by g_i = ‖∂L/∂e_i‖², and masks
the losses of *targets*. The loss whose gradient enters at position i is that of predicting token
i+1, so g_i is kept under the id of the target that stands there, and only where that target is
learnt: then score and mask speak of the same token. (In a small trial, the target's id explained
37-39 % of a target's score, the input's id 10 %, so an average per input id predicts little.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch


class EmbeddingScores:
    """Collects g_i = ‖∂L/∂e_i‖² at every input embedding during a backward pass, on request.

    The hook asks for the gradient of the embedding's output, so that it costs the backward pass of
    the first layer's frozen weights and no pass of its own.
    """

    def __init__(self, embedding: torch.nn.Module) -> None:
        self._embedding = embedding
        self._scores: torch.Tensor | None = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect during the forward and backward passes inside; `take` gives what they left."""
        handle = self._embedding.register_forward_hook(self._forward)
        try:
            yield
        finally:
            handle.remove()

    def take(self) -> npt.NDArray[np.float32]:
        """Return float32 (batch, tokens) of the last backward pass, and forget it."""
        assert self._scores is not None, "no backward pass went through the embedding"
        scores, self._scores = self._scores, None
        return scores.cpu().numpy()

    def forget(self) -> None:
        """Let go of what a backward pass that was broken off has left."""
        self._scores = None

    def _forward(self, _module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_()
        output.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, gradient: torch.Tensor) -> None:
        self._scores = gradient.detach().float().square().sum(dim=-1)


class DiagonalFisher:
    """Averages the squared gradients of the adapter over optimizer steps.

    F_j ← decay·F_j + (1 - decay)·(∂L/∂θ_j)², with L the step's mean loss, before clipping. The
    average starts from zero, so it is divided by 1 - decay^steps at the end. It is the second
    moment of minibatch gradients; the empirical Fisher information would square each example's.

    A step is squared once, when its gradient is whole. Where memory makes a step take several
    micro-batches, their gradients add up first: (Σ_m g_m)² is the step's square however it is cut.
    Σ_m g_m² is another estimate with each cut (of M equal parts, an M-th), and would rank devices'
    coordinates by their memory.

    Source: Fed-FSTQ (arXiv 2604.25421), Algorithm 1.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay is {decay}, it must be at least 0 and below 1")
        self._parameters = tuple(parameters)
        self._decay = decay
        self._steps = 0
        self._moments = [torch.zeros_like(parameter) for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients that the parameters hold now."""
        self._steps += 1
        # All tensors in one call each: for small ones, calls cost more than arithmetic.
        torch._foreach_mul_(self._moments, self._decay)  # documented, as torch.optim's own
        moved = [
            (moment, parameter.grad)
            for moment, parameter in zip(self._moments, self._parameters, strict=True)
            if parameter.grad is not None
        ]
        if moved:
            moments, gradients = map(list, zip(*moved, strict=True))
            share = 1 - self._decay
            torch._foreach_addcmul_(moments, gradients, gradients, value=share)

    def flat(self) -> npt.NDArray[np.float32]:
        """Return float32 (coordinates,), in the parameters' order; zeros before the first step."""
        flat: npt.NDArray[np.float32] = (
            torch.cat([moment.reshape(-1) for moment in self._moments]).float().cpu().numpy()
        )
        if self._steps:
            flat /= np.float32(1 - self._decay**self._steps)
        return flat
