"""Which segments of adapter versions are published again when devices ask for them."""

from __future__ import annotations

from collections.abc import Iterable

# Every device of the fleet hears a repeat, so that many who ask at once need one answer.
REPEAT_INTERVAL_S = 2.0

# A version whole, or its delta where the second is true.
Form = tuple[int, bool]


class Repair:
    """Lets each segment of each form of a version be repeated at most once per interval."""

    def __init__(self) -> None:
        self._sent_at: dict[Form, dict[int, float]] = {}

    def due(self, form: Form, wanted: Iterable[int], *, count: int, now: float) -> frozenset[int]:
        """Return which of the wanted segments are to be sent now, and take them as sent.

        Args:
            form: Whose segments they are.
            wanted: Indices that a device asks for; those that there are not are ignored.
            count: Segments that there are.
            now: Monotonic seconds.
        """
        self._forget(now - REPEAT_INTERVAL_S)
        sent_at = self._sent_at.setdefault(form, {})
        due = frozenset(index for index in wanted if index < count and index not in sent_at)
        sent_at.update(dict.fromkeys(due, now))
        return due

    def _forget(self, until: float) -> None:
        """Forget what was sent so long ago: it may be sent again."""
        self._sent_at = {
            form: recent
            for form, sent_at in self._sent_at.items()
            if (recent := {index: at for index, at in sent_at.items() if at > until})
        }
