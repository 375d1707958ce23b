"""The last word on every update of a run: none is ever given twice, and none is taken back."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.journal import SettledUpdate
from transport import frame
from transport.messages import Receipt


class Settled:
    """Keeps the receipts, by uid, by whose update of which round it was, and by its number.

    Args:
        updates: uid → the last word, as they were journaled.
    """

    def __init__(self, updates: Mapping[str, SettledUpdate]) -> None:
        self._updates: dict[str, SettledUpdate] = {}
        self._uids: dict[tuple[int, str], str] = {}
        self._by_seq: dict[tuple[str, int], str] = {}
        for uid, update in updates.items():
            self._add(uid, update)

    def add(self, uid: str, *, client_id: str, round_id: int, seq: int, receipt: Receipt) -> None:
        """Keep the last word on an update."""
        self._add(uid, SettledUpdate(client_id, round_id, seq, frame.encode(receipt)))

    def receipt(self, uid: str, *, client_id: str) -> Receipt | None:
        """Return the last word on this device's update, None where there is none yet."""
        update = self._updates.get(uid)
        return update.receipt if update is not None and update.client_id == client_id else None

    def uid_of(self, client_id: str, round_id: int) -> str | None:
        """Return the update that was a device's for a round, whatever became of it."""
        return self._uids.get((round_id, client_id))

    def numbered(self, client_id: str, seq: int) -> str | None:
        """Return the update to which a device gave this number."""
        return self._by_seq.get((client_id, seq))

    def newest(self) -> list[tuple[str, SettledUpdate]]:
        """Return uid and last word of each update of the newest round that has any."""
        newest = max((round_id for round_id, _ in self._uids), default=0)
        return [
            (uid, self._updates[uid])
            for (round_id, _), uid in self._uids.items()
            if round_id == newest
        ]

    def _add(self, uid: str, update: SettledUpdate) -> None:
        self._updates[uid] = update
        self._uids[(update.round_id, update.client_id)] = uid
        self._by_seq[(update.client_id, update.seq)] = uid
