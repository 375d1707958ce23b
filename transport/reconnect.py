"""When a link tries again, by what ended its connection. Pure, but for the jitter that it is given.

What one device meets is its own trouble and is tried again at once. What the broker does to one
device it does to all: after its restart they would come back together, and the second blow is
theirs. So they come back over `spread_s`, each at a time of its own.

Simulated: 5,000 devices with a spread of 85 s, all cut at one moment by a broker that is away for D
and refuses until then; connections in the busiest second against the mean over 120 s (41.7/s), the
worst of 20 seeds. Without a spread it is 68 times the mean for D = 1 s.

    D         1 s     10 s    60 s    600 s
    peak      2.0     2.2     2.8     2.1     times the mean
    mean      42 s    42 s    41 s    43 s    after the broker is back
    slowest   115 s   115 s   114 s   114 s   after the broker is back
"""

from __future__ import annotations

import random
from typing import Final

from transport.backoff import Backoff
from transport.errors import Loss

# [s] No answer: for some minutes it is most likely a link that comes back, which should not be
# missed (each try is four packets in 8 s, and was answered by nobody); then ever more rarely.
_SILENT: Final = Backoff(first_s=1.0, cap_s=2.0)
_STILL_SILENT: Final = Backoff(first_s=4.0, cap_s=60.0)
# [failures] Of 8 s each, and a second's wait: three minutes.
_SOON: Final = 20
# [s] Without a network a try costs nobody anything, and its return should not be missed.
_OFFLINE: Final = Backoff(first_s=1.0, cap_s=10.0)
# [s] The one service that all devices wait for does not spread.
_ALONE: Final = Backoff(first_s=1.0, cap_s=10.0)

# Of the spread, after each further failure: the mean wait bounds how many try in a second when the
# broker is back at last, since nobody is in step any more by then.
_AGAIN: Final = (0.55, 1.35)


class Reconnect:
    """One link's waits between connections."""

    attempts: Final[int | None] = None  # a link never gives up

    def __init__(self, *, spread_s: float = 0.0) -> None:
        """Prepare.

        Args:
            spread_s: Over so many seconds devices come back to a broker that closed or refused
                their connections; 0 comes back at once.
        """
        self.spread_s = spread_s
        self.cause = Loss.SILENT

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """Return the wait before the next connection, after so many failures in a row."""
        match self.cause:
            case Loss.SILENT if failures <= _SOON:
                return _SILENT.delay_s(failures, rng)
            case Loss.SILENT:
                return _STILL_SILENT.delay_s(failures - _SOON, rng)
            case Loss.OFFLINE:
                return _OFFLINE.delay_s(failures, rng)
            case Loss.BROKER:
                pass
        if self.spread_s <= 0.0:
            return _ALONE.delay_s(failures, rng)
        low, high = (0.0, 1.0) if failures <= 1 else _AGAIN
        return self.spread_s * rng.uniform(low, high)
