"""What a check found, as a value: the line for a person and the entry of the JSON list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """How it stands with one thing that was checked."""

    OK = "OK"
    WARN = "WARN"  # it works, and something will go wrong or is worse than need be
    FAIL = "FAIL"  # the service does not work, or is not safe, until it is mended
    SKIP = "SKIP"  # it could not be looked at; the text says why


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        check: The check's name, stable over versions.
        text: What was found, in one line, never with content of private data.
        mend: The command or change that mends it; empty where nothing needs to be.
    """

    check: str
    state: State
    text: str
    mend: str = ""


def ok(check: str, text: str) -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding(check, State.OK, text)


def warn(check: str, text: str, mend: str) -> Finding:
    """Return a finding of something that works, but not well or not for long."""
    return Finding(check, State.WARN, text, mend)


def fail(check: str, text: str, mend: str) -> Finding:
    """Return a finding of something that must be mended."""
    return Finding(check, State.FAIL, text, mend)


def skip(check: str, text: str, mend: str = "") -> Finding:
    """Return a finding of something that could not be looked at."""
    return Finding(check, State.SKIP, text, mend)


def has_failed(findings: Iterable[Finding]) -> bool:
    """Tell whether anything must be mended."""
    return any(finding.state is State.FAIL for finding in findings)
