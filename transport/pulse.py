"""Whether a thread goes on: it says so each time it comes around, and for how long it may be away.

Pure. One thread beats, any other asks; what they share is one number.
"""

from __future__ import annotations

import math
from typing import Final

# [s] A turn of a loop takes half a second; a board that swaps may take twenty times as long.
TURN_S: Final = 10.0


class Pulse:
    """One thread's word for being at work."""

    def __init__(self) -> None:
        """Begin in time: a thread that has not started is not late."""
        self._late_at = math.inf

    def beat(self, now: float, *, within_s: float = TURN_S) -> None:
        """Say that the thread is here, and comes back within so many seconds."""
        self._late_at = now + within_s

    def is_late(self, now: float) -> bool:
        """Tell whether the thread has been away for longer than it said."""
        return now > self._late_at
