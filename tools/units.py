"""Figures as people read them."""

from __future__ import annotations

_STEP = 1000


def bytes_text(count: float) -> str:
    """Return a number of bytes with three figures and a decimal unit: 1234 → "1.23 kB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < _STEP or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{_three(count)} {unit}"
        count /= _STEP
    raise AssertionError("unreachable: the last unit takes everything")


def count_text(count: int, noun: str) -> str:
    """Return a number of things: 1 and "round" → "1 round", 2 → "2 rounds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def loss_text(loss: float | None) -> str:
    """Return a loss in nats with three decimals, or nothing where there is none."""
    return "" if loss is None else f"{loss:.3f}"


def ratio_text(many: float, few: float) -> str:
    """Return how many times `few` goes into `many`: "12.3 times"."""
    return f"{_three(many / few)} times" if few else "without end"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004  # three figures
