"""The record of the round that is on: who was asked, what it has cost, how long it has taken."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from aggregator.journal import RoundRecord, RoundState, Tally

# [s] What an attempt has at the least after a restart: devices whose broker went down as well need
# some of it to come back.
RESTART_GRACE_S = 30.0
# [s] How much of an attempt's time a crash can give back to it.
SAVE_INTERVAL_S = 30.0


@dataclass(slots=True)
class _Cost:
    """A `Tally` that is still counted; each message changes it."""

    bytes_up: int
    bytes_down: int
    seconds: float
    attempt_s: float


class Ledger:
    """Keeps one `RoundRecord` up to date; each round has a ledger of its own.

    Args:
        record: The round as it was journaled, or a fresh one.
    """

    def __init__(self, record: RoundRecord) -> None:
        self._record = record
        tally = record.tally
        self._cost = _Cost(tally.bytes_up, tally.bytes_down, tally.seconds, record.attempt_s)
        self._is_behind = False  # the record, of what was counted
        self._may_deliver = set(record.invited).difference(record.barred)
        self._running_since: float | None = None
        self._save_at: float | None = None

    @property
    def record(self) -> RoundRecord:
        """The round with all that was counted; its seconds are those of the last `current`."""
        if self._is_behind:
            cost, tally = self._cost, self._record.tally
            self._is_behind = False
            self._record = replace(
                self._record,
                attempt_s=cost.attempt_s,
                tally=Tally(
                    bytes_up=cost.bytes_up,
                    bytes_down=cost.bytes_down,
                    seconds=cost.seconds,
                    late=tally.late,
                    refused=tally.refused,
                    dropped=tally.dropped,
                ),
            )
        return self._record

    @property
    def round_id(self) -> int:
        """The round."""
        return self._record.round_id

    @property
    def may_deliver(self) -> AbstractSet[str]:
        """The devices that were asked and not barred: a view, which changes."""
        return self._may_deliver

    def has_declined(self, client_id: str) -> bool:
        """Say whether a device will not train in this attempt."""
        return _is_in(self._record.declined, client_id)

    def current(self, now: float) -> RoundRecord:
        """Bring the seconds up to date, and return the record, which is to be saved."""
        self._save_at = now + SAVE_INTERVAL_S
        if self._running_since is not None:
            elapsed_s = now - self._running_since
            self._running_since = now
            self._cost.attempt_s += elapsed_s
            self._cost.seconds += elapsed_s
            self._is_behind = True
        return self.record

    def seconds(self, now: float) -> float:
        """Return how long the round has been on, over attempts and restarts."""
        since = self._running_since
        return self._cost.seconds + (0.0 if since is None else now - since)

    def run(self, now: float) -> None:
        """Let the round's seconds run."""
        self._running_since = now
        self._save_at = now + SAVE_INTERVAL_S

    def left_s(self, deadline_s: float) -> float:
        """Return how long an attempt of `deadline_s` goes on after a restart."""
        return min(deadline_s, max(RESTART_GRACE_S, deadline_s - self._cost.attempt_s))

    def next_save(self) -> float | None:
        """Return when the record was not saved for so long that it should be."""
        return self._save_at

    def is_save_due(self, now: float) -> bool:
        """Say whether the record was not saved for that long."""
        return self._save_at is not None and now >= self._save_at

    def attempt(self, cohort: Iterable[str]) -> None:
        """Note that the round is opened (again), and whom it asks."""
        attempt = self._record.attempt + 1
        self._cost.attempt_s = 0.0
        self._change(attempt=attempt, attempt_s=0.0, cohort=(), declined=())
        self.ask(cohort)

    def ask(self, client_ids: Iterable[str]) -> None:
        """Note that these devices are asked as well."""
        asked = sorted(client_ids)
        record = self._record
        self._may_deliver.update(set(asked).difference(record.barred))
        self._change(
            cohort=_with(record.cohort, asked),
            invited=_with(record.invited, asked),
        )

    def decline(self, client_id: str) -> None:
        """Note that a device will not train in this attempt."""
        self._change(declined=_with(self._record.declined, (client_id,)))

    def accept(self, client_id: str) -> None:
        """Note that a device trains after all."""
        declined = tuple(name for name in self._record.declined if name != client_id)
        self._change(declined=declined)

    def bar(self, client_ids: Iterable[str]) -> None:
        """Note that the updates of these devices did not decode: they are not asked again."""
        barred = _with(self._record.barred, client_ids)
        self._may_deliver.difference_update(barred)
        self._change(barred=barred)

    def mark(self, state: RoundState, *, now: float) -> RoundRecord:
        """Move to this state, and return the record."""
        self.current(now)
        self._change(state=state)
        return self.record

    def leave(self, now: float) -> RoundRecord:
        """End the attempt: nobody is asked, and no seconds pass, until the next one."""
        self.current(now)
        self._running_since = None
        self._change(state=RoundState.OPEN, cohort=(), declined=())
        return self.record

    def count_up(self, packet_bytes: int) -> None:
        """Count bytes that came as part of an upload."""
        self._cost.bytes_up += packet_bytes
        self._is_behind = True

    def count_down(self, packet_bytes: int) -> None:
        """Count bytes that were published under `flx/`."""
        self._cost.bytes_down += packet_bytes
        self._is_behind = True

    def count_late(self, *, updates: int = 1, dropped: int = 0) -> None:
        """Count updates that came too late, and how many of them the run's policy threw away."""
        tally = self._record.tally
        late, dropped = tally.late + updates, tally.dropped + dropped
        self._change(tally=replace(tally, late=late, dropped=dropped))

    def keep_norms(self, norms: Iterable[float]) -> None:
        """Note the norms of the updates that are in the adapter."""
        self._change(norms=tuple(norms))

    def count_refused(self, reason: str) -> None:
        """Count something that was not let in."""
        refused = self._record.tally.refused
        refused = {**refused, reason: refused.get(reason, 0) + 1}
        self._change(tally=replace(self._record.tally, refused=refused))

    def _change(self, **changes: object) -> None:
        self._record = replace(self._record, **changes)  # type: ignore[arg-type] # by name


def _is_in(names: tuple[str, ...], name: str) -> bool:
    """Say whether a name is among names that are sorted."""
    at = bisect_left(names, name)
    return at < len(names) and names[at] == name


def _with(names: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    """Return names that are sorted with others among them, each once."""
    merged = list(names)
    for name in more:
        at = bisect_left(merged, name)
        if merged[at : at + 1] != [name]:
            merged.insert(at, name)
    return tuple(merged)
