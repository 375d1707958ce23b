"""Counts what is not let in, and says so to operators without flooding them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aggregator.outputs import Publish
from transport.control import AlertNotice
from transport.topics import Alert

logger = logging.getLogger(__name__)

# One notice per reason and second: a hostile device can send thousands of bad frames in one.
NOTICE_INTERVAL_S = 1.0


@dataclass(slots=True)
class _Tally:
    count: int = 0
    client_id: str = ""
    text: str = ""
    told_at: float | None = None
    told: int = 0


class Refusals:
    """Turns refusals into counts, and at most one log line and alert per reason and second."""

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = {}

    def record(self, reason: str, *, client_id: str, text: str, now: float) -> list[Publish]:
        """Count a refusal, and return the notice where one is due at once."""
        tally = self._tallies.setdefault(reason, _Tally())
        tally.count += 1
        tally.client_id, tally.text = client_id, text
        # A flood of one reason fills one line per second of the log as well.
        if tally.told_at is None or now >= tally.told_at + NOTICE_INTERVAL_S:
            logger.warning("refused client=%s reason=%s: %s", client_id or "?", reason, text)
        return self.tick(now)

    def tick(self, now: float) -> list[Publish]:
        """Return the notices that are due."""
        notices = []
        for reason, tally in self._tallies.items():
            due = tally.told_at is None or now >= tally.told_at + NOTICE_INTERVAL_S
            if due and tally.told < tally.count:
                tally.told_at, tally.told = now, tally.count
                notice = AlertNotice(
                    severity="warning",
                    text=tally.text[:200],
                    count=tally.count,
                    client_id=tally.client_id,
                )
                notices.append(Publish(Alert(f"refused-{reason}"), notice, retain=True))
        return notices

    def next_wakeup(self) -> float | None:
        """Return when the next held-back notice is due."""
        moments = [
            tally.told_at + NOTICE_INTERVAL_S
            for tally in self._tallies.values()
            if tally.told_at is not None and tally.told < tally.count
        ]
        return min(moments, default=None)
