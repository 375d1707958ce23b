"""At the same bytes: what is gained by choosing with Fisher, and what by its controls. Pure.

Configurations of this project's and the paper's codec and of their controls are *matched* where all
that is tuned is the same: rate, error feedback, server. They send as many bytes in each round, and
differ in what they choose alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tools.evidence.contest import Contest, against
from tools.evidence.families import Role
from tools.evidence.sheets import Sheet
from tools.evidence.statistics import holm, interval, summary, t_test, wilcoxon
from tools.evidence.targets import Comparison, Tried, loss_at_bytes
from tools.evidence.uplink import bytes_values
from tools.evidence.words import loss, megabytes, p_text, percent, setting_text, times
from tools.report.tables import Column

# Shares of the bytes that all members of a group have sent, at which their losses are compared.
SHARES: Final = (0.1, 0.25, 0.5, 1.0)
_LEAST: Final = 2

_COLUMNS: Final = (
    Column("configuration", "Configuration"),
    Column("role", "Stands as", is_text=True),
    *(
        Column(f"loss{at}", f"Loss at {share:.0%}", loss, "Lowest loss until so many bytes")
        for at, share in enumerate(SHARES)
    ),
    Column("worse", "Worse by", loss, "Loss above the first row's, at all bytes, mean of pairs"),
    Column("worse_span", "95 % interval", str),
    Column("t_p", "p, t test", p_text, "Paired, Holm-corrected"),
    Column("wilcoxon_p", "p, Wilcoxon", p_text, "Signed ranks, Holm-corrected"),
    Column("reached", "Reached"),
    Column("wire_up", "MB to target", megabytes),
    Column("over_first", "× the first row's", times),  # noqa: RUF001  # the sign that is meant
    Column("final_accuracy", "Last accuracy", percent, optional=True),
    Column("command", "Run again with", is_text=True, optional=True),
)


def matched_groups(comparison: Comparison) -> list[list[Tried]]:
    """Return groups of at least two matched configurations, a control among them.

    In each, those that choose with Fisher come first, the plainest before all.
    """
    groups: dict[str, list[Tried]] = {}
    for tried in comparison.tried:
        if tried.configuration.role is not Role.BASELINE and tried.outcomes:
            groups.setdefault(tried.configuration.tuning, []).append(tried)
    found = [sorted(group, key=_order) for group in groups.values()]
    return [
        group
        for group in found
        if len(group) >= _LEAST
        and group[0].configuration.role is not Role.CONTROL
        and any(tried.configuration.role is Role.CONTROL for tried in group)
    ]


def matched_sheets(contest: Contest, *, keys: Sequence[str]) -> list[Sheet]:
    """Return a table per group of matched configurations in a setting."""
    comparison = contest.comparison
    where = setting_text(comparison.setting, keys)
    return [_sheet(group, where=where) for group in matched_groups(comparison)]


def worse_than(first: Tried, other: Tried, count: float) -> list[float]:
    """Return how much worse `other`'s lowest loss is after so many bytes, seed by seed."""
    differences = []
    for seed in sorted(first.outcomes.keys() & other.outcomes.keys()):
        one = loss_at_bytes(first.outcomes[seed].trial, count)
        two = loss_at_bytes(other.outcomes[seed].trial, count)
        if one is not None and two is not None:
            differences.append(two - one)
    return differences


def common_bytes(group: Sequence[Tried]) -> float:
    """Return the bytes that every trial of a group has sent."""
    return min(each.all_wire_up for tried in group for each in tried.outcomes.values())


def _sheet(group: Sequence[Tried], *, where: str) -> Sheet:
    first, most = group[0], common_bytes(group)
    differences = [worse_than(first, tried, most) for tried in group]
    t_p = holm([None, *(t_test(each) for each in differences[1:])])
    wilcoxon_p = holm([None, *(wilcoxon(each) for each in differences[1:])])
    rows = []
    for at, tried in enumerate(group):
        row = {
            "configuration": tried.text,
            "role": tried.configuration.role.value,
            **_losses(tried, most),
            **bytes_values(tried, None),
            "t_p": t_p[at],
            "wilcoxon_p": wilcoxon_p[at],
        }
        if at and differences[at]:
            found = interval(differences[at])
            row["worse"] = found.mean
            if found.low is not None and found.high is not None:
                row["worse_span"] = f"{loss(found.low)} to {loss(found.high)}"
            over = against(tried, first)
            row["over_first"] = over.ratio.mean if over.ratio and not over.at_least else None
        rows.append(row)
    tuning = first.configuration.tuning
    return Sheet(
        f"Matched budget {tuning}: {where}",
        _COLUMNS,
        tuple(rows),
        f"All bytes are the {megabytes(most)} MB that every trial of the group has sent.",
    )


def _losses(tried: Tried, most: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for at, share in enumerate(SHARES):
        found = [loss_at_bytes(each.trial, share * most) for each in tried.outcomes.values()]
        row[f"loss{at}"] = summary([each for each in found if each is not None]).mean
    return row


def _order(tried: Tried) -> tuple[bool, int, int, str]:
    configuration = tried.configuration
    return (
        configuration.role is Role.CONTROL,
        configuration.role is Role.PAPER,
        len(configuration.options),
        configuration.text,
    )
