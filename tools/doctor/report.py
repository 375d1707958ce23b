"""What the doctor says: lines for a person, or a JSON list whose keys stay as they are."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Final

from tools.doctor.finding import Finding, State

_NAME_WIDTH: Final = 19
_INDENT: Final = " " * (6 + _NAME_WIDTH)
_COLOUR: Final = {
    State.OK: "\x1b[32m",
    State.WARN: "\x1b[33m",
    State.FAIL: "\x1b[31m",
    State.SKIP: "\x1b[2m",
}
_PLAIN: Final = "\x1b[0m"


def lines(finding: Finding, *, width: int, coloured: bool) -> list[str]:
    """Return a finding as lines of a terminal: state, name and text, then what mends it."""
    label = f"{finding.state.value:<5}"
    if coloured:
        label = f"{_COLOUR[finding.state]}{label}{_PLAIN}"
    room = max(width - len(_INDENT), 40)
    first, *more = _wrapped(finding.text, room)
    # Whole, however long: a command that is cut in two cannot be copied.
    mend = [f"mend: {finding.mend}"] if finding.mend else []
    return [
        f"{label} {finding.check:<{_NAME_WIDTH}}{first}",
        *(f"{_INDENT}{line}" for line in (*more, *mend)),
    ]


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as a JSON list of {check, state, text, mend}."""
    rows = [
        {
            "check": finding.check,
            "state": finding.state.value,
            "text": finding.text,
            "mend": finding.mend,
        }
        for finding in findings
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def summary(findings: Sequence[Finding]) -> str:
    """Return the last line: how many of each state."""
    counts = {state: sum(one.state is state for one in findings) for state in State}
    parts = [f"{count} {state.value}" for state, count in counts.items() if count]
    return ", ".join(parts) or "nothing was checked"


def _wrapped(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
