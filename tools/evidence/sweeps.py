"""What changes with a setting: one row per value, workload and configuration. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tools.evidence.contest import Contest
from tools.evidence.families import Role, title
from tools.evidence.reading import canonical
from tools.evidence.sheets import Sheet
from tools.evidence.statistics import summary
from tools.evidence.uplink import bytes_values
from tools.evidence.words import label, loss, megabytes, percent, times, value_text
from tools.report.tables import Column

WORKLOAD: Final = "workload"
# Whether the last adapter also writes answers changes nothing of what was sent or learnt.
_UNNAMED: Final = frozenset({WORKLOAD, "quality"})
# Where several experiments vary, the value of each that stands for its usual one.
_USUAL: Final[Mapping[str, Any]] = {"alpha": 0.1, "dropout": 0.0}


def experiments_of(contests: Sequence[Contest]) -> dict[str, list[Contest]]:
    """Return the settings of each experiment."""
    found: dict[str, list[Contest]] = {}
    for contest in contests:
        found.setdefault(contest.comparison.experiment, []).append(contest)
    return found


def varied(contests: Sequence[Contest]) -> list[str]:
    """Return the keys that settings differ in, but for the workload and what changes nothing."""
    settings = [contest.comparison.setting for contest in contests]
    keys = dict.fromkeys(key for setting in settings for key in setting if key not in _UNNAMED)
    return [key for key in keys if len({canonical(each.get(key)) for each in settings}) > 1]


def main_contests(contests: Sequence[Contest]) -> list[Contest]:
    """Return the settings of the first tables, the same methods in each workload.

    They are those of experiments that vary nothing but the workload. Where there is no such
    experiment, of each other one the usual value of what it varies: alpha 0.1, no dropout, else the
    value that most of its settings have.
    """
    groups = experiments_of(contests).values()
    plain = [contest for group in groups if not varied(group) for contest in group]
    return plain or [contest for group in groups for contest in _usual(group)]


def judged(main: Sequence[Contest]) -> list[Contest]:
    """Return the settings by which goals are judged: ours stands against other methods there.

    Fewer seeds tell less of chance: only the experiments with the most seeds are judged by.
    """
    fair = [contest for contest in main if has_both_sides(contest)] or list(main)
    seeds = {
        experiment: max(len(contest.comparison.seeds) for contest in group)
        for experiment, group in experiments_of(fair).items()
    }
    most = max(seeds.values(), default=0)
    return [contest for contest in fair if seeds[contest.comparison.experiment] == most]


def sweep_sheets(contests: Sequence[Contest]) -> list[Sheet]:
    """Return a table for each experiment that varies more than the workload."""
    found = []
    for experiment, group in experiments_of(contests).items():
        keys = varied(group)
        if keys:
            found.append(_sweep_sheet(experiment, group, keys))
    return found


def _sweep_sheet(experiment: str, group: Sequence[Contest], keys: Sequence[str]) -> Sheet:
    columns = (
        Column(WORKLOAD, "Workload"),
        *(Column(key, _head(key), value_text) for key in keys),
        Column("method", "Method", is_text=True),
        Column("configuration", "Configuration", is_text=True),
        Column("target", "Target loss", loss),
        Column("reached", "Reached"),
        Column("wire_up", "MB to target", megabytes),
        Column("deviation", "± sd", megabytes),
        Column("saving", "Less than baseline", times),
        Column("saving_span", "95 % interval", str),
        Column("final_loss", "Last loss", loss),
        Column("final_accuracy", "Last accuracy", percent, optional=True),
        Column("command", "Run again with", is_text=True, optional=True),
    )
    rows: list[dict[str, Any]] = []
    for contest in sorted(group, key=lambda each: _place(each, keys)):
        comparison = contest.comparison
        for tried in comparison.tried:
            rows.append(  # noqa: PERF401  # reads as a row
                {
                    WORKLOAD: comparison.workload,
                    **{key: comparison.setting.get(key) for key in keys},
                    "method": title(tried.configuration.family),
                    "configuration": tried.text,
                    "target": summary(list(comparison.targets.values())).mean,
                    **bytes_values(tried, comparison.reference),
                }
            )
    what = " and ".join(map(label, keys))
    about = f"Each value of {what} has a target of its own, set by the baseline there."
    return Sheet(f"Sweep of {what} (experiment {experiment})", columns, tuple(rows), about)


def _head(key: str) -> str:
    """Return a column's head; α stays small, its capital is an A."""  # noqa: RUF002  # Greek is meant
    text = label(key)
    return text.capitalize() if text.isascii() else text


def _usual(group: Sequence[Contest]) -> list[Contest]:
    kept = list(group)
    for key in varied(group):
        values = [canonical(each.comparison.setting.get(key)) for each in kept]
        usual = canonical(_USUAL.get(key))
        if usual not in values:
            usual = Counter(values).most_common(1)[0][0]
        kept = [each for each, value in zip(kept, values, strict=True) if value == usual]
    return kept


def has_both_sides(contest: Contest) -> bool:
    """Say whether this project's codec stands against another method than the baseline."""
    comparison = contest.comparison
    others = {
        tried.configuration.role for tried in comparison.tried if tried.text != comparison.baseline
    }
    return {Role.OWN, Role.BASELINE} <= others


def _place(contest: Contest, keys: Sequence[str]) -> tuple[Any, ...]:
    """Return what sorts settings: by workload, numbers by size, then all else."""
    setting = contest.comparison.setting
    place: list[Any] = [contest.comparison.workload]
    for key in keys:
        value = setting.get(key)
        number = _number(value)
        place.append((math.inf if number is None else number, canonical(value)))
    return tuple(place)


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None
