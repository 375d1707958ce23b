"""Cross-entropy on the learnt positions only, in chunks, so that logits are never held at once.

512 positions of a vocabulary of 151,936 are 311 MB of float32 logits, and as much again for their
gradient. Here the model's body runs once; then its last hidden states, cut off from the graph, meet
the output layer chunk by chunk, each chunk's gradient is taken at once, and the sum goes back
through the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from agent.batches import UNLEARNT

# Most logits of one chunk: 32 MiB of float32.
CHUNK_LOGITS = 1 << 23
# A model whose logits are not its output layer of its last hidden states (Gemma caps them, Granite
# divides them) differs by far more; what is left is the order of float additions.
_PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Tally:
    """What a batch without gradients gives: summed loss in nats, targets, and those right."""

    loss: float
    tokens: int
    correct: int


class CausalLoss:
    """The loss of one causal language model, whatever its family.

    Args:
        model: A Hugging Face causal language model, with or without an adapter in it. Where its
            logits are not simply its output layer of its last hidden states, they are taken whole
            from the model: right, but as large as they are.
        chunk_logits: Most logits that are held at once.
    """

    def __init__(self, model: Any, *, chunk_logits: int = CHUNK_LOGITS) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        self._body = getattr(model, model.base_model_prefix, None)
        self._vocabulary = int(self._head.weight.shape[0])
        self._chunk = max(1, chunk_logits // self._vocabulary)
        self.chunked = self._body is not None and self._head_is_last()

    def backward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        *,
        normaliser: float,
        scale: float = 1.0,
    ) -> float:
        """Add the gradients of scale · Σ weight · loss / normaliser, and return it without scale.

        Args:
            inputs: int64 (rows, positions).
            targets: int64 (rows, positions), `UNLEARNT` where no loss is taken.
            weights: float32 (rows, positions), of each target's loss; 0 leaves it out.
            normaliser: What the weighted sum is divided by: the weights' sum over the whole step,
                however many backward passes it takes.
            scale: Factor on the gradients, for number formats with a narrow range.
        """
        kept = (targets != UNLEARNT) & (weights > 0)
        if not bool(kept.any()):
            return 0.0
        labels, factors = targets[kept], weights[kept] / normaliser
        if not self.chunked:
            logits = self._model(input_ids=inputs, use_cache=False).logits[kept]
            loss = (cross_entropy(logits.float(), labels, reduction="none") * factors).sum()
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())
        return self._head_backward(self._states(inputs)[kept], labels, factors, scale=scale)

    def _head_backward(
        self, states: torch.Tensor, labels: torch.Tensor, factors: torch.Tensor, *, scale: float
    ) -> float:
        """Add the gradients of scale · Σ factor · loss of states (targets, width)."""
        cut_off = states.detach().requires_grad_()
        total = 0.0
        for start in range(0, len(labels), self._chunk):
            part = slice(start, start + self._chunk)
            losses = cross_entropy(
                self._head(cut_off[part]).float(), labels[part], reduction="none"
            )
            loss = (losses * factors[part]).sum()
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        states.backward(cut_off.grad)  # type: ignore[no-untyped-call]
        return total

    @torch.no_grad()
    def tally(self, inputs: torch.Tensor, targets: torch.Tensor) -> Tally:
        """Return summed loss and right predictions over the learnt targets, arguments as above."""
        kept = targets != UNLEARNT
        labels = targets[kept]
        whole = (
            None if self.chunked else self._model(input_ids=inputs, use_cache=False).logits[kept]
        )
        states = self._states(inputs)[kept] if whole is None else whole
        loss, correct = 0.0, 0
        for start in range(0, len(labels), self._chunk):
            part = slice(start, start + self._chunk)
            logits = (self._head(states[part]) if whole is None else whole[part]).float()
            loss += float(cross_entropy(logits, labels[part], reduction="sum"))
            correct += int((logits.argmax(dim=-1) == labels[part]).sum())
        return Tally(loss, len(labels), correct)

    def _states(self, inputs: torch.Tensor) -> torch.Tensor:
        assert self._body is not None
        states: torch.Tensor = self._body(input_ids=inputs, use_cache=False)[0]
        return states

    @torch.no_grad()
    def _head_is_last(self) -> bool:
        """Compare both ways to the logits on a few tokens."""
        device = self._head.weight.device
        ids = torch.arange(4, device=device)[None] % self._vocabulary
        whole = self._model(input_ids=ids, use_cache=False).logits.float()
        states = self._states(ids)
        if states.shape[-1] != self._head.weight.shape[-1]:
            return False
        parts = self._head(states).float()
        scale = whole.abs().max().clamp(min=1e-6)
        return bool(
            whole.shape == parts.shape and (whole - parts).abs().max() <= _PROBE_TOLERANCE * scale
        )
