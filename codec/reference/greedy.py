"""Bits per coordinate, greedily: where another bit makes the error fall most, under a budget.

A bit is held to divide what a coordinate contributes to the error by 4, whatever is really sent.
With importance u the error at b bits is u / 4^b, and the widths that there are lie on a convex
curve: spending bits where the error falls most per bit is then optimal, and comes to thresholds on
u. In roots: a width goes to those whose √u is over its factor times a common threshold.

Source: arXiv 2604.25421 (Fed-FSTQ), Algorithm 1, step 2, for u = F·Δ²; arXiv 2408.08977 (FedFQ),
whose Constraint-Guided Simulated Annealing minimises this sum for u = Δ².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.reference.largest import Ranking

if TYPE_CHECKING:
    import numpy.typing as npt

    from codec.codec import FloatArray

    ClassArray = npt.NDArray[np.uint8]
    IntArray = npt.NDArray[np.int64]

# [coordinates] How many stand for all of them where sizes are estimated, at most.
_SAMPLED: Final = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """The ways up of all coordinates, width by width, in the order in which they are worth it.

    Attributes:
        size: How many coordinates there are.
        ranking: Of keys, first those of the lowest width of all coordinates, then of the next.
        sampled: int64 (steps of a sample + 1, widths), of its first steps, how many lead where.
        stride: Every so many coordinates one is in the sample.
    """

    size: int
    ranking: Ranking
    sampled: IntArray
    stride: int

    @classmethod
    def of(cls, roots: FloatArray, *, widths: tuple[int, ...]) -> Steps:
        """Return the steps of coordinates of these importances.

        Args:
            roots: float32 (coordinates,), ≥ 0, √u; coordinates of 0 get no bits.
            widths: Bits, ascending, without 0.
        """
        factors = divisors(widths)
        keys = np.empty(len(widths) * roots.size, dtype=np.float32)
        for row, factor in zip(keys.reshape(len(widths), -1), factors, strict=True):
            np.divide(roots, factor, out=row)
        stride = -(-roots.size // _SAMPLED)
        some = np.concatenate([roots[::stride] / factor for factor in factors])
        owners = np.repeat(np.arange(len(widths)), some.size // len(widths))
        order = np.argsort(-some, kind="stable")
        sampled = np.zeros((some.size + 1, len(widths)), dtype=np.int64)
        for width in range(len(widths)):
            np.cumsum(owners[order] == width, out=sampled[1:, width])
        return cls(roots.size, Ranking(keys), sampled, stride)

    @property
    def count(self) -> int:
        """How many steps there are, those that are worth nothing counted."""
        widths: int = self.sampled.shape[1]
        return self.size * widths

    def classes(self, number: int) -> ClassArray:
        """Return how many steps each coordinate takes if all take so many, the best ones.

        Returns:
            uint8 (coordinates,), 0 to the number of widths.
        """
        classes = np.zeros(self.size, dtype=np.uint8)
        for window, taken in self.ranking.marks(self.ranking.cut(number)):
            begin = window.start
            while begin < window.stop:
                end = min(window.stop, begin - begin % self.size + self.size)
                first = begin % self.size
                classes[first : first + end - begin] += taken[
                    begin - window.start : end - window.start
                ]
                begin = end
        return classes

    def about(self, number: int) -> IntArray:
        """Return about how many coordinates have at least each width, int64 (widths,)."""
        place = number * (len(self.sampled) - 1) // self.count
        counts: IntArray = np.minimum(self.sampled[place] * self.stride, self.size)
        return counts


def divisors(widths: tuple[int, ...]) -> FloatArray:
    """Return what √u is divided by to be compared with the threshold of each width's step.

    The first is 1; the squares are as one over the fall of 4^-b per bit on the way to each width.
    """
    ladder = (0, *widths)
    falls = [
        (np.ldexp(1.0, -2 * below) - np.ldexp(1.0, -2 * above)) / (above - below)
        for below, above in zip(ladder, widths, strict=False)
    ]
    ratios: FloatArray = np.array([falls[0] / fall for fall in falls]).astype(np.float32)
    return np.sqrt(ratios)
