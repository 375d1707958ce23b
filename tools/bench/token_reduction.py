"""Which tokens of a prompt a model is given where it is to read fewer. Pure: numpy in, numpy out.

Every way of choosing keeps the first token, which attention leans on whatever it is (G. Xiao et
al., "Efficient Streaming Language Models with Attention Sinks", 2024), and the last `TAIL` ones,
which say what is asked for; the rest compete by their scores. Positions stay in their order.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.mask import keep_count

IndexArray = npt.NDArray[np.intp]
ScoreArray = npt.NDArray[np.float64]

HEAD: Final = 1
TAIL: Final = 4


class Selection(str, Enum):
    """By what tokens are chosen.

    NONE keeps all. SCORES keeps those whose ids have the highest scores in the table that the token
    mask was trained with, which is of tokens as targets. INPUT_SCORES has a table of the same
    training that is of tokens as inputs: the squared gradient at the embeddings of prompts' tokens.
    PLACED_SCORES multiplies these by what the same gradients say of a token's distance from the
    prompt's end. RANDOM keeps any. ATTENTION keeps those that later tokens look at most in the
    model's first layer, of the whole prompt. LAST keeps the end.
    """

    NONE = "none"
    SCORES = "scores"
    INPUT_SCORES = "input-scores"
    PLACED_SCORES = "placed-input-scores"
    RANDOM = "random"
    ATTENTION = "attention"
    LAST = "last"


class Positions(str, Enum):
    """Where the model is told that the kept tokens stand.

    ORIGINAL: where they stood, with gaps, and what is written stands after the whole prompt.
    COMPACTED: one after the other, as if nothing had been there.
    """

    ORIGINAL = "original"
    COMPACTED = "compacted"


def of_spans(scores: ScoreArray, *, span: int) -> ScoreArray:
    """Return each token's score as the mean over its span: spans then stay or go as a whole.

    Args:
        scores: float (tokens,), at least one.
        span: Tokens of a span; they are counted from the end, and the first one may be shorter.
    """
    tokens = len(scores)
    members = (np.arange(tokens - 1, -1, -1) // span).astype(np.intp)
    means = np.bincount(members, weights=scores) / np.bincount(members)
    averaged: ScoreArray = means[members]
    return averaged


def kept(scores: ScoreArray, *, ratio: float) -> IndexArray:
    """Return the indices of the tokens that stay, ascending.

    Args:
        scores: float (tokens,), at least one; the earlier of equal ones goes first.
        ratio: The share to keep, above 0 and at most 1: ⌈ratio · tokens⌉ stay, and never fewer
            than head and tail.
    """
    tokens = len(scores)
    count = max(keep_count(tokens, ratio), min(tokens, HEAD + TAIL))
    bounded = np.array(scores, dtype=np.float64)
    bounded[:HEAD] = np.inf
    bounded[max(0, tokens - TAIL) :] = np.inf
    chosen: IndexArray = np.sort(np.argsort(-bounded, kind="stable")[:count])
    return chosen


def random_scores(tokens: int, *, seed: int) -> ScoreArray:
    """Return float64 (tokens,), such that `kept` keeps any of them."""
    return np.random.default_rng(seed).random(tokens)


def position_ids(indices: IndexArray, *, positions: Positions) -> IndexArray:
    """Return where the tokens of these indices are said to stand."""
    return indices if positions is Positions.ORIGINAL else np.arange(len(indices))


def next_position(tokens: int, kept_tokens: int, *, positions: Positions) -> int:
    """Return where the first token after a prompt of this length stands."""
    return tokens if positions is Positions.ORIGINAL else kept_tokens
