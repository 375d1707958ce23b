"""Whether a goal is reached, as a row of a table and as a sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tools.evidence.sheets import Sheet
from tools.evidence.words import p_text
from tools.report.tables import Column

_WORDS: Final = {True: "reached", False: "**not reached**", None: "not measured"}

_COLUMNS: Final = (
    Column("goal", "Goal"),
    Column("where", "Where", is_text=True),
    Column("reached", "Reached", is_text=True),
    Column("found", "Found", is_text=True),
    Column("span", "95 % interval", is_text=True, optional=True),
    Column("t_p", "p, t test", p_text, optional=True),
    Column("wilcoxon_p", "p, Wilcoxon", p_text, optional=True),
    Column("note", "Note", is_text=True, optional=True),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one goal stands in one place.

    Attributes:
        goal: What was wanted, as one says it.
        where: In which setting.
        reached: Whether it is; None where it was not measured.
        found: The figure; "" where there is none.
        span: Its confidence interval.
        t_p: Of the corrected t test.
        wilcoxon_p: Of the corrected signed-rank test.
        note: What else is to be said.
    """

    goal: str
    where: str
    reached: bool | None
    found: str = ""
    span: str | None = None
    t_p: float | None = None
    wilcoxon_p: float | None = None
    note: str = ""


def sentences(verdicts: Iterable[Verdict]) -> list[str]:
    """Return a sentence per goal, over all places; a goal is reached where it is in each."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.goal, []).append(verdict)
    return [_sentence(goal, several) for goal, several in groups.items()]


def verdicts_sheet(verdicts: Sequence[Verdict]) -> Sheet:
    """Return a row per goal and place."""
    rows = tuple(
        {
            "goal": each.goal,
            "where": each.where,
            "reached": _WORDS[each.reached].replace("*", ""),
            "found": each.found or None,
            "span": each.span,
            "t_p": each.t_p,
            "wilcoxon_p": each.wilcoxon_p,
            "note": each.note.replace("`", "") or None,
        }
        for each in verdicts
    )
    return Sheet("Goals", _COLUMNS, rows)


def _sentence(goal: str, several: Sequence[Verdict]) -> str:
    known = [each for each in several if each.reached is not None]
    reached = all(each.reached for each in known) if known else None
    counted = sum(bool(each.reached) for each in known)
    text = f"Goal {_WORDS[reached]}"
    if reached is False and counted:
        text += f" everywhere, but in {counted} of {len(known)} settings"
    elif reached and len(known) > 1:
        text += f" in all of {len(known)} settings"
    parts = [_place(each) for each in several]
    return f"{text}: {goal}. {'; '.join(parts)}."


def _place(verdict: Verdict) -> str:
    if verdict.reached is None:
        return f"{verdict.where}: not measured"
    beside = [f"95 % interval {verdict.span}"] if verdict.span else []
    if verdict.t_p is not None:
        beside.append(f"p {_with_sign(verdict.t_p)}")
    text = f"{verdict.where}: {verdict.found}"
    text += f" ({', '.join(beside)})" if beside else ""
    return f"{text}, {verdict.note}" if verdict.note else text


def _with_sign(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
