"""A model of the aggregator's journal: what each transaction of `aggregator.store` makes durable.

A transaction is on the disk or it is not; there is no crash within one. `load` gives what a
restarted aggregator reads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aggregator.journal import (
    EARLIER_ROUNDS,
    RoundRecord,
    RoundState,
    SettledUpdate,
    Snapshot,
    UpdateRecord,
)
from aggregator.outputs import (
    Commit,
    Freeze,
    JournalCloned,
    JournalEvaluation,
    JournalLate,
    JournalManifest,
    JournalSegment,
    Reopen,
    SaveRound,
)
from transport import frame
from transport.control import RoundSummary
from transport.messages import Evaluation, Manifest, Receipt

JournalEntry = (
    SaveRound | JournalManifest | JournalSegment | JournalLate | JournalCloned | JournalEvaluation
)


@dataclass(slots=True)
class _Update:
    manifest: Manifest
    bodies: dict[int, bytes] = field(default_factory=dict)
    frozen: frozenset[int] | None = None


class Journal:
    """One run's journal.

    Attributes:
        run: The run's id.
        epoch: Starts of the aggregator.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.epoch = 0
        self._records: dict[int, RoundRecord] = {}
        self._summaries: dict[int, RoundSummary] = {}
        self._updates: dict[str, _Update] = {}
        self._receipts: dict[str, tuple[str, int, int, Receipt]] = {}
        self._cloned: frozenset[str] = frozenset()
        self._evaluations: dict[tuple[int, str], Evaluation] = {}
        self._finished_version: int | None = None

    def copy(self) -> Journal:
        """Return the journal as a copy of its file is one."""
        twin = copy.copy(self)
        for name in ("_records", "_summaries", "_receipts", "_evaluations"):
            setattr(twin, name, dict(getattr(self, name)))
        twin._updates = {  # noqa: SLF001  of the same class
            uid: _Update(update.manifest, dict(update.bodies), update.frozen)
            for uid, update in self._updates.items()
        }
        return twin

    @property
    def version(self) -> int:
        """The newest committed adapter version."""
        return max((summary.version for summary in self._summaries.values()), default=0)

    def open(self) -> Snapshot:
        """Begin another epoch, and return what a restarted aggregator goes on from."""
        self.epoch += 1
        return self.load()

    def load(self) -> Snapshot:
        """Return what the journal holds."""
        version = self.version
        current = [
            record for record in self._records.values() if record.state is not RoundState.COMMITTED
        ]
        committed = [
            record
            for _, record in sorted(self._records.items())
            if record.state is RoundState.COMMITTED
        ]
        assert len(current) <= 1, "a round is opened after the one before is committed"
        return Snapshot(
            version=version,
            round=current[0] if current else None,
            updates=tuple(
                UpdateRecord(uid, update.manifest, frozenset(update.bodies), update.frozen)
                for uid, update in sorted(self._updates.items())
            ),
            settled={
                uid: SettledUpdate(client_id, round_id, seq, frame.encode(receipt))
                for uid, (client_id, round_id, seq, receipt) in self._receipts.items()
            },
            evaluations={
                client_id: evaluation
                for (of_version, client_id), evaluation in self._evaluations.items()
                if of_version == version
            },
            summaries=tuple(self._summaries[number] for number in sorted(self._summaries)),
            finished=self._finished_version == version,
            earlier=tuple(committed[-EARLIER_ROUNDS:]),
            cloned=self._cloned,
        )

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Make all of these durable; what is there already stays as it is."""
        for entry in entries:
            match entry:
                case SaveRound(record):
                    self._records[record.round_id] = record
                case JournalManifest(uid, manifest):
                    known = (manifest.round_id, manifest.client_id)
                    others = (update.manifest for update in self._updates.values())
                    if known not in {(other.round_id, other.client_id) for other in others}:
                        self.add(uid, manifest)
                case JournalSegment(uid, index, body):
                    if uid in self._updates:
                        self._updates[uid].bodies.setdefault(index, body)
                case JournalLate(uid, client_id, round_id, seq, receipt):
                    self._receipts.setdefault(uid, (client_id, round_id, seq, receipt))
                case JournalCloned(client_id, True):
                    self._cloned |= {client_id}
                case JournalCloned(client_id, False):
                    self._cloned -= {client_id}
                case JournalEvaluation(version, client_id, evaluation):
                    self._evaluations.setdefault((version, client_id), evaluation)

    def add(self, uid: str, manifest: Manifest) -> None:
        """Enter an update."""
        self._updates.setdefault(uid, _Update(manifest))

    def freeze(self, freeze: Freeze) -> None:
        """Decide which segments of which updates count."""
        self._records[freeze.record.round_id] = freeze.record
        for update in freeze.updates:
            if update.uid in self._updates:
                self._updates[update.uid].frozen = update.accepted

    def reopen(self, reopen: Reopen) -> None:
        """Settle the updates that did not decode, and thaw the others."""
        self._settle(reopen.receipts)
        for update in self._updates.values():
            update.frozen = None
        self._records[reopen.record.round_id] = reopen.record

    def commit(self, commit: Commit) -> None:
        """Let the new adapter version stand: summary and receipts; late updates stay, unfrozen."""
        self._settle(commit.receipts)
        self._records[commit.record.round_id] = commit.record
        self._summaries[commit.record.round_id] = commit.summary

    def finish(self, version: int) -> None:
        """Note that the run has ended with this adapter version."""
        self._finished_version = version

    def bodies(self, uid: str, indices: Iterable[int]) -> tuple[bytes, ...]:
        """Return the bytes of these segments of an update."""
        bodies = self._updates[uid].bodies
        return tuple(bodies[index] for index in sorted(indices))

    def frozen(self) -> dict[str, frozenset[int]]:
        """Return uid → the segments that count, of the round that is frozen."""
        return {
            uid: update.frozen for uid, update in self._updates.items() if update.frozen is not None
        }

    def _settle(self, receipts: Mapping[str, Receipt]) -> None:
        for uid, receipt in receipts.items():
            update = self._updates.pop(uid, None)
            if update is not None:
                manifest = update.manifest
                key = (manifest.client_id, manifest.round_id, manifest.seq)
                self._receipts[uid] = (*key, receipt)
