"""What came from elsewhere, made harmless before it is kept: bounded, finite, printable. Pure."""

from __future__ import annotations

from typing import Final

# A browser's numbers are exact up to here, and more than this is nobody's count of anything.
_MOST_COUNT: Final = 1 << 53
_MOST_NUMBER: Final = 1e15

# [characters] Of a sentence, and of a name.
TEXT_LENGTH: Final = 240
NAME_LENGTH: Final = 80


def text(value: str, *, limit: int = TEXT_LENGTH) -> str:
    """Return a text in one line, cut to a length, without what would steer a terminal."""
    value = value[: limit + 1]
    if not value.isprintable():
        value = "".join(one if one.isprintable() else "�" for one in value)
    return value if len(value) <= limit else value[: limit - 1] + "…"


def name(value: str) -> str:
    """Return a text that names something."""
    return text(value, limit=NAME_LENGTH)


def count(value: int) -> int:
    """Return a count between 0 and what JSON's readers take exactly."""
    return min(max(value, 0), _MOST_COUNT)


def number(value: float | None) -> float | None:
    """Return a figure within bounds that sums and differences do not leave."""
    return None if value is None else min(max(float(value), -_MOST_NUMBER), _MOST_NUMBER)


def positive(value: float | None) -> float | None:
    """Return a figure that is not below 0."""
    return None if value is None else min(max(float(value), 0.0), _MOST_NUMBER)
