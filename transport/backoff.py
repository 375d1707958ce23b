"""The one way to try again: jittered and capped delays, through tenacity."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import tenacity


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before trying again.

    Attributes:
        first_s: The longest wait after the first failure.
        cap_s: The longest wait after any failure.
        attempts: Tries after which to give up; None never gives up.
    """

    first_s: float = 1.0
    cap_s: float = 60.0
    attempts: int | None = None

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """Return a wait between 0 and first_s · 2^(failures - 1), at most the cap ("full jitter").

        Devices that lost their broker together must not come back together; a uniform wait spreads
        them best for the same mean.

        Source: Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
        """
        # The exponent is capped because 2.0**1024 overflows after a night without a broker.
        return rng.uniform(0.0, min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 64)))


class Delays(Protocol):
    """What `retrying` needs of a policy."""

    @property
    def attempts(self) -> int | None:
        """Tries after which to give up; None never gives up."""
        ...

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """Return the wait after so many failures in a row."""
        ...


def retrying(
    backoff: Delays,
    *,
    retry_on: type[Exception] | tuple[type[Exception], ...],
    rng: random.Random,
    stopping: threading.Event | None = None,
    failures: Callable[[], int] | None = None,
    sleep: Callable[[float], None] | None = None,
) -> tenacity.Retrying:
    """Return a caller that runs a function again while it raises `retry_on`.

    The last error is raised as it is when the attempts are used up or `stopping` is set; setting
    `stopping` also ends a wait at once.

    Args:
        backoff: How long to wait, and when to give up.
        retry_on: The errors after which another try may help.
        rng: The source of jitter.
        stopping: Ends waits and tries when set.
        failures: How many tries failed in a row; None counts all tries of this caller. A link
            passes its own count, since a connection that lasted makes the next failure the first.
        sleep: Waits so many seconds, or until `stopping` is set; None does that and nothing else.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        return backoff.delay_s(failures() if failures else state.attempt_number, rng)

    if sleep is None:
        sleep = tenacity.sleep_using_event(stopping) if stopping else tenacity.nap.sleep
    stops: list[Any] = []
    if backoff.attempts is not None:
        stops.append(tenacity.stop_after_attempt(backoff.attempts))
    if stopping is not None:
        stops.append(tenacity.stop_when_event_set(stopping))
    return tenacity.Retrying(
        wait=wait,
        stop=tenacity.stop_any(*stops) if stops else tenacity.stop_never,
        retry=tenacity.retry_if_exception_type(retry_on),
        sleep=sleep,
        reraise=True,
    )
