"""The virtual clock: what happens next, and nothing in between."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any


def moment_of(wakeup: float, offset: float) -> float:
    """Return the first moment at which a clock that is ahead by `offset` shows `wakeup` or later.

    Subtracting may round down, and who is woken a hair too early asks for the same moment again.
    """
    moment = wakeup - offset
    while moment + offset < wakeup:
        moment = math.nextafter(moment, math.inf)
    return moment


class Clock:
    """Runs scheduled calls in the order of their moments; equal moments keep their order.

    Attributes:
        now: Seconds since the simulation began.
    """

    __slots__ = ("_count", "_heap", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._count = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, moment: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have this called at a moment; one that is past comes next."""
        self._count += 1
        heapq.heappush(self._heap, (max(moment, self.now), self._count, call, arguments))

    def after(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have this called after so many seconds."""
        self.at(self.now + delay_s, call, *arguments)

    def step(self) -> bool:
        """Run the next call, and return whether there was one."""
        if not self._heap:
            return False
        self.now, _, call, arguments = heapq.heappop(self._heap)
        call(*arguments)
        return True
