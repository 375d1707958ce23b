"""Token Recall: whether a mask keeps the tokens that an uncompressed run is sensitive to. Pure."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def token_recall(reference: npt.ArrayLike, kept: BoolArray, *, share: float) -> float:
    """Return which share of a reference run's most sensitive token types a mask keeps, 0 to 1.

    The most sensitive types are the ⌈share · types⌉ of the highest scores among those that the
    reference run has seen; types that the mask was never asked about count as not kept.

    Args:
        reference: float (vocabulary,), each id's score in the uncompressed run; 0 where unseen.
        kept: bool (vocabulary,), the ids that are kept.
        share: p, above 0 and at most 1.

    Raises:
        ValueError: Nothing was seen, or the shapes differ.

    Source: the metric of Fed-FSTQ (arXiv 2604.25421), on vocabulary ids in place of positions of
    one minibatch, which no two runs share.
    """
    scores = np.asarray(reference, dtype=np.float64)
    if scores.shape != kept.shape:
        raise ValueError(f"{scores.shape} scores and a mask of {kept.shape} are not comparable")
    sensitive = kept_types(scores, share=share)
    if not sensitive.any():
        raise ValueError("the reference run has seen no token")
    return float(np.count_nonzero(kept & sensitive) / np.count_nonzero(sensitive))


def kept_types(scores: npt.ArrayLike, *, share: float) -> BoolArray:
    """Return the mask of the ⌈share · types⌉ highest scores above 0, earlier ids first.

    Args:
        scores: float (vocabulary,), 0 where unseen.
        share: Above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share is {share}, it must be above 0 and at most 1")
    table = np.asarray(scores, dtype=np.float64)
    seen = int(np.count_nonzero(table > 0))
    mask = np.zeros(table.shape, dtype=np.bool_)
    mask[np.argsort(-table, kind="stable")[: math.ceil(share * seen - 1e-9)]] = True
    return mask
