"""Which devices have seen a higher epoch of this run than its aggregator's, and do not follow it.

Pure. That happens where the broker has lost what it retained and an old copy of the journal leads.
Nothing is done about it but to tell people: a device may say what it likes.
"""

from __future__ import annotations

import logging

from aggregator.outputs import Publish
from aggregator.stalls import MAX_NAMED, NOTICE_INTERVAL_S
from transport.control import AlertNotice, EvalResponse, TrainResponse
from transport.topics import Alert

logger = logging.getLogger(__name__)

OLD_EPOCH = Alert("old-epoch")
# The reason of a decline.
REASON = "epoch"


class OldEpoch:
    """Gathers the devices that decline an epoch, and tells of them in one alert.

    Args:
        run: The aggregator's run.
        epoch: Its epoch.
    """

    def __init__(self, *, run: str, epoch: int) -> None:
        self._run = run
        self._epoch = epoch
        self._ahead: set[str] = set()
        self._told: AlertNotice | None = None
        self._told_at = float("-inf")

    def is_foreign(self, answer: TrainResponse | EvalResponse) -> bool:
        """Say whether a device declines another aggregator's command, which nothing follows from.

        Both aggregators of a run read the answers to either.
        """
        is_decline = answer.reason == REASON and answer.epoch >= 0
        return is_decline and (answer.run, answer.epoch) != (self._run, self._epoch)

    def answered(
        self, client_id: str, answer: TrainResponse | EvalResponse, *, now: float
    ) -> list[Publish]:
        """Note whether a device follows this aggregator, and tell what has changed."""
        if answer.run != self._run:
            return []
        if answer.reason == REASON and answer.epoch == self._epoch:
            self._ahead.add(client_id)
        elif answer.reason != REASON:
            self._ahead.discard(client_id)
        notice = self._notice()
        # A fleet that says it at one moment is told of a few times, and again with each round.
        is_soon = notice is not None and now < self._told_at + NOTICE_INTERVAL_S
        if notice == self._told or is_soon:
            return []
        self._told, self._told_at = notice, now
        if notice is not None:
            logger.error("%s", notice.text)
        return [Publish(OLD_EPOCH, notice, retain=True)]

    def _notice(self) -> AlertNotice | None:
        if not self._ahead:
            return None
        names = sorted(self._ahead)
        more = len(names) - MAX_NAMED
        named = ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        text = (
            f"{named}: they have followed a later start of this run than epoch {self._epoch}, and "
            "decline what this one asks: put the newest copy of the state folder back, or begin a "
            "new run in an empty state_dir"
        )
        return AlertNotice("error", text, count=len(names), client_id=names[0])
