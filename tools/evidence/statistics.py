"""What a handful of seeds can tell: means, paired tests of ratios, corrected for being many. Pure.

Bytes differ by factors, so everything is done on logarithms: a mean is a geometric one, an interval
is that of a factor, and a test asks whether the factor is 1. Pairs share their seed. Tests have two
sides. Of n pairs Wilcoxon's signed ranks can give no p below 2/2ⁿ: five seeds never pass 0.05 by
themselves, which is why a test over all workloads stands beside each workload's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

CONFIDENCE: Final = 0.95
SIGNIFICANT: Final = 0.05
_LEAST_PAIRS: Final = 2


@dataclass(frozen=True, slots=True)
class Summary:
    """Some values.

    Attributes:
        count: How many there are.
        mean: Their mean; None where there is none.
        deviation: Their standard deviation, of a sample (n - 1); None of less than two.
    """

    count: int
    mean: float | None
    deviation: float | None


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval, of which a single value has none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times more one side takes than the other, over pairs.

    Attributes:
        pairs: How many.
        mean: Geometric mean.
        low: Of the 95 % confidence interval (t, on logarithms); None for a single pair.
        high: The same.
        t_p: Of the paired t test of the logarithms; None for a single pair.
        wilcoxon_p: Of Wilcoxon's signed-rank test of the logarithms; None for a single pair.
    """

    pairs: int
    mean: float
    low: float | None
    high: float | None
    t_p: float | None
    wilcoxon_p: float | None


def summary(values: Sequence[float]) -> Summary:
    """Return how many values there are, their mean and their standard deviation."""
    count = len(values)
    return Summary(
        count=count,
        mean=math.fsum(values) / count if count else None,
        deviation=float(np.std(values, ddof=1)) if count >= _LEAST_PAIRS else None,
    )


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of at least one value, with its 95 % confidence interval by Student's t."""
    mean = math.fsum(values) / len(values)
    if len(values) < _LEAST_PAIRS:
        return Interval(mean, None, None)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def ratio(many: Sequence[float], few: Sequence[float]) -> Ratio:
    """Return how many times `many` is `few`, pair by pair.

    Args:
        many: At least one value above 0.
        few: The other side of each pair, above 0.
    """
    logs = [math.log(high / low) for high, low in zip(many, few, strict=True)]
    found = interval(logs)
    return Ratio(
        pairs=len(logs),
        mean=math.exp(found.mean),
        low=None if found.low is None else math.exp(found.low),
        high=None if found.high is None else math.exp(found.high),
        t_p=t_test(logs),
        wilcoxon_p=wilcoxon(logs),
    )


def t_test(differences: Sequence[float]) -> float | None:
    """Return p of a paired t test with two sides; None for less than two pairs.

    Source: Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    if len(differences) < _LEAST_PAIRS:
        return None
    if float(np.ptp(differences)) <= 1e-12 * max(map(abs, differences)):
        return 0.0 if differences[0] else 1.0  # t without end, or 0 / 0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def wilcoxon(differences: Sequence[float]) -> float | None:
    """Return p of Wilcoxon's signed-rank test with two sides; None for less than two pairs.

    It is exact up to 50 pairs without ties; pairs without a difference are left out.

    Source: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics 1 (1945).
    """
    if len(differences) < _LEAST_PAIRS:
        return None
    if not any(differences):
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for being many; what is None is no test and stays so.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979).
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[place] = least
    return corrected


def least_wilcoxon_p(pairs: int) -> float:
    """Return the smallest p that so many pairs can give, with two sides."""
    return min(1.0, 2.0 / 2.0**pairs)
