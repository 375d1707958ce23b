"""Bytes to other targets than the one that was fixed: nearer and further ones. Pure.

Few bits per coordinate win early and may leave a rest at the end; a single target would hide that.
The configurations are those that are best at the fixed target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tools.evidence.contest import Contest, against
from tools.evidence.sheets import Sheet
from tools.evidence.targets import Comparison, Outcome, Tried, place_of, target_of
from tools.evidence.words import factor, loss, setting_text, times
from tools.report.tables import Column

# Of the baseline's rounds.
SHARES: Final = (0.25, 0.5, 0.75, 0.9, 1.0)


def other_targets_sheet(contest: Contest, *, keys: Sequence[str]) -> Sheet | None:
    """Return how many times fewer bytes than the baseline each method takes to several targets.

    None where the baseline has set no target.
    """
    comparison = contest.comparison
    if comparison.reference is None or not comparison.targets:
        return None
    moved = [at_share(comparison, share) for share in SHARES]
    rows = tuple(
        {
            "method": best.title,
            "configuration": best.tried.text,
            **{f"less{at}": _less(each, best.tried.text) for at, each in enumerate(moved)},
        }
        for best in contest.bests
    )
    columns = (
        Column("method", "Method"),
        Column("configuration", "Configuration", is_text=True),
        *(Column(f"less{at}", f"At {share:.0%}", str) for at, share in enumerate(SHARES)),
    )
    losses = ", ".join(
        f"{loss(sum(each.targets.values()) / len(each.targets))} at {share:.0%}"
        for share, each in zip(SHARES, moved, strict=True)
    )
    return Sheet(
        f"Other targets: {setting_text(comparison.setting, keys)}",
        columns,
        rows,
        f"Times fewer bytes than {comparison.baseline} to the lowest loss that it has after so much"
        " of its rounds, over the runs that reached it; how many did stands beside it where not all"
        f" have. Targets, means over seeds in nats: {losses}.",
    )


def at_share(comparison: Comparison, share: float) -> Comparison:
    """Return the same trials against the loss that the baseline reaches after another share."""
    reference = comparison.reference
    assert reference is not None
    targets = {
        seed: target_of(outcome.trial, share=share) for seed, outcome in reference.outcomes.items()
    }
    return replace(
        comparison,
        targets=targets,
        tried=tuple(_retargeted(tried, targets) for tried in comparison.tried),
    )


def _retargeted(tried: Tried, targets: dict[int, float]) -> Tried:
    return replace(
        tried,
        outcomes={
            seed: Outcome(each.trial, targets[seed], place_of(each.trial, targets[seed]))
            for seed, each in tried.outcomes.items()
        },
    )


def _less(comparison: Comparison, text: str) -> str | None:
    tried = comparison.by_text[text]
    found = factor(against(comparison.reference, tried))
    if found is None or not tried.reached:
        return None
    share = "" if tried.always_reached else f" ({len(tried.reached)} of {tried.runs})"
    return f"{times(found)}{share}"
