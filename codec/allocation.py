"""How many bits each coordinate gets: greedy by Fisher-weighted gain per bit, under a budget.

The paper spends a bit on coordinate j only where λ·F_j·(drop in squared error per extra bit) ≥ 1,
and lets λ follow from the budget. The same rule here, with its two open ends closed:

- A class of b bits has the scale max|Δ| / q_max, so the drop is not a smooth function of b: with
  2 bits everything under half the maximum becomes zero and gains nothing. Each coordinate's errors
  at 0, 2, 4 and 16 bits are therefore computed with the scales of its tensor's largest magnitude,
  and only the classes on the lower convex hull of error against bits are ever chosen. With u_j =
  F_j·Δ_j² as the error at 0 bits, this is the order of u_j wherever the classes are fine enough.
- The bits of a class count its tag and its share of the support.

A coordinate's way up the hull is three thresholds on gain per bit, one per class, that fall; a
level of gain per bit therefore gives every coordinate its class, and less is sent the higher the
level is. The lowest level that fits the budget is found by bisection over the bit patterns of
float32, so it is exact. Coordinates that lie on the very level where the budget ends share what is
left in an order that spreads them evenly over the tensors.

Source: arXiv 2604.25421, section on greedy allocation, and Algorithm 1, step 2. Hulls:
Y. Shoham and A. Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from codec.importance import importance
from codec.quantize import MIN_PEAK, dequantize, quantize, scale_for, to_half
from codec.slices import CLASS_BITS, Support, tag_and_support_bits

if TYPE_CHECKING:
    from codec.codec import FloatArray, SumArray
    from codec.layout import Layout, TensorSpec

# Counts of coordinates with 2, 4 and 16 bits, int64 (tensors, 3).
Counts = npt.NDArray[np.int64]
Fits = Callable[[Counts], bool]

# [coordinates] Worked on at once, so that the float64 intermediates stay in the cache.
_BLOCK: Final = 1 << 15

# Bit pattern that follows the one of the largest finite float32.
_ABOVE_ALL: Final = 0x7F80_0000

# Multiplier of Fibonacci hashing (2^32 over the golden ratio): multiples modulo 2^32 spread evenly.
_GOLDEN: Final = 0x9E37_79B1


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """For each coordinate, the gain per bit at and below which it gets a class.

    Attributes:
        keys: uint32 (3, size), order-preserving keys of gain per bit; row c - 1 belongs to
            class c, 0 means never; no column ascends.
        offsets: int64 (tensors,), the first coordinate of each tensor.
    """

    keys: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]


def thresholds(
    delta: FloatArray, weights: FloatArray, *, layout: Layout, support: Support
) -> Thresholds:
    """Return each coordinate's thresholds when its support is sent in this form.

    Args:
        delta: float32 (layout.size,), finite.
        weights: float32 (layout.size,), finite and ≥ 0, not zero everywhere.
        layout: Its tensors are the groups that share scales.
        support: Decides what a coordinate costs besides its value.
    """
    keys = np.zeros((len(CLASS_BITS) - 1, layout.size), dtype=np.float32)
    peak = max(float(delta.max()), -float(delta.min()))
    # Gains per bit go from 0 to 1 in these units; the root halves the exponents, so that float32
    # holds them down to 1e-38 of the largest magnitude.
    unit = peak**2 * float(weights.max()) or 1.0
    for tensor in layout.tensors:
        extra = tag_and_support_bits(support, length=tensor.size)
        bits = tuple(width + extra for width in CLASS_BITS[1:])
        for block, gains in class_gains(delta, weights, tensor=tensor):
            keys[:, block] = np.sqrt(_hull_slopes(gains, bits) / unit)
    offsets = np.array([tensor.offset for tensor in layout.tensors], dtype=np.int64)
    return Thresholds(keys.view(np.uint32), offsets)


def allocate(steps: Thresholds, *, fits: Fits, seed: int) -> npt.NDArray[np.uint8]:
    """Return the class of each coordinate: the most that fits.

    Args:
        steps: From `thresholds`.
        fits: Whether an update with these counts of coordinates stays in the budget; never false
            for fewer where it is true for more. Nothing at all has to fit.
        seed: Shifts the order in which coordinates of equal gain share what is left.

    Returns:
        uint8 (size,), 0 to 3 for 0, 2, 4 and 16 bits.
    """
    low, high = 0, _ABOVE_ALL  # `high` fits always, `low` never: 0 would send what gains nothing
    while high - low > 1:
        middle = (low + high) // 2
        if fits(_counts(steps, middle)):
            high = middle
        else:
            low = middle
    classes = _classes(steps.keys, high)
    if low > 0:
        _share_rest(classes, steps, level=low, fits=fits, seed=seed)
    return classes


def captured(
    classes: npt.NDArray[np.uint8], delta: FloatArray, weights: FloatArray, *, layout: Layout
) -> SumArray:
    """Return the Fisher-weighted squared error that these classes avoid, float64 (tensors,)."""
    sums = np.zeros(len(layout.tensors))
    for place, tensor in enumerate(layout.tensors):
        for block, gains in class_gains(delta, weights, tensor=tensor):
            for number, row in enumerate(gains, start=1):
                sums[place] += row[classes[block] == number].sum()
    return sums


def class_gains(
    delta: FloatArray, weights: FloatArray, *, tensor: TensorSpec
) -> Iterator[tuple[slice, SumArray]]:
    """Yield the Fisher-weighted drop in squared error of each class, block by block.

    The scales are those of the tensor's largest magnitude. A drop below zero counts as zero.

    Yields:
        A block of flat coordinates, and float64 (3, block) for 2, 4 and 16 bits.
    """
    whole = delta[tensor.offset : tensor.end]
    peak = np.float32(max(whole.max(), -whole.min()))
    if peak < MIN_PEAK:
        return
    for start in range(tensor.offset, tensor.end, _BLOCK):
        block = slice(start, min(start + _BLOCK, tensor.end))
        yield block, _gains(delta[block], weights[block], peak=peak)


def _gains(values: FloatArray, weights: FloatArray, *, peak: np.float32) -> SumArray:
    unsent = importance(values, weights)
    gains = np.empty((len(CLASS_BITS) - 1, values.size))
    for row, width in enumerate(CLASS_BITS[1:-1]):
        scale = scale_for(peak, width=width)
        sent = dequantize(quantize(values, scale, width=width), scale)
        gains[row] = unsent - importance(values - sent, weights)
    gains[-1] = unsent - importance(values - to_half(values).astype(np.float32), weights)
    return np.maximum(gains, 0, out=gains)


def _hull_slopes(gains: SumArray, bits: tuple[int, ...]) -> SumArray:
    """Return the gain per bit of the hull's step up to each class, float64 (3, block).

    Classes that lie under the hull get the step that jumps over them. At a level of gain per bit
    the best class is c or higher where some such class beats every lower one by that level.
    """
    gains_and_none = np.concatenate((np.zeros((1, gains.shape[1])), gains))
    bits_and_none = (0, *bits)
    slopes = np.empty_like(gains)
    for number in range(1, len(bits_and_none)):
        best = np.zeros(gains.shape[1])
        for higher in range(number, len(bits_and_none)):
            worst = np.full(gains.shape[1], np.inf)
            for lower in range(number):
                rise = gains_and_none[higher] - gains_and_none[lower]
                rise /= bits_and_none[higher] - bits_and_none[lower]
                np.minimum(worst, rise, out=worst)
            np.maximum(best, worst, out=best)
        if number > 1:  # the rows fall by theory; rounding must not undo it
            np.minimum(best, slopes[number - 2], out=best)
        slopes[number - 1] = best
    return slopes


def _classes(keys: npt.NDArray[np.uint32], level: int) -> npt.NDArray[np.uint8]:
    classes = np.zeros(keys.shape[1], dtype=np.uint8)
    for row in keys:
        classes += row >= np.uint32(level)
    return classes


def _counts(steps: Thresholds, level: int) -> Counts:
    at_least = [
        np.add.reduceat((row >= np.uint32(level)).view(np.uint8), steps.offsets, dtype=np.int64)
        for row in steps.keys
    ]
    return _exactly(np.stack(at_least, axis=1))


def _exactly(at_least: Counts) -> Counts:
    """Return how many have each class, from how many have each class or a higher one."""
    counts: Counts = at_least.copy()
    counts[:, :-1] -= at_least[:, 1:]
    return counts


def _share_rest(
    classes: npt.NDArray[np.uint8], steps: Thresholds, *, level: int, fits: Fits, seed: int
) -> None:
    """Raise to their next class as many coordinates on `level` as still fit, in place."""
    tied = np.flatnonzero((steps.keys == np.uint32(level)).any(axis=0))
    raised = _classes(steps.keys[:, tied], level)
    shifted = tied.astype(np.uint64) + np.uint64(seed & 0xFFFF_FFFF)
    order = (shifted * np.uint64(_GOLDEN)) & np.uint64(0xFFFF_FFFF)
    cells = len(CLASS_BITS) * (np.searchsorted(steps.offsets, tied, side="right") - 1)
    before, after = cells + classes[tied], cells + raised
    base = _counts(steps, level + 1)

    def with_first(bound: int) -> Counts:
        first = order < np.uint64(bound)
        size = len(CLASS_BITS) * len(base)
        moved = np.bincount(after[first], minlength=size)
        moved -= np.bincount(before[first], minlength=size)
        counts: Counts = base + moved.reshape(-1, len(CLASS_BITS))[:, 1:]
        return counts

    low, high = 0, 1 << 32  # the first 0 fit, all of them do not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(with_first(middle)):
            low = middle
        else:
            high = middle
    chosen = order < np.uint64(low)
    classes[tied[chosen]] = raised[chosen]
