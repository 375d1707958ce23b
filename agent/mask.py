"""Which target tokens a masked step learns from: scores per vocabulary id, and masks made of them.

Pure: numpy in, numpy out. A mask says for each learnt target of one optimizer step how much its
loss weighs; the loss is divided by the sum of these weights.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np
import numpy.typing as npt

ScoreArray = npt.NDArray[np.float64]
WeightArray = npt.NDArray[np.float32]

# Scores below this share of the highest weigh alike in a soft mask; zeros could not be shared out.
_SCORE_FLOOR = 1e-12
# An id is believed as much as the average of all once it has been seen this often in one refresh.
_PRIOR_COUNT = 4.0


class Mask(str, Enum):
    """How a masked step weighs its targets."""

    OFF = "off"
    HARD = "hard"
    SOFT = "soft"


class TokenScores:
    """Averages over refreshes of how sensitive the loss is at targets of each vocabulary id.

    A refresh decays what was there by `decay` and adds the new scores, sums and counts alike, so
    that their quotient is free of the bias towards the zero that the averages start from. It is
    shrunk towards the mean of all ids by a count of `_PRIOR_COUNT`; ids never seen have that mean.

    Source: Fed-FSTQ (arXiv 2604.25421), Algorithm 1, its EMA with rho = 0.9. The paper averages
    over positions of one minibatch and uses the mask on the next ones, whose positions hold other
    tokens; averages per vocabulary id are defined for every batch.
    """

    def __init__(self, vocabulary: int, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay is {decay}, it must be at least 0 and below 1")
        self._decay = decay
        self._sums: ScoreArray = np.zeros(vocabulary)
        self._counts: ScoreArray = np.zeros(vocabulary)

    def refresh(self, ids: npt.NDArray[np.integer], scores: npt.NDArray[np.floating]) -> None:
        """Take in the scores of one refresh step.

        Args:
            ids: int (targets,), the target ids.
            scores: float (targets,), each ≥ 0; divided by their mean before they are averaged, so
                that a batch counts the same whatever its size and loss are.
        """
        mean = float(np.mean(scores)) if len(scores) else 0.0
        if not math.isfinite(mean) or mean <= 0:
            return  # nothing can be said of a batch without a gradient
        share = 1 - self._decay
        vocabulary = len(self._sums)
        sums = np.bincount(ids, weights=scores / mean, minlength=vocabulary)
        self._sums = self._decay * self._sums + share * sums
        self._counts = self._decay * self._counts + share * np.bincount(ids, minlength=vocabulary)

    def of(self, ids: npt.NDArray[np.integer]) -> ScoreArray:
        """Return float64 (targets,), the score of each target id; ones before the first refresh."""
        total = float(self._counts.sum())
        if total == 0:
            return np.ones(len(ids))
        mean = float(self._sums.sum()) / total
        prior = _PRIOR_COUNT * (1 - self._decay)
        scores: ScoreArray = (self._sums[ids] + prior * mean) / (self._counts[ids] + prior)
        return scores


def weights(scores: ScoreArray, *, mask: Mask, ratio: float) -> WeightArray:
    """Return each target's weight in the loss, 0 to 1, float32 (targets,).

    Args:
        scores: float64 (targets,), each ≥ 0.
        mask: OFF weighs all alike. HARD keeps the ⌈ratio · targets⌉ of the highest scores (the
            earlier of equal ones). SOFT gives the weights min(1, score / level), with the level at
            which they sum up to that same number.
        ratio: The share to keep, above 0 and at most 1 (the paper's r_tok).
    """
    targets = len(scores)
    keep = keep_count(targets, ratio)
    if mask is Mask.OFF or keep == targets:
        return np.ones(targets, dtype=np.float32)
    order = np.argsort(-scores, kind="stable")
    if mask is Mask.HARD:
        kept = np.zeros(targets, dtype=np.float32)
        kept[order[:keep]] = 1
        return kept
    floored = np.maximum(scores, _SCORE_FLOOR * (scores[order[0]] or 1.0))
    return np.minimum(1, floored / _level(floored[order], keep)).astype(np.float32)


def keep_count(targets: int, ratio: float) -> int:
    """Return ⌈ratio · targets⌉, exact where the product is a whole number."""
    if not 0 < ratio <= 1:
        raise ValueError(f"the token ratio is {ratio}, it must be above 0 and at most 1")
    return math.ceil(targets * ratio - 1e-9)


def _level(falling: ScoreArray, keep: int) -> float:
    """Return the level at which Σ min(1, score / level) is `keep`, for scores in falling order."""
    # With the first k at their cap of 1, the others share keep - k: level = their sum / (keep - k).
    # The right k is the least whose level is at least the highest score that is not capped.
    rest = np.cumsum(falling[::-1])[::-1][:keep]
    levels = rest / np.arange(keep, 0, -1)
    fits = np.flatnonzero(levels >= falling[:keep])
    return float(levels[fits[0]] if len(fits) else levels[-1])
