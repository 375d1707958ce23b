"""The aggregator's journal: one SQLite file, in which every transaction is on disk when it returns.

    run          one row: id, epoch, the digest of what must not change, the version it ended with
    rounds       one row each: the record as JSON, and the summary once it is committed
    updates      the updates without a last word: of the open round, and late ones of rounds before
    segments     their bytes; gone when the adapter version is durable
    receipts     the last word on every update of the run, under the update's own round
    cloned       the devices of which nothing is let in, since two share the identity
    evaluations  what devices said of the last version

What reports read besides is in the tables of `aggregator.account_tables`.

A crash between two transactions leaves what the first one wrote; there is nothing to repair.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from aggregator import account_tables
from aggregator.journal import (
    EARLIER_ROUNDS,
    RoundRecord,
    RoundState,
    RunRecord,
    SettledUpdate,
    Snapshot,
    Tally,
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
    JournalTraffic,
    Reopen,
    SaveRound,
)
from transport import bitmap, control, frame
from transport.control import RoundSummary
from transport.crash_points import reach
from transport.messages import Evaluation, Manifest, Receipt

JournalEntry = (
    SaveRound
    | JournalTraffic
    | JournalManifest
    | JournalSegment
    | JournalLate
    | JournalCloned
    | JournalEvaluation
)

# What SQLite says when a statement or its values are wrong; anything else is the disk's.
_OUR_FAULTS = (sqlite3.ProgrammingError, sqlite3.IntegrityError)

# Raised with every change of the tables, so that an old aggregator never reads a newer journal.
SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE run (
    run TEXT NOT NULL, epoch INTEGER NOT NULL, identity TEXT NOT NULL, finished_version INTEGER
);
CREATE TABLE rounds (
    round_id INTEGER PRIMARY KEY, state TEXT NOT NULL, record TEXT NOT NULL, summary BLOB
);
CREATE TABLE updates (
    uid TEXT PRIMARY KEY, round_id INTEGER NOT NULL, client_id TEXT NOT NULL,
    seq INTEGER NOT NULL, manifest BLOB NOT NULL, frozen BLOB,
    UNIQUE (round_id, client_id)
);
CREATE TABLE segments (
    uid TEXT NOT NULL, position INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (uid, position)
);
CREATE TABLE receipts (
    uid TEXT PRIMARY KEY, round_id INTEGER NOT NULL, client_id TEXT NOT NULL,
    seq INTEGER NOT NULL, receipt BLOB NOT NULL
);
CREATE TABLE cloned (client_id TEXT PRIMARY KEY);
CREATE TABLE evaluations (
    version INTEGER NOT NULL, client_id TEXT NOT NULL,
    loss REAL NOT NULL, tokens INTEGER NOT NULL, correct INTEGER NOT NULL,
    PRIMARY KEY (version, client_id)
);
"""


class StoreUnavailable(Exception):
    """The disk is full, read-only or failing: the world is in the way, and may get out of it."""


class ForeignJournal(Exception):
    """The state folder belongs to another run or to newer software: the caller must choose."""


