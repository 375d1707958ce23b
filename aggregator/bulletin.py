"""The retained numbers of the open round: phases at once, progress at most once per second."""

from __future__ import annotations

# Segments of a whole cohort arrive many times a second; people read once.
STATUS_INTERVAL_S = 1.0


class Bulletin:
    """Decides when the round's status is published."""

    def __init__(self) -> None:
        self._told_at = float("-inf")
        self._changed = False

    def changed(self) -> None:
        """Note that numbers of the round have changed."""
        self._changed = True

    def is_due(self, now: float) -> bool:
        """Say whether changed numbers may be published now."""
        return self._changed and now >= self._told_at + STATUS_INTERVAL_S

    def told(self, now: float) -> None:
        """Note that the status is published."""
        self._changed, self._told_at = False, now

    def next_wakeup(self) -> float | None:
        """Return when changed numbers may be published."""
        return self._told_at + STATUS_INTERVAL_S if self._changed else None
