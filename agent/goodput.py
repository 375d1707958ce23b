"""How fast the aggregator accepts what this device sends: measured, smoothed, held steady. Pure.

A stretch of sending begins with the first segment that is given to the link and ends when nothing
waits to be accepted; time outside of stretches says nothing about the link and is not counted. A
link that goes away inside a stretch costs time like a slow one, for a round's deadline does not
wait for it, but at most `OUTAGE_S` of it: a night without a network says when the device was away,
and nothing about what its link can carry afterwards.
"""

from __future__ import annotations

import math
from typing import Final

# [s] Time constant of smoothing within a stretch: some segments of 8 KiB at 40 kbit/s and some ups
# and downs of a link that flaps every 20 s, and a link that fades for good is followed in minutes.
SMOOTHING_S: Final = 60.0

# [s] Of a longer pause between two acceptances no more counts.
OUTAGE_S: Final = 30.0

# A stretch counts for this share at the least, however short: updates of some KB on a fast link
# would otherwise never outweigh what was measured on the slow one before.
STRETCH_SHARE: Final = 0.25

# The value in use follows the estimate when it has moved by this factor: neither a budget nor a
# segment's size should change with every breath of the link.
HYSTERESIS: Final = 1.25


class Goodput:
    """Bits per second of segments that the aggregator accepted while any were to be accepted."""

    def __init__(self, *, remembered_bps: float | None = None) -> None:
        """Begin with what was in use before a restart, where anything was."""
        self._used = remembered_bps
        self._before = remembered_bps
        self._bits = 0.0
        self._seconds = 0.0
        self._stretch_s = 0.0
        self._counted_at: float | None = None

    @property
    def bits_per_second(self) -> float | None:
        """The value to plan with; None before anything was accepted."""
        return self._used

    def begin(self, now: float) -> None:
        """Segments are to be accepted from now on; nothing happens where they are already."""
        if self._counted_at is None:
            self._counted_at = now

    def note(self, accepted_bytes: int, *, now: float) -> None:
        """Count bytes that became accepted."""
        if self._counted_at is None:
            return  # They were sent before the agent's start, nobody knows how fast.
        elapsed_s = min(max(now - self._counted_at, 0.0), OUTAGE_S)
        self._counted_at = now
        faded = math.exp(-elapsed_s / SMOOTHING_S)
        self._bits = self._bits * faded + 8 * accepted_bytes
        self._seconds = self._seconds * faded + elapsed_s
        self._stretch_s += elapsed_s
        self._use(self._estimate(least_share=0.0))

    def end(self) -> None:
        """Nothing waits to be accepted any more: the stretch becomes a part of the past."""
        if self._counted_at is None:
            return
        self._before = self._estimate(least_share=STRETCH_SHARE)
        self._use(self._before)
        self._bits = self._seconds = self._stretch_s = 0.0
        self._counted_at = None

    def _estimate(self, *, least_share: float) -> float | None:
        if self._seconds <= 0.0 or self._bits <= 0.0:
            return self._before
        rate = self._bits / self._seconds
        if self._before is None:
            return rate
        share = max(least_share, 1.0 - math.exp(-self._stretch_s / SMOOTHING_S))
        return share * rate + (1.0 - share) * self._before

    def _use(self, estimate: float | None) -> None:
        if estimate is None:
            return
        used = self._used
        if used is None or not used / HYSTERESIS <= estimate <= used * HYSTERESIS:
            self._used = estimate
