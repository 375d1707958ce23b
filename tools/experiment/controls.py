"""Other token scores for a masked step than the agent's: what its score is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agent.batches import UNLEARNT, Batch
from agent.mask import TokenScores

ScoreArray = npt.NDArray[np.float64]
# Base model, batch → float64 (rows, positions), each learnt target's score; NaN where it has none.
ScoreTargets = Callable[[Any, Batch], ScoreArray]

# The attention that says what is read, rather than where the sentence begins, is in the last ones.
_LAST_LAYERS = 2


class RandomScores(TokenScores):
    """Uniform scores, drawn anew for every target of every masked step; refreshes say nothing.

    In place of the agent's scores it turns a hard mask into a random one with the same schedule
    and the same number of targets.
    """

    def __init__(self, *, seed: Sequence[int]) -> None:
        super().__init__(0, decay=0.0)
        self._generator = np.random.default_rng(seed)

    def refresh(self, ids: npt.NDArray[np.integer], scores: npt.NDArray[np.floating]) -> None:
        """Ignore what a refresh step has found."""

    def of(self, ids: npt.NDArray[np.integer]) -> ScoreArray:
        """Return float64 (targets,)."""
        return self._generator.random(len(ids))


def logit_gradient_norms(base: Any, batch: Batch) -> ScoreArray:
    """Return float64 (rows, positions), ‖p - y‖ of each learnt target, NaN elsewhere.

    It is the norm of the gradient of the target's own loss at its logits, for the model's
    distribution p and the one-hot target y: from 0 (certain and right) to √2 (certain and wrong).

    Source: the EL2N score, Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021.
    """
    learnt = batch.targets != UNLEARNT
    scores = np.full(batch.targets.shape, np.nan)
    with torch.no_grad():
        logits = base(input_ids=torch.from_numpy(batch.inputs).to(base.device)).logits
        shares = logits[torch.from_numpy(learnt)].float().softmax(dim=-1)
        labels = torch.from_numpy(batch.targets[learnt]).to(shares.device)[:, None]
        squares = 1 - 2 * shares.gather(1, labels)[:, 0] + shares.square().sum(dim=1)
    scores[learnt] = squares.clamp(min=0).sqrt().cpu().numpy()
    return scores


def received_attention(base: Any, batch: Batch) -> ScoreArray:
    """Return float64 (rows, positions), the attention that each learnt target's token receives.

    The token that is predicted at position i stands in the input at i + 1; its score is the mean
    over heads, the last two layers and all later positions q of a row of q's attention to it,
    times the q + 1 positions that q sees: 1 is what attention alike to all would give, wherever
    the token stands. NaN where no position follows it, and where nothing is learnt.

    The pass is one of its own, with the attention written out, since fused kernels keep none.
    """
    learnt = batch.targets != UNLEARNT
    weights = _attention(base, batch.inputs)
    positions = batch.inputs.shape[1]
    weights *= np.arange(1, positions + 1)[:, None]
    # Later positions of the row's own tokens: those where it has a target, or one after them.
    lengths = positions - np.argmax(learnt[:, ::-1], axis=1)
    later = np.tril(np.ones((positions, positions), dtype=bool), -1)
    queries = np.arange(positions) < lengths[:, None]
    seen = later[None] & queries[:, :, None]
    counts = seen.sum(axis=1)
    received = (weights * seen).sum(axis=1) / np.maximum(counts, 1)
    scores = np.full(batch.targets.shape, np.nan)
    scores[:, :-1] = np.where(counts > 0, received, np.nan)[:, 1:]
    scores[~learnt] = np.nan
    return scores


def _attention(base: Any, inputs: npt.NDArray[np.int64]) -> ScoreArray:
    """Return float64 (rows, queries, keys), the mean over heads and the last layers."""
    implementation = base.config._attn_implementation  # noqa: SLF001  # no public name for it
    base.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            found = base(
                input_ids=torch.from_numpy(inputs).to(base.device),
                output_attentions=True,
                use_cache=False,
            ).attentions
    finally:
        base.set_attn_implementation(implementation)
    last = torch.stack([layer.float().mean(dim=1) for layer in found[-_LAST_LAYERS:]])
    mean: ScoreArray = last.mean(dim=0).double().cpu().numpy()
    return mean
