"""The soak's result: a JSON document, and a Markdown table that keeps the last row of each case."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from tools.bench.machine import describe
from tools.soak.outcome import Outcome

BEGIN = "<!-- soak table: written by `fedfstq soak --write` -->"
END = "<!-- end of the soak table -->"
_COLUMNS = ("case", "figure", "measured", "reached", "form", "machine and date")
_RULE = "| " + " | ".join(["---"] * len(_COLUMNS)) + " |"


class NoMarkers(Exception):
    """A page has no place for the table."""


@dataclass(frozen=True, slots=True)
class Played:
    """A case that has run.

    Attributes:
        quick: It was the short form.
        seconds: How long it took.
    """

    outcome: Outcome
    quick: bool
    seconds: float


def document(played: Sequence[Played]) -> str:
    """Return what `soak.json` holds."""
    content = {
        "machine": describe(),
        "cases": [
            {**asdict(one.outcome), "quick": one.quick, "seconds": round(one.seconds, 1)}
            for one in played
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def table(played: Sequence[Played], *, before: str = "") -> str:
    """Return the Markdown table, with the rows of `before` for cases that have not run now.

    A full form's row gives way to a full form only: what a short form shows is less.
    """
    rows = {cells[0]: cells for cells in _rows(before)}
    for one in played:
        held = rows.get(one.outcome.case)
        if held is None or not one.quick or held[4] != "full":
            rows[one.outcome.case] = _row(one)
    lines = ["| " + " | ".join(_COLUMNS) + " |", _RULE]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows.values())]) + "\n"


def write_into(page: Path, played: Sequence[Played]) -> None:
    """Put the table between the markers of a page.

    Raises:
        NoMarkers: The page has none.
        OSError: It cannot be read or written.
    """
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    before, end, tail = rest.partition(END)
    if not (begin and end):
        raise NoMarkers(f"{page} has no line {BEGIN!r} with a line {END!r} after it")
    content = table(played, before=before)
    page.write_text(f"{head}{BEGIN}\n\n{content}\n{END}{tail}", encoding="utf-8")


def _row(one: Played) -> tuple[str, ...]:
    outcome = one.outcome
    today = datetime.now(timezone.utc).date().isoformat()
    cells = (
        outcome.case,
        outcome.figure,
        outcome.measured,
        "yes" if outcome.reached else "**no**",
        "quick" if one.quick else "full",
        f"{os.cpu_count()}-core {platform.machine()}, {one.seconds:.0f} s, {today}",
    )
    return tuple(cell.replace("|", "/").replace("\n", " ") for cell in cells)


def _rows(text: str) -> list[tuple[str, ...]]:
    rows = []
    for line in text.splitlines():
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if len(cells) == len(_COLUMNS) and cells != _COLUMNS and not cells[0].startswith("---"):
            rows.append(cells)
    return rows
