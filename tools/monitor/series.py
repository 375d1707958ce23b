"""A figure over time in bounded memory: thinned as it grows, never forgotten. Pure."""

from __future__ import annotations

from array import array
from typing import Final

LIMIT: Final = 300


class Series:
    """At most `limit` points of one figure, from the first to the newest.

    When they are too many every second one goes, and from then on points must be twice as far
    apart: a day is shown as coarsely as an hour was finely.

    Args:
        limit: Points that are kept; even.
    """

    __slots__ = ("_apart_s", "_limit", "_moments", "_values")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._apart_s = 0.0
        self._moments = array("d")
        self._values = array("f")

    def add(self, moment_s: float, value: float | None) -> None:
        """Add a point; one that is too near to the point before is left out."""
        if value is None:
            return
        if self._moments and moment_s < self._moments[-1] + self._apart_s:
            return
        if len(self._moments) >= self._limit:
            del self._moments[1::2], self._values[1::2]
            span_s = self._moments[-1] - self._moments[0]
            self._apart_s = max(2 * self._apart_s, 2 * span_s / self._limit)
        self._moments.append(moment_s)
        self._values.append(value)

    def points(self) -> list[list[float]]:
        """Return `[moment_s, value]` for each point, the oldest first."""
        return [
            [round(moment, 1), float(f"{value:.4g}")]
            for moment, value in zip(self._moments, self._values, strict=True)
        ]
