"""Loss against bytes: each curve the mean over seeds, in its confidence band. Pure.

A curve's points are its evaluated rounds: the mean over seeds of the bytes sent so far, and of the
loss then. The band is the 95 % interval of that mean by Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tools.evidence.contest import Contest
from tools.evidence.families import Role
from tools.evidence.matched import matched_groups
from tools.evidence.sheets import Figure
from tools.evidence.statistics import interval
from tools.evidence.targets import Tried
from tools.evidence.words import setting_text
from tools.report.axis import in_bytes
from tools.report.plot import Labels, Series

# As many as the style sheet has colours for.
MOST: Final = 8
_STYLES: Final = tuple(f"curve-{number}" for number in range(1, MOST + 1))
# The first style is the baseline's.
_OTHERS: Final = _STYLES[1:]


def uplink_figure(contest: Contest, *, keys: Sequence[str]) -> Figure:
    """Return the curves of a setting's methods, each at its best: at most eight of them.

    The baseline's is among them, then the best of this project, of the paper, of the 1-bit codecs,
    and the next best ones.
    """
    return _figure(
        _few(contest),
        _STYLES,
        title=f"Loss against uplink: {setting_text(contest.comparison.setting, keys)}",
        caption="Each method at its best configuration. The shade is the 95 % interval of the mean"
        " over seeds; the bytes' axis is logarithmic.",
    )


def matched_figures(contest: Contest, *, keys: Sequence[str]) -> list[Figure]:
    """Return the curves of each group of configurations that send the same bytes."""
    where = setting_text(contest.comparison.setting, keys)
    figures = []
    for group in matched_groups(contest.comparison):
        shown = group[: len(_OTHERS)]
        figure = _figure(
            shown,
            _OTHERS,
            title=f"Matched budget {group[0].configuration.tuning}: {where}",
            caption="The same bytes in each round; what is chosen differs.",
        )
        names = _apart(shown)
        series = [replace(each, name=name) for each, name in zip(figure.series, names, strict=True)]
        figures.append(replace(figure, series=tuple(series)))
    return figures


def _apart(group: Sequence[Tried]) -> list[str]:
    """Return names that say what configurations with the same budget differ in, and no more."""
    options = [tried.configuration.options for tried in group]
    shared = set.intersection(*map(set, options))
    names = []
    for tried in group:
        own = (each for each in tried.configuration.options if each not in shared)
        parts = [f"{name}={value}" if value else name for name, value in own]
        names.append(", ".join([tried.configuration.codec, *parts]))
    return names


def series_of(tried: Tried, style: str) -> Series:
    """Return a configuration's curve over its trials that did not fail."""
    curves = [
        {record.round: (record.wire_up, loss) for record, loss in each.trial.evaluated}
        for each in tried.outcomes.values()
    ]
    rounds = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    points: list[tuple[float, float]] = []
    spread: list[tuple[float, float, float]] = []
    for number in rounds:
        sent = math.fsum(curve[number][0] for curve in curves) / len(curves)
        losses = [curve[number][1] for curve in curves]
        if not all(map(math.isfinite, losses)):
            continue
        found = interval(losses)
        points.append((sent, found.mean))
        if found.low is not None and found.high is not None:
            spread.append((sent, found.low, found.high))
    return Series(tried.text, style, tuple(points), tuple(spread))


def _figure(several: Sequence[Tried], styles: Sequence[str], *, title: str, caption: str) -> Figure:
    labels = Labels(
        title=title,
        about="Held-out loss against the bytes that all clients have sent, one line per method.",
        x="bytes up, all clients",
        y="nats / token",
        x_format=in_bytes,
    )
    series = tuple(series_of(tried, style) for tried, style in zip(several, styles, strict=False))
    return Figure(labels, series, caption)


def _few(contest: Contest) -> list[Tried]:
    reference = contest.comparison.reference
    wanted = [
        contest.best_of(lambda tried: tried.configuration.role is Role.PAPER),
        contest.best_of(lambda tried: tried.configuration.is_one_bit),
    ]
    several = [
        *([reference] if reference else []),
        *([contest.own.tried] if contest.own else []),
        *(best.tried for best in wanted if best),
        *(best.tried for best in contest.bests if best.role is not Role.CONTROL),
    ]
    unique = {tried.text: tried for tried in several if tried.outcomes}
    return list(unique.values())[:MOST]
