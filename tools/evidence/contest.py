"""Each method at its best, and how this project's codec stands to every other one. Pure.

A family's best configuration in a setting is the one that reaches the target with the most seeds
and, of those, takes the fewest bytes in geometric mean. The same rule for every family; the choice
is made on the seeds that are then tested, for all alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tools.evidence.families import Role, configuration, title
from tools.evidence.statistics import Ratio, holm, ratio
from tools.evidence.targets import Comparison, Tried

# Seed → what a configuration took to the target.
Costs = Callable[[Tried], Mapping[int, float]]
# Which of a comparison's configurations are asked for.
Wanted = Callable[[Tried], bool]


@dataclass(frozen=True, slots=True)
class Best:
    """A family in one setting.

    Attributes:
        family: Its text.
        role: On which side it stands.
        tried: Its best configuration.
        configurations: How many of it were run.
    """

    family: str
    role: Role
    tried: Tried
    configurations: int

    @property
    def title(self) -> str:
        """What people call it."""
        return title(self.family)


@dataclass(frozen=True, slots=True)
class Against:
    """How many times more bytes one side takes to the target than the other.

    Attributes:
        ratio: Over the seeds with which the cheaper side reached it; None where there are none.
        at_least: Whether the dearer side did not reach it with some of them, so that its bytes of
            all rounds stand in place of those to the target, and the ratio is a lower bound.
        t_p: Holm-corrected over the family of tests that this one belongs to.
        wilcoxon_p: The same.
    """

    ratio: Ratio | None
    at_least: bool
    t_p: float | None
    wilcoxon_p: float | None


@dataclass(frozen=True, slots=True)
class Contest:
    """One setting's methods, each at its best.

    Attributes:
        comparison: The setting.
        bests: One per family, those with the fewest bytes first.
        own: This project's best; None where none of its configurations reached the target.
        over_own: Family → bytes of that family over `own`'s, own and what failed left out.
    """

    comparison: Comparison
    bests: tuple[Best, ...]
    own: Best | None
    over_own: Mapping[str, Against]

    def best_of(self, wanted: Wanted) -> Best | None:
        """Return the best of the configurations that are asked for; None where there is none."""
        return best_of(self.comparison, wanted)


def contest_of(comparison: Comparison) -> Contest:
    """Return how the methods of a setting stand to one another."""
    bests = bests_of(comparison)
    own = next((best for best in bests if best.role is Role.OWN and best.tried.reached), None)
    others = [best for best in bests if own is not None and best.family != own.family]
    over_own = _corrected(
        {best.family: against(best.tried, own.tried) for best in others if own is not None}
    )
    return Contest(comparison, bests, own, over_own)


def bests_of(
    comparison: Comparison, costs: Costs = lambda tried: tried.reached
) -> tuple[Best, ...]:
    """Return the best configuration of each family, the best of all first.

    The baseline as it is stands alone; its tuned configurations are a family of their own.

    Args:
        comparison: The setting.
        costs: Seed → what a configuration took to the target; bytes where nothing is said.
    """
    families: dict[str, list[Tried]] = {}
    for tried in comparison.tried:
        families.setdefault(_family(comparison, tried), []).append(tried)

    def order(tried: Tried) -> tuple[float, float, str]:
        return _order(tried, costs(tried))

    bests = [
        Best(family, several[0].configuration.role, min(several, key=order), len(several))
        for family, several in families.items()
    ]
    return tuple(sorted(bests, key=lambda best: (order(best.tried), best.family)))


def best_of(comparison: Comparison, wanted: Wanted) -> Best | None:
    """Return the best of the configurations that are asked for; None where there is none."""
    several = [tried for tried in comparison.tried if wanted(tried)]
    if not several:
        return None
    best = min(several, key=lambda tried: _order(tried, tried.reached))
    return Best(_family(comparison, best), best.configuration.role, best, len(several))


def against(many: Tried | None, few: Tried | None) -> Against:
    """Return how many times more bytes `many` takes than `few`, seed by seed, uncorrected."""
    if many is None or few is None:
        return Against(None, at_least=False, t_p=None, wilcoxon_p=None)
    return pooled([(many, few)])


def pooled(pairs: Iterable[tuple[Tried, Tried]]) -> Against:
    """Return the same over the seeds of several settings together."""
    high: list[float] = []
    low: list[float] = []
    at_least = False
    for many, few in pairs:
        least = many.least_bytes()
        seeds = sorted(few.reached.keys() & least.keys())
        high += [least[seed] for seed in seeds]
        low += [few.reached[seed] for seed in seeds]
        at_least = at_least or any(seed not in many.reached for seed in seeds)
    if not high:
        return Against(None, at_least=False, t_p=None, wilcoxon_p=None)
    found = ratio(high, low)
    return Against(found, at_least=at_least, t_p=found.t_p, wilcoxon_p=found.wilcoxon_p)


def together(contests: Sequence[Contest]) -> dict[str, Against]:
    """Return family → bytes over `own`'s over all seeds of all settings, corrected.

    Only families that each setting has are in it; it is empty where one of them lacks its own.
    """
    owns = [contest.own for contest in contests]
    if not contests or None in owns:
        return {}
    tables = [{best.family: best for best in contest.bests} for contest in contests]
    families = [
        best.family
        for best in contests[0].bests
        if all(best.family in table for table in tables)
        and all(own is not None and own.family != best.family for own in owns)
    ]
    return _corrected(
        {
            family: pooled(
                (table[family].tried, own.tried)
                for table, own in zip(tables, owns, strict=True)
                if own is not None
            )
            for family in families
        }
    )


def _corrected(found: Mapping[str, Against]) -> dict[str, Against]:
    t_p = holm([each.t_p for each in found.values()])
    wilcoxon_p = holm([each.wilcoxon_p for each in found.values()])
    return {
        family: replace(each, t_p=one, wilcoxon_p=other)
        for (family, each), one, other in zip(found.items(), t_p, wilcoxon_p, strict=True)
    }


def _family(comparison: Comparison, tried: Tried) -> str:
    family, baseline = tried.configuration.family, comparison.baseline
    if tried.text != baseline and family == configuration(baseline).family:
        return f"{family},tuned"
    return family


def _order(tried: Tried, costs: Mapping[int, float]) -> tuple[float, float, str]:
    """Return what sorts the best first: most seeds, then the least cost, then the text."""
    known = [cost for cost in costs.values() if cost > 0]
    if not known:
        return (0.0, math.inf, tried.text)
    mean = math.fsum(map(math.log, known)) / len(known)
    return (-len(known) / tried.runs, mean, tried.text)
