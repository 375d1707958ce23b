"""The record of the round that is on: who was asked, what it has cost, how long it has taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aggregator.journal import RoundRecord, RoundState, Tally

# [s] What an attempt has at the least after a restart: devices whose broker went down as well need
# some of it to come back.
RESTART_GRACE_S = 30.0
# [s] How much of an attempt's time a crash can give back to it.
SAVE_INTERVAL_S = 30.0


class Ledger:
    """Keeps one `RoundRecord` up to date; each round has a ledger of its own.

    Args:
        record: The round as it was journaled, or a fresh one.
    """

    def __init__(self, record: RoundRecord) -> None:
        self.record = record
        self._running_since: float | None = None
        self._save_at: float | None = None

    def current(self, now: float) -> RoundRecord:
        """Bring the seconds up to date, and return the record, which is to be saved."""
        self._save_at = now + SAVE_INTERVAL_S
        if self._running_since is not None:
            elapsed_s = now - self._running_since
            self._running_since = now
            self.record = replace(self.record, attempt_s=self.record.attempt_s + elapsed_s)
            self._tally(seconds=self.record.tally.seconds + elapsed_s)
        return self.record

    def run(self, now: float) -> None:
        """Let the round's seconds run."""
        self._running_since = now
        self._save_at = now + SAVE_INTERVAL_S

    def left_s(self, deadline_s: float) -> float:
        """Return how long an attempt of `deadline_s` goes on after a restart."""
        return min(deadline_s, max(RESTART_GRACE_S, deadline_s - self.record.attempt_s))

    def next_save(self) -> float | None:
        """Return when the record was not saved for so long that it should be."""
        return self._save_at

    def is_save_due(self, now: float) -> bool:
        """Say whether the record was not saved for that long."""
        return self._save_at is not None and now >= self._save_at

    def attempt(self, cohort: Iterable[str]) -> None:
        """Note that the round is opened (again), and whom it asks."""
        attempt = self.record.attempt + 1
        self.record = replace(self.record, attempt=attempt, attempt_s=0.0, cohort=(), declined=())
        self.ask(cohort)

    def ask(self, client_ids: Iterable[str]) -> None:
        """Note that these devices are asked as well."""
        asked = set(client_ids)
        self.record = replace(
            self.record,
            cohort=tuple(sorted({*self.record.cohort, *asked})),
            invited=tuple(sorted({*self.record.invited, *asked})),
        )

    def decline(self, client_id: str) -> None:
        """Note that a device will not train in this attempt."""
        declined = tuple(sorted({*self.record.declined, client_id}))
        self.record = replace(self.record, declined=declined)

    def accept(self, client_id: str) -> None:
        """Note that a device trains after all."""
        declined = tuple(name for name in self.record.declined if name != client_id)
        self.record = replace(self.record, declined=declined)

    def bar(self, client_ids: Iterable[str]) -> None:
        """Note that the updates of these devices did not decode: they are not asked again."""
        barred = tuple(sorted({*self.record.barred, *client_ids}))
        self.record = replace(self.record, barred=barred)

    def mark(self, state: RoundState, *, now: float) -> RoundRecord:
        """Move to this state, and return the record."""
        self.current(now)
        self.record = replace(self.record, state=state)
        return self.record

    def leave(self, now: float) -> RoundRecord:
        """End the attempt: nobody is asked, and no seconds pass, until the next one."""
        self.current(now)
        self._running_since = None
        self.record = replace(self.record, state=RoundState.OPEN, cohort=(), declined=())
        return self.record

    def count_up(self, packet_bytes: int) -> None:
        """Count bytes that came as part of an upload."""
        self._tally(bytes_up=self.record.tally.bytes_up + packet_bytes)

    def count_down(self, packet_bytes: int) -> None:
        """Count bytes that were published under `flx/`."""
        self._tally(bytes_down=self.record.tally.bytes_down + packet_bytes)

    def count_late(self, *, updates: int = 1, dropped: int = 0) -> None:
        """Count updates that came too late, and how many of them the run's policy threw away."""
        tally = self.record.tally
        self._tally(late=tally.late + updates, dropped=tally.dropped + dropped)

    def keep_norms(self, norms: Iterable[float]) -> None:
        """Note the norms of the updates that are in the adapter."""
        self.record = replace(self.record, norms=tuple(norms))

    def count_refused(self, reason: str) -> None:
        """Count something that was not let in."""
        refused = self.record.tally.refused
        self._tally(refused={**refused, reason: refused.get(reason, 0) + 1})

    def _tally(self, **changes: object) -> None:
        tally: Tally = replace(self.record.tally, **changes)  # type: ignore[arg-type] # by name
        self.record = replace(self.record, tally=tally)
