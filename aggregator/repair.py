"""Which segments of an adapter version are published again when devices ask for them."""

from __future__ import annotations

from collections.abc import Iterable

# Every device of the fleet hears a repeat, so that many who ask at once need one answer.
REPEAT_INTERVAL_S = 2.0


class Repair:
    """Lets each segment of the newest version be repeated at most once per interval."""

    def __init__(self) -> None:
        self._version = -1
        self._sent_at: dict[int, float] = {}

    def due(self, version: int, wanted: Iterable[int], *, count: int, now: float) -> frozenset[int]:
        """Return which of the wanted segments are to be sent now, and take them as sent.

        Args:
            version: The newest adapter version; what was sent of another one is forgotten.
            wanted: Indices that a device asks for; those that there are not are ignored.
            count: Segments that the version has.
            now: Monotonic seconds.
        """
        if version != self._version:
            self._version, self._sent_at = version, {}
        due = frozenset(
            index
            for index in wanted
            if index < count and now >= self._sent_at.get(index, float("-inf")) + REPEAT_INTERVAL_S
        )
        self._sent_at.update(dict.fromkeys(due, now))
        return due
