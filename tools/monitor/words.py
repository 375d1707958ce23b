"""Figures of a fleet as people say them. Pure; `tools.units` has those of bytes and losses."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_KILO: Final = 1_000
_MEGA: Final = 1_000_000
_TEN: Final = 10


def duration_text(seconds: float) -> str:
    """Return a duration as coarsely as one says it: "40 s", "3 min", "5 h", "2 days"."""
    if seconds < 2 * _MINUTE_S:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h"
    return f"{seconds // _DAY_S:.0f} days"


def rate_text(bits_per_s: float) -> str:
    """Return a goodput: "12 kbit/s", "3.4 Mbit/s"."""
    for unit, size in (("Mbit/s", _MEGA), ("kbit/s", _KILO)):
        if bits_per_s >= size:
            value = bits_per_s / size
            return f"{value:.1f} {unit}" if value < _TEN else f"{value:.0f} {unit}"
    return f"{bits_per_s:.0f} bit/s"


def clock_text(unix_s: float, *, now_s: float, zone: tzinfo) -> str:
    """Return a moment as a clock shows it, with the date where that is not today's or so."""
    try:
        moment = datetime.fromtimestamp(unix_s, zone)
    except (OverflowError, ValueError, OSError):
        return "a moment that no calendar has"
    return moment.strftime("%H:%M" if abs(now_s - unix_s) < _DAY_S else "%Y-%m-%d %H:%M")


def twice_text(resent: int) -> str:
    """Return what was repeated: "; 9 sent twice", "" where nothing was."""
    return f"; {resent} sent twice" if resent else ""
