"""The rounds before the one that is on, as far as they still matter to it. Pure.

Their terms: a late update is let in by those of its own round. Their norms: they say how long an
update usually is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aggregator.admission import LatePolicy, Terms
from aggregator.announcements import Announcer
from aggregator.journal import EARLIER_ROUNDS, RoundRecord
from aggregator.norms import NORM_ROUNDS, norm_bound

assert NORM_ROUNDS <= EARLIER_ROUNDS, "a restart must know all norms that were compared with"


class History:
    """Keeps the newest committed rounds.

    Args:
        announcer: Knows the run and its configuration.
        earlier: The committed rounds, in order, as they were journaled.
    """

    def __init__(self, announcer: Announcer, earlier: Iterable[RoundRecord]) -> None:
        self._announcer = announcer
        self._config = announcer.config
        self._records = list(earlier)[-EARLIER_ROUNDS:]
        self._terms: dict[int, Terms] = {}
        self._forget()

    def committed(self, record: RoundRecord) -> None:
        """Take a round that is over."""
        self._records = [*self._records, record][-EARLIER_ROUNDS:]
        self._forget()

    def terms(self, record: RoundRecord) -> Terms:
        """Return what the open round demands of an update, and of a late one."""
        return replace(self._announcer.terms(record), earlier=self._terms)

    def oldest_taken(self, round_id: int) -> int:
        """Return the first round whose updates may take part in this one."""
        is_round = round_id <= self._config.rounds  # after the last one there is nothing to join
        if self._config.late is LatePolicy.STALE and is_round:
            return max(1, round_id - self._config.max_staleness)
        return round_id

    def norm_bound(self) -> float | None:
        """Return the largest norm that an update of the open round may have, None for any."""
        rounds = (record.norms for record in self._records[-NORM_ROUNDS:])
        return norm_bound(rounds, factor=self._config.norm_factor)

    def _forget(self) -> None:
        """Keep the terms of those rounds only whose updates the open one takes."""
        newest = self._records[-1].round_id if self._records else 0
        oldest = self.oldest_taken(newest + 1)
        self._terms = {
            record.round_id: self._announcer.terms(record)
            for record in self._records
            if record.round_id >= oldest
        }
