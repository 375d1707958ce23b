"""Changes on their way to somebody who may be slow: merged while they wait, never queued."""

from __future__ import annotations

import threading

from tools.monitor.document import Changes, merge


class Mailbox:
    """Holds the changes that were not taken yet; safe between threads."""

    def __init__(self) -> None:
        self._filled = threading.Condition()
        self._changes: Changes = {}

    def put(self, changes: Changes) -> None:
        """Add changes to those that wait."""
        with self._filled:
            merge(self._changes, changes)
            self._filled.notify()

    def take(self, timeout_s: float) -> Changes:
        """Return what waits, empty where nothing came in time."""
        with self._filled:
            self._filled.wait_for(lambda: bool(self._changes), timeout_s)
            changes, self._changes = self._changes, {}
            return changes
