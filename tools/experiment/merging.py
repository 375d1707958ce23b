"""Token merging in the local passes (Fed-ToMe), for models that must not look ahead.

ToMe merges tokens of an image wherever they are, by the similarity of their attention keys. In a
causal language model three things differ here:

- Only neighbours are merged, the pairs (0, 1), (2, 3), ...: the merged token stands at the second
  of its two places, and holds the mean of both states. It has seen nothing but what that place may
  see, and only later places see it.
- Whether a pair is merged depends on the pairs before it alone: it is, where its similarity is
  among the highest so far in its row. A choice over the whole row would let later tokens move
  earlier outputs.
- What the first place of a merged pair was to predict is the second one itself, which is now part
  of the state: this target is left out of the loss. (A later token can thus take the place right
  before it out of the loss, but change no output that the loss is taken on.)

Pairs are merged once, a quarter of the way up; the layers above see fewer positions and count each
as often as it stands for (ToMe's proportional attention). Evaluation and generation never merge.

Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023; Fed-ToMe as the baseline of
Fed-FSTQ (arXiv 2604.25421).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from agent.batches import UNLEARNT
from agent.loss import CausalLoss


class MergingUnsupported(Exception):
    """The base model's layers are not built so that their positions can be merged."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Which positions of a batch are left, row by row.

    Attributes:
        ends: int64 (rows, left), the original position at which each one stands, rising; rows with
            fewer are filled up at their ends with their last position.
        real: bool (rows, left), False at what fills up.
        sizes: int64 (rows, left), for how many positions each stands, 1 or 2.
    """

    ends: torch.Tensor
    real: torch.Tensor
    sizes: torch.Tensor

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return (rows, left, ...) of (rows, positions, ...): what stands at the ends."""
        return values[torch.arange(len(values), device=values.device)[:, None], self.ends]

    def mean(self, states: torch.Tensor) -> torch.Tensor:
        """Return (rows, left, width): the mean of all states that each one stands for."""
        rows = torch.arange(len(states), device=states.device)[:, None]
        before = states[rows, self.ends - (self.sizes - 1)]
        return (self.of(states) + before) / 2

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Return (rows, 1, left, left), to add to attention logits: causal, and log sizes."""
        left = self.ends.shape[1]
        causal = torch.ones(left, left, dtype=torch.bool, device=self.ends.device).tril()
        logs = self.sizes.to(dtype).log()[:, None, None, :].expand(-1, 1, left, left)
        return logs.masked_fill(~causal, torch.finfo(dtype).min)


def choose(keys: torch.Tensor, *, share: float) -> Merged:
    """Return what is left of a batch when about this share of its positions is merged away.

    Pair p is merged where fewer than 2 · share · (p + 1) - 1/2 of the pairs before it in its row
    are more alike, by the cosine of their keys.

    Args:
        keys: (rows, positions, width), each position's key.
        share: Of all positions, 0 to 0.5.
    """
    rows, positions, _ = keys.shape
    pairs = positions // 2
    first, second = keys[:, 0 : 2 * pairs : 2].float(), keys[:, 1 : 2 * pairs : 2].float()
    alike = torch.cosine_similarity(first, second, dim=-1)
    place = torch.arange(pairs, device=keys.device)
    above = (alike[:, None, :] > alike[:, :, None]) & (place[None, :] < place[:, None])
    merged = above.sum(dim=-1) + 0.5 < 2 * share * (place + 1)
    stays = torch.ones(rows, positions, dtype=torch.bool, device=keys.device)
    stays[:, 0 : 2 * pairs : 2] = ~merged
    sizes = torch.ones(rows, positions, dtype=torch.int64, device=keys.device)
    sizes[:, 1 : 2 * pairs : 2] += merged
    left = int(stays.sum(dim=1).max())
    order = torch.argsort(~stays, dim=1, stable=True)[:, :left]
    real = stays.gather(1, order)
    ends = torch.where(real, order, positions - 1)
    return Merged(ends, real, torch.where(real, sizes.gather(1, ends), 1))


class MergedLoss(CausalLoss):
    """The loss of a causal language model whose passes merge positions.

    Args:
        model: A Hugging Face causal language model of Llama's build: `layers` with a
            `self_attn.k_proj` each, which are given the rotary embedding by their model.
        share: Of the positions that are merged away.

    Raises:
        MergingUnsupported: The model is built otherwise.
    """

    def __init__(self, model: Any, *, share: float) -> None:
        super().__init__(model)
        layers = getattr(self._body, "layers", None)
        if not self.chunked or layers is None or not hasattr(layers[0], "self_attn"):
            raise MergingUnsupported(
                f"{type(model).__name__}: positions can be merged only in models of Llama's build"
            )
        self._layers = list(layers)
        self._at = max(1, len(self._layers) // 4)
        self._share = share

    def backward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        *,
        normaliser: float,
        scale: float = 1.0,
    ) -> float:
        """Add the gradients of the loss over the targets that are left; arguments as above it.

        The weights that are left are scaled to the sum of all, so that a step's loss stays a mean.
        """
        kept = (targets != UNLEARNT) & (weights > 0)
        if not bool(kept.any()):
            return 0.0
        states, merged = self.merged_states(inputs)
        left = merged.of(kept) & merged.real
        if not bool(left.any()):
            return 0.0
        labels, factors = merged.of(targets)[left], merged.of(weights)[left]
        factors = factors * (weights[kept].sum() / factors.sum() / normaliser)
        return self._head_backward(states[left], labels, factors, scale=scale)

    def merged_states(self, inputs: torch.Tensor) -> tuple[torch.Tensor, Merged]:
        """Return the last hidden states (rows, left, width) of the positions that are left."""
        with self._merging() as found:
            states = self._states(inputs)
        return states, found[0]

    @contextmanager
    def _merging(self) -> Iterator[list[Merged]]:
        """Merge during one forward pass inside; what was left is then in the list."""
        found: list[Merged] = []
        keys: list[torch.Tensor] = []

        def take_keys(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            keys.append(output.detach())

        def enter(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = args[0]
            if not found:
                found.append(choose(keys.pop(), share=self._share))
                states = found[0].mean(states)
            return (states, *args[1:]), _merged_arguments(kwargs, found[0], states.dtype)

        key_layer = self._layers[self._at - 1].self_attn.k_proj
        with ExitStack() as hooks:
            handles = [key_layer.register_forward_hook(take_keys)]
            handles += [
                layer.register_forward_pre_hook(enter, with_kwargs=True)
                for layer in self._layers[self._at :]
            ]
            for handle in handles:
                hooks.callback(handle.remove)
            yield found


def _merged_arguments(kwargs: dict[str, Any], merged: Merged, dtype: torch.dtype) -> dict[str, Any]:
    """Return a layer's arguments for the positions that are left."""
    cos, sin = kwargs["position_embeddings"]
    rows = len(merged.ends)
    return {
        **kwargs,
        "position_embeddings": tuple(merged.of(part.expand(rows, -1, -1)) for part in (cos, sin)),
        "position_ids": merged.ends,
        "attention_mask": merged.attention_mask(dtype),
    }
