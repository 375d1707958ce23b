"""Names with a moment each: the earliest is found without a look at the others. Pure."""

from __future__ import annotations

import heapq

# Entries beyond which it is worth dropping those that a later `put` or `drop` has overruled.
_SWEEP_AT = 64


class Agenda:
    """A heap that forgets: each name has one moment at the most, the last that was put."""

    def __init__(self) -> None:
        self._moments: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._moments)

    def put(self, name: str, moment: float | None) -> None:
        """Have this moment for a name, in place of the one before; None takes it off."""
        if self._moments.get(name) == moment:
            return
        if moment is None:
            del self._moments[name]
            return
        self._moments[name] = moment
        heapq.heappush(self._heap, (moment, name))
        if len(self._heap) > max(_SWEEP_AT, 2 * len(self._moments)):
            self._heap = [(moment, name) for name, moment in self._moments.items()]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """Return the earliest moment."""
        heap = self._heap
        while heap and self._moments.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take(self, now: float) -> list[str]:
        """Take off the names whose moments have come, and return them, the earliest first."""
        taken: list[str] = []
        while (moment := self.next()) is not None and moment <= now:
            _, name = heapq.heappop(self._heap)
            del self._moments[name]
            taken.append(name)
        return taken