class Store:
    """Opens the journal of one run, which it creates where there is none.

    Args:
        path: The SQLite file.
        identity: Digest of what must stay the same within a run (initial adapter, codec, …).

    Raises:
        ForeignJournal: The file is of another run, newer software, or no journal.
        StoreUnavailable: The disk does not do its work.
    """

    def __init__(self, path: Path, *, identity: str) -> None:
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"{path}: {error}") from error
        try:
            self._prepare(path)
            with self._transaction():
                self.run = self._begin(path, identity)
                account_tables.create(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def load(self) -> Snapshot:
        """Return everything that a restarted aggregator goes on from."""
        with _reading():
            return self._load()

    def _load(self) -> Snapshot:
        rounds = self._connection.execute(
            "SELECT state, record, summary FROM rounds ORDER BY round_id"
        ).fetchall()
        summaries = tuple(
            control.decode(RoundSummary, summary) for _, _, summary in rounds if summary is not None
        )
        current = [record for state, record, _ in rounds if state != RoundState.COMMITTED.value]
        committed = [record for state, record, _ in rounds if state == RoundState.COMMITTED.value]
        assert len(current) <= 1, "a round is opened after the one before is committed"
        version = summaries[-1].version if summaries else 0
        open_round = _read_record(current[0]) if current else None
        (finished_version,) = self._connection.execute(
            "SELECT finished_version FROM run"
        ).fetchone()
        return Snapshot(
            version=version,
            round=open_round,
            updates=tuple(self._updates()),
            settled=dict(self._receipts()),
            evaluations=dict(self._evaluations(version)),
            summaries=summaries,
            finished=finished_version == version,
            earlier=tuple(_read_record(record) for record in committed[-EARLIER_ROUNDS:]),
            cloned=frozenset(self._cloned()),
            traffic=account_tables.load_traffic(self._connection, open_round.round_id)
            if open_round
            else {},
        )

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Make all of these durable, in one transaction; what is there already stays as it is."""
        with self._transaction():
            for entry in entries:
                match entry:
                    case SaveRound(record):
                        self._save_round(record)
                    case JournalTraffic(round_id, client_id, sent):
                        account_tables.save_traffic(self._connection, round_id, client_id, sent)
                    case JournalManifest(uid, manifest):
                        self._execute(
                            "INSERT OR IGNORE INTO updates VALUES (?, ?, ?, ?, ?, NULL)",
                            uid,
                            manifest.round_id,
                            manifest.client_id,
                            manifest.seq,
                            frame.canonical(manifest),
                        )
                    case JournalSegment(uid, index, body):
                        self._execute(
                            "INSERT OR IGNORE INTO segments VALUES (?, ?, ?)", uid, index, body
                        )
                    case JournalLate(uid, client_id, round_id, seq, receipt):
                        self._execute(
                            "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?)",
                            uid,
                            round_id,
                            client_id,
                            seq,
                            frame.encode(receipt),
                        )
                    case JournalCloned(client_id, True):
                        self._execute("INSERT OR IGNORE INTO cloned VALUES (?)", client_id)
                    case JournalCloned(client_id, False):
                        self._execute("DELETE FROM cloned WHERE client_id = ?", client_id)
                    case JournalEvaluation(version, client_id, evaluation):
                        self._execute(
                            "INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?)",
                            version,
                            client_id,
                            evaluation.loss,
                            evaluation.tokens,
                            evaluation.correct,
                        )
            reach("aggregator-journal-open")

    def freeze(self, freeze: Freeze) -> None:
        """Decide in one transaction which segments of which updates count."""
        with self._transaction():
            self._save_round(freeze.record)
            for update in freeze.updates:
                bits = bitmap.pack(update.accepted, update.segment_count)
                self._execute("UPDATE updates SET frozen = ? WHERE uid = ?", bits, update.uid)
            reach("aggregator-freeze-open")

    def reopen(self, reopen: Reopen) -> None:
        """Settle the updates that did not decode, and thaw the others."""
        with self._transaction():
            self._settle(reopen.receipts)
            self._execute("UPDATE updates SET frozen = NULL")
            self._save_round(reopen.record)

    def commit(self, commit: Commit) -> None:
        """Let the new adapter version stand: summary and receipts; late updates stay, unfrozen."""
        with self._transaction():
            self._settle(commit.receipts)
            self._save_round(commit.record)
            self._execute(
                "UPDATE rounds SET summary = ? WHERE round_id = ?",
                control.encode(commit.summary),
                commit.record.round_id,
            )
            if commit.account is not None:
                account_tables.write_account(
                    self._connection,
                    commit.record.round_id,
                    commit.account,
                    committed_at=time.time(),
                )
            reach("aggregator-commit-open")

    def finish(self, version: int) -> None:
        """Note that the run has ended with this adapter version."""
        with self._transaction():
            self._execute("UPDATE run SET finished_version = ?", version)

    def raise_epoch(self, epoch: int) -> None:
        """Make this the epoch of this start: another aggregator had the one before."""
        with self._transaction():
            self._execute("UPDATE run SET epoch = ?", epoch)
        self.run = RunRecord(self.run.run, epoch)

    def segments(self, uid: str, indices: Iterable[int]) -> dict[int, bytes]:
        """Return the bytes of these segments of an update."""
        bodies: dict[int, bytes] = {}
        with _reading():
            for index in sorted(indices):
                (bodies[index],) = self._connection.execute(
                    "SELECT body FROM segments WHERE uid = ? AND position = ?", (uid, index)
                ).fetchone()
        return bodies

    def _prepare(self, path: Path) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            # FULL: in WAL mode, NORMAL may lose the last transactions when the power goes.
            self._connection.execute("PRAGMA synchronous = FULL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                script = f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                self._connection.executescript(script)
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"{path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ForeignJournal(f"{path} is no journal of this program: {error}") from error
        if version not in {0, SCHEMA_VERSION}:
            raise ForeignJournal(
                f"{path} was written by other software (schema {version}, this is "
                f"{SCHEMA_VERSION}): upgrade, or choose another state_dir"
            )

    def _begin(self, path: Path, identity: str) -> RunRecord:
        row = self._connection.execute("SELECT run, epoch, identity FROM run").fetchone()
        if row is None:
            run = secrets.token_hex(16)
            self._execute("INSERT INTO run VALUES (?, 1, ?, NULL)", run, identity)
            return RunRecord(run, 1)
        run, epoch, known = row
        if known != identity:
            raise ForeignJournal(
                f"{path.parent} holds a run with another initial adapter, codec, budget or segment "
                "size: choose another state_dir for a new run"
            )
        self._execute("UPDATE run SET epoch = ?", epoch + 1)
        return RunRecord(run, epoch + 1)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except _OUR_FAULTS:
            raise
        except sqlite3.DatabaseError as error:
            raise StoreUnavailable(f"the journal cannot be written: {error}") from error

    def _execute(self, statement: str, *values: object) -> None:
        self._connection.execute(statement, values)

    def _save_round(self, record: RoundRecord) -> None:
        self._execute(
            "INSERT INTO rounds VALUES (?, ?, ?, NULL) ON CONFLICT (round_id) "
            "DO UPDATE SET state = excluded.state, record = excluded.record",
            record.round_id,
            record.state.value,
            json.dumps(asdict(record)),
        )

    def _settle(self, receipts: Mapping[str, Receipt]) -> None:
        for uid, receipt in receipts.items():
            self._execute(
                "INSERT OR REPLACE INTO receipts "
                "SELECT uid, round_id, client_id, seq, ? FROM updates WHERE uid = ?",
                frame.encode(receipt),
                uid,
            )
            self._execute("DELETE FROM segments WHERE uid = ?", uid)
            self._execute("DELETE FROM updates WHERE uid = ?", uid)

    def _updates(self) -> Iterator[UpdateRecord]:
        rows = self._connection.execute("SELECT uid, manifest, frozen FROM updates ORDER BY uid")
        for uid, manifest_bytes, frozen in rows.fetchall():
            manifest = frame.decode(Manifest, manifest_bytes)
            held = self._connection.execute("SELECT position FROM segments WHERE uid = ?", (uid,))
            yield UpdateRecord(
                uid=uid,
                manifest=manifest,
                held=frozenset(position for (position,) in held),
                frozen=None if frozen is None else bitmap.unpack(frozen, len(manifest.segments)),
            )

    def _receipts(self) -> Iterator[tuple[str, SettledUpdate]]:
        for uid, client_id, round_id, seq, receipt in self._connection.execute(
            "SELECT uid, client_id, round_id, seq, receipt FROM receipts"
        ):
            yield uid, SettledUpdate(client_id, round_id, seq, receipt)

    def _cloned(self) -> Iterator[str]:
        for (client_id,) in self._connection.execute("SELECT client_id FROM cloned"):
            yield client_id

    def _evaluations(self, version: int) -> Iterator[tuple[str, Evaluation]]:
        for client_id, loss, tokens, correct in self._connection.execute(
            "SELECT client_id, loss, tokens, correct FROM evaluations WHERE version = ?", (version,)
        ):
            yield client_id, Evaluation(loss, tokens, correct)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _OUR_FAULTS:
        raise
    except sqlite3.DatabaseError as error:
        raise StoreUnavailable(f"the journal cannot be read: {error}") from error


def _read_record(text: str) -> RoundRecord:
    fields = json.loads(text)
    names = ("cohort", "invited", "declined", "barred", "norms")
    lists = {name: tuple(fields[name]) for name in names}
    return RoundRecord(
        round_id=fields["round_id"],
        attempt=fields["attempt"],
        state=RoundState(fields["state"]),
        tally=Tally(**fields["tally"]),
        attempt_s=fields["attempt_s"],
        **lists,
    )
