"""Who of a fleet is asked to train in an attempt, and how. Pure; it keeps nothing itself."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet

from aggregator.announcements import Announcer
from aggregator.cohort import Presence, cohort_size, sample_cohort
from aggregator.journal import RoundRecord
from aggregator.outputs import Output
from aggregator.round import Joined, Round, RoundOutput


class Invitations:
    """Chooses devices and writes their commands.

    Args:
        announcer: Writes the run's messages, and knows its configuration.
        presence: Who is online, and who was silent, kept by the caller.
    """

    def __init__(self, announcer: Announcer, presence: Presence) -> None:
        self._announcer = announcer
        self._config = announcer.config
        self._presence = presence

    def sample(
        self, record: RoundRecord, *, attempt: int, busy: int, exclude: Collection[str]
    ) -> tuple[str, ...]:
        """Return as many devices as the cohort lacks while so many are busy already."""
        size = cohort_size(self._config.goal, over_selection=self._config.over_selection)
        return sample_cohort(
            self._presence.eligible(),
            size=size - busy,
            seed=self._config.seed,
            round_id=record.round_id,
            attempt=attempt,
            exclude={*exclude, *record.barred},
            last=self._presence.silent,
        )

    def join(self, current: Round, client_ids: Collection[str], *, now: float) -> list[RoundOutput]:
        """Let a round know whom it asks; it does not wait for those that were silent before."""
        silent = tuple(name for name in client_ids if name in self._presence.silent)
        answering = tuple(name for name in client_ids if name not in silent)
        decided = current.receive(Joined(silent, awaited=False), now=now) if silent else []
        if answering or not silent:
            decided += current.receive(Joined(answering), now=now)
        return decided

    def commands(
        self,
        record: RoundRecord,
        current: Round,
        client_ids: Collection[str],
        *,
        delivered: AbstractSet[str],
        now: float,
    ) -> list[Output]:
        """Ask devices to train, but for those that have delivered everything or declined."""
        remaining_s = current.deadline - now
        return [
            self._announcer.train(client_id, round_id=record.round_id, remaining_s=remaining_s)
            for client_id in client_ids
            if client_id not in record.declined and client_id not in delivered
        ]
