"""`fstq-percentile`: the paper's fixed-ratio variant, in the segments of `fstq`.

Coordinates are ranked by importance u = F·Δ². Those over the percentile P_high get 16 bits, those
over P_mid 4, those over P_low 2. The paper leaves the percentiles open; here the ratio of the
classes is fixed and the share that is sent follows from the budget: of a share s, 1 in 16 gets 16
bits, 5 in 16 get 4 and 10 in 16 get 2. So P_high = 1 - s/16, P_mid = 1 - 6·s/16, P_low = 1 - s,
with the largest s that fits. The values then take 1 + 1.25 + 1.25 bits per coordinate sent.

Source: arXiv 2604.25421, Algorithm 1, step 2, "percentile thresholds".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.by_importance import (
    BLOCK,
    FstqByImportance,
    Weighted,
    payloads_of,
    scalable_blocks,
)
from codec.fstq import PREAMBLE_BYTES
from codec.importance import importance
from codec.scales import class_scales
from codec.segment import HEADER_BYTES
from codec.slices import COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout

    ClassArray = npt.NDArray[np.uint8]
    Keys = npt.NDArray[np.uint32]

# Of how many coordinates sent, how many have 4 bits or more, and how many 16.
_OF: Final = 16
_MIDDLE: Final = 6
_HIGH: Final = 1

# A share that fills this much of the budget is large enough; the search for it stops after so many.
_NEAR: Final = 0.99
_STEPS: Final = 24


@dataclass(frozen=True, slots=True)
class FstqPercentile(FstqByImportance):
    """Fisher-guided classes in a fixed ratio: percentiles of F·Δ² that follow from the budget."""

    name: str = "fstq-percentile"

    def _payloads(self, update: Weighted) -> list[bytes]:
        return _largest(update)


def classes_of(keys: Keys, sent: int) -> ClassArray:
    """Return classes for the `sent` largest keys in the fixed ratio; equal ones in their order.

    Args:
        keys: uint32 (coordinates,), at least `sent` of them not 0.
        sent: How many coordinates get a class over 0.
    """
    classes = np.zeros(keys.size, dtype=np.uint8)
    for number in (sent, sent * _MIDDLE // _OF, sent * _HIGH // _OF):
        if number:
            level, equal = _rank(keys, number)
            classes += keys > level
            classes[np.flatnonzero(keys == level)[:equal]] += np.uint8(1)
    return classes


def _largest(update: Weighted) -> list[bytes]:
    """Return the payloads of about the largest share that fits, or of none."""
    delta, weights, update_bytes = update.delta, update.weights, update.update_bytes
    keys = _keys(delta, weights, update.layout)
    fits, over = 0, int(np.count_nonzero(keys)) + 1
    best = [COUNT.pack(0)]
    # A coordinate sent takes 3.5 bits, and as much again for tag and support, about.
    sent = min(over - 1, max(1, update_bytes * 8 // 7))
    for _ in range(_STEPS):
        if not fits < sent < over:
            break
        classes = classes_of(keys, sent)
        scales = class_scales(delta, weights, classes, layout=update.layout)
        payloads = payloads_of(update, classes, scales=scales)
        size = sum(map(len, payloads)) + HEADER_BYTES * len(payloads)
        if size <= update_bytes:
            fits, best = sent, payloads
            if size >= _NEAR * update_bytes:
                break
        else:
            over = sent
        guess = sent * max(update_bytes - PREAMBLE_BYTES, 1) // max(size - PREAMBLE_BYTES, 1)
        sent = guess if fits < guess < over else (fits + over) // 2
    return best


def _keys(delta: FloatArray, weights: FloatArray, layout: Layout) -> Keys:
    """Return order-preserving keys of importance, uint32 (size,); 0 stands for none."""
    peak = max(float(delta.max()), -float(delta.min()))
    unit = peak * peak * float(weights.max()) or 1.0
    keys = np.zeros(layout.size, dtype=np.float32)
    for block in scalable_blocks(delta, layout):
        # The root halves the exponents, so that float32 holds importances down to 1e-76.
        keys[block] = np.sqrt(importance(delta[block], weights[block]) / unit)
    return keys.view(np.uint32)


def _rank(keys: Keys, number: int) -> tuple[int, int]:
    """Return the key of the coordinate of this rank, and how many that have it rank so high."""
    upper, left = _last_bin(_histogram(block >> np.uint32(16) for block in _blocks(keys)), number)
    lowers = (block[block >> np.uint32(16) == upper] & np.uint32(0xFFFF) for block in _blocks(keys))
    lower, left = _last_bin(_histogram(lowers), left)
    return upper << 16 | lower, left


def _blocks(keys: Keys) -> Iterator[Keys]:
    return (keys[start : start + BLOCK] for start in range(0, keys.size, BLOCK))


def _histogram(blocks: Iterator[Keys]) -> npt.NDArray[np.int64]:
    counts = np.zeros(1 << 16, dtype=np.int64)
    for block in blocks:
        found = np.bincount(block)
        counts[: found.size] += found
    return counts


def _last_bin(counts: npt.NDArray[np.int64], number: int) -> tuple[int, int]:
    """Return the bin that the number-th largest lies in, and how far in it lies."""
    at_least = np.cumsum(counts[::-1])[::-1]
    found = int(np.flatnonzero(at_least >= number)[-1])
    return found, number - int(at_least[found] - counts[found])
