"""Why an upload does not move, in one line: judged by progress, cleared by progress. Pure.

    link   answers since the last progress  what is said after STALL_S
    down   any                              no broker for … s
    up     none                             aggregator silent for … s
    up     some                             stalled: nothing accepted for … s

The seconds are those at which it was said; it is said anew each time they have doubled.
"""

from __future__ import annotations

from typing import Final

# [s] Without an accepted byte, while bytes wait. On the slowest link that counts (20 kbit/s) a
# segment of 64 KiB takes 26 s, and one of 8 KiB 3 s.
STALL_S: Final = 60.0


class StallWatch:
    """Watches whether what waits to be accepted is being accepted."""

    def __init__(self) -> None:
        self.is_linked = False
        self._since: float | None = None  # None: nothing waits
        self._is_answered = False
        self._told_s = 0.0
        self._reason = ""

    @property
    def reason(self) -> str:
        """What stands in the way, "" where nothing does."""
        return self._reason

    def connected(self, now: float) -> None:
        """The link is up; it gets its time anew."""
        self.is_linked = True
        self._moved(now)

    def disconnected(self, now: float) -> None:
        """The link is down."""
        self.is_linked = False
        self._moved(now)

    def watch(self, now: float) -> None:
        """Something waits to be accepted; nothing happens where it does already."""
        if self._since is None:
            self._since = now
            self._moved(now)

    def rest(self) -> None:
        """Nothing waits any more."""
        self._since = None
        self._reason = ""

    def answered(self, now: float, *, accepted: bool) -> None:
        """The aggregator answered about an update; `accepted` says that bytes became accepted."""
        self._is_answered = True
        if accepted:
            self._moved(now)

    def stalled_s(self, now: float) -> float:
        """Return seconds without progress while there is a reason to tell, else 0."""
        return now - self._since if self._reason and self._since is not None else 0.0

    def tick(self, now: float) -> bool:
        """Find out what is wrong; return whether there is something new to say."""
        wakeup = self.next_wakeup()
        if wakeup is None or now < wakeup:
            return False
        assert self._since is not None
        self._told_s = now - self._since
        if not self.is_linked:
            self._reason = f"no broker for {self._told_s:.0f} s"
        elif not self._is_answered:
            self._reason = f"aggregator silent for {self._told_s:.0f} s"
        else:
            self._reason = f"stalled: nothing accepted for {self._told_s:.0f} s"
        return True

    def next_wakeup(self) -> float | None:
        """Return when to say something unless there is progress, None where nothing waits."""
        if self._since is None:
            return None
        return self._since + max(STALL_S, 2 * self._told_s)

    def _moved(self, now: float) -> None:
        self._told_s = 0.0
        self._reason = ""
        self._is_answered = False
        if self._since is not None:
            self._since = now
