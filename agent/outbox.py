"""The device's durable memory: updates without a receipt, leftovers, and what is settled.

Everything that must never be lost or counted twice changes in one SQLite transaction; files are
written before it and deleted after it, so that a crash leaves at most a file that no row names,
which the next start removes (a payload without a row is adopted instead).

What a receipt leaves of an update is a row as well: which payload, and which of its segments were
accepted. The payload stays until then; nothing is computed here (`agent.leftovers` does, in the
trainer). A training task takes all such rows; the transaction that enters the task's update deletes
exactly those that its payload says went into it. What a receipt leaves behind meanwhile is another
row, and goes into the next task.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter

from agent.database import Database
from agent.outputs import Upload
from agent.pauses import OperatorHold
from agent.payload import TEMPORARY_SUFFIX, PayloadError, PayloadHeader, read_header, read_segment
from agent.tasks import Leftover
from codec.codec import Order
from codec.errors import UnknownCodec
from codec.registry import codec_named
from transport import bitmap, frame
from transport.crash_points import reach
from transport.messages import Manifest, Receipt, ReceiptState, SegmentEntry

log = logging.getLogger(__name__)

PAYLOAD_SUFFIX = ".upd"
# [rounds] A repeated command is at most some rounds old; each row takes tens of bytes.
SETTLED_KEPT = 1024
# The reason of a late receipt under the policy that throws late updates away.
DROPPED = "dropped"
# Where the count of updates begins is left to chance below this: a new outbox on a known device
# then meets a number that was used with a chance of one in a million after 500 updates, while two
# copies of one outbox surely do. Half of what a count may be is left for updates.
FIRST_SEQS = 2**29

_HOLD = TypeAdapter(OperatorHold)


class UnusablePayload(Exception):
    """A payload cannot become an update; `reason` is typed, `retryable` says: train once more."""

    def __init__(self, text: str, *, reason: str, retryable: bool) -> None:
        super().__init__(text)
        self.reason = reason
        self.retryable = retryable


class Outbox:
    """Keeps updates until their receipts, and what these leave until the next update takes it."""

    def __init__(self, folder: Path, *, client_id: str) -> None:
        """Open the outbox in a state folder, and finish what a crash interrupted.

        Raises:
            DatabaseError: The database there cannot be used.
            OSError: The disk is full or cannot be written.
        """
        self._client_id = client_id
        self._payloads = folder / "payloads"
        self._payloads.mkdir(parents=True, exist_ok=True)
        self._database = Database(folder / "outbox.sqlite3")
        self._headers: dict[str, PayloadHeader] = {}
        self._adopt()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @property
    def run(self) -> str | None:
        """The run that everything here belongs to."""
        return self._database.fact("run")

    @property
    def epoch(self) -> int:
        """The highest epoch seen of the run's aggregator."""
        return int(self._database.fact("epoch") or 0)

    @property
    def goodput_bps(self) -> float | None:
        """The goodput that was planned with last, in bits per second; None before any."""
        return self._measure("goodput_bps")

    @property
    def train_s(self) -> float | None:
        """Seconds that training for a round of this run takes; None before the first."""
        return self._measure("train_s")

    @property
    def hold(self) -> OperatorHold | None:
        """What an operator said last that keeps new tasks away, whatever run is on."""
        text = self._database.fact("hold")
        return _HOLD.validate_json(text) if text else None

    def begin_run(self, run: str) -> None:
        """Clear what belongs to another run; the count of updates goes on."""
        if run == self.run:
            return
        with self._transaction() as database:
            left = database.execute("SELECT count(*) FROM updates").fetchone()[0]
            leftovers = database.execute("SELECT count(*) FROM leftovers").fetchone()[0]
            for table in ("updates", "settled", "leftovers"):
                database.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the line above
            self._database.set_fact("run", run)
            self._database.set_fact("epoch", "0")
            database.execute("DELETE FROM facts WHERE name = 'train_s'")
        if left or leftovers:
            log.warning(
                "%s: run %s begins: dropped %d updates and %d leftovers of the run before",
                self._client_id,
                run,
                left,
                leftovers,
            )
        self._headers.clear()
        for stray in self._payloads.iterdir():
            stray.unlink(missing_ok=True)

    def remember_epoch(self, epoch: int) -> None:
        """Keep the aggregator's epoch."""
        with self._transaction():
            self._database.set_fact("epoch", str(epoch))

    def remember_goodput(self, bits_per_second: float) -> None:
        """Keep the goodput that is planned with; it is the link's, whatever run is on."""
        with self._transaction():
            self._database.set_fact("goodput_bps", repr(bits_per_second))

    def remember_training(self, seconds: float) -> None:
        """Keep how long training for a round of this run takes."""
        with self._transaction():
            self._database.set_fact("train_s", repr(seconds))

    def remember_hold(self, hold: OperatorHold | None) -> None:
        """Keep what an operator said; None forgets it."""
        text = _HOLD.dump_json(hold).decode() if hold else ""
        with self._transaction():
            self._database.set_fact("hold", text)

    def waiting(self) -> tuple[Upload, ...]:
        """Return the updates that wait for a receipt, oldest first."""
        rows = self._database.rows("SELECT uid, manifest FROM updates ORDER BY seq")
        return tuple(Upload(str(uid), _manifest(manifest)) for uid, manifest in rows)

    def settled_rounds(self) -> frozenset[int]:
        """Return the rounds of this run whose updates are settled."""
        rows = self._database.rows("SELECT round_id FROM settled")
        return frozenset(int(str(row[0])) for row in rows)

    def payload_file(self, run: str, round_id: int) -> Path:
        """Return where the payload of this round goes: one name, over all restarts."""
        return self._payloads / f"{run}-{round_id}{PAYLOAD_SUFFIX}"

    def leftovers(self) -> tuple[Leftover, ...]:
        """Return what receipts left behind: the next task takes all of it."""
        rows = self._database.rows(
            "SELECT number, payload, accepted, total FROM leftovers ORDER BY number"
        )
        return tuple(
            Leftover(
                int(str(number)),
                self._payloads / str(payload),
                tuple(sorted(bitmap.unpack(_octets(accepted), int(str(total))))),
            )
            for number, payload, accepted, total in rows
        )

    def commit(self, path: Path) -> Upload:
        """Enter a payload into the outbox; the leftovers that went into it are consumed with it.

        A payload that is here already is returned as it is.

        Raises:
            UnusablePayload: It is damaged, of another run, settled, or cannot be sent; it is
                deleted.
            OSError: The disk is full or cannot be read.
        """
        known = self._database.rows(
            "SELECT uid, manifest FROM updates WHERE payload = ?", path.name
        )
        if known:
            return Upload(str(known[0][0]), _manifest(known[0][1]))
        reach("agent-row-before")
        try:
            upload, used = self._insert_update(path)
        except UnusablePayload:
            if path not in {leftover.payload_file for leftover in self.leftovers()}:
                path.unlink(missing_ok=True)
            raise
        for leftover in used:
            leftover.payload_file.unlink(missing_ok=True)
        manifest = upload.manifest
        log.info(
            "%s round %d: update %s committed, %d segments",
            self._client_id,
            manifest.round_id,
            upload.uid,
            len(manifest.segments),
        )
        return upload

    def segment(self, uid: str, index: int) -> bytes:
        """Return a segment's body.

        Raises:
            PayloadError: The disk no longer has it.
        """
        path = self._payload_of(uid)
        try:
            if uid not in self._headers:
                self._headers[uid] = read_header(path)
            return read_segment(path, self._headers[uid], index)
        except OSError as error:
            raise PayloadError(f"{path.name}: {error}") from error

    def settle(self, uid: str, receipt: Receipt) -> None:
        """Free an update as its receipt says, but for what that leaves to the next one.

        An update that is not here was settled before: nothing happens.
        """
        rows = self._database.rows("SELECT round_id FROM updates WHERE uid = ?", uid)
        if not rows:
            return
        round_id, path = int(str(rows[0][0])), self._payload_of(uid)
        leaves = self._leaves(uid, path, receipt)
        reach("agent-receipt-before")
        with self._transaction() as database:
            if leaves:
                database.execute(
                    "INSERT INTO leftovers VALUES (?, ?, ?, ?)",
                    (
                        self._database.count_up("leftover"),
                        path.name,
                        bitmap.pack(receipt.accepted, receipt.total),
                        receipt.total,
                    ),
                )
            database.execute("DELETE FROM updates WHERE uid = ?", (uid,))
            database.execute(
                "INSERT OR REPLACE INTO settled VALUES (?, ?)", (round_id, receipt.state.value)
            )
            database.execute("DELETE FROM settled WHERE round_id <= ?", (round_id - SETTLED_KEPT,))
            reach("agent-receipt-open")
        reach("agent-receipt-committed")
        self._headers.pop(uid, None)
        if not leaves:
            path.unlink(missing_ok=True)
        reach("agent-receipt-done")
        log.info(
            "%s round %d: update %s is %s, %d of %d segments%s",
            self._client_id,
            round_id,
            uid,
            receipt.state.value,
            len(receipt.accepted),
            receipt.total,
            f" ({receipt.reason})" if receipt.reason else "",
        )

    def discard(self, uid: str) -> None:
        """Drop an update whose payload the disk no longer has; its round is not settled."""
        path = self._payload_of(uid)
        with self._transaction() as database:
            database.execute("DELETE FROM updates WHERE uid = ?", (uid,))
        self._headers.pop(uid, None)
        path.unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._database.transaction() as connection:
            yield connection

    def _measure(self, name: str) -> float | None:
        value = self._database.fact(name)
        return None if value is None else float(value)

    def _payload_of(self, uid: str) -> Path:
        rows = self._database.rows("SELECT payload FROM updates WHERE uid = ?", uid)
        if not rows:
            raise PayloadError(f"update {uid} is not in the outbox")
        return self._payloads / str(rows[0][0])

    def _insert_update(self, path: Path) -> tuple[Upload, tuple[Leftover, ...]]:
        header, entries = _read_entries(path)
        held = {leftover.number: leftover for leftover in self.leftovers()}
        if header.run != self.run:
            raise UnusablePayload("it is of another run", reason="run", retryable=False)
        if path.name != self.payload_file(header.run, header.round_id).name:
            raise UnusablePayload("it is another round's", reason="payload", retryable=True)
        if header.round_id in self.settled_rounds():
            raise UnusablePayload("its round is settled", reason="settled", retryable=False)
        if not held.keys() >= set(header.leftovers_used):
            # They went into another update meanwhile; sending this would count them twice.
            raise UnusablePayload("its residual is gone", reason="residual", retryable=True)
        with self._transaction() as database:
            manifest = _manifest_of(
                header, entries, client_id=self._client_id, seq=self._next_seq()
            )
            try:
                canonical, uid = frame.canonical(manifest), frame.uid(manifest)
            except ValueError as error:
                raise UnusablePayload(str(error), reason="oversized", retryable=False) from error
            database.execute(
                "INSERT INTO updates VALUES (?, ?, ?, ?, ?, ?)",
                (uid, manifest.seq, manifest.run, manifest.round_id, path.name, canonical),
            )
            for number in header.leftovers_used:
                database.execute("DELETE FROM leftovers WHERE number = ?", (number,))
            reach("agent-row-open")
        reach("agent-row-committed")
        return Upload(uid, manifest), tuple(held[number] for number in header.leftovers_used)

    def _next_seq(self) -> int:
        """Return the number of the next update, which no other outbox uses but a copy of this."""
        return self._database.count_up("seq", first=1 + secrets.randbelow(FIRST_SEQS))

    def _leaves(self, uid: str, path: Path, receipt: Receipt) -> bool:
        """Say whether an update leaves something to the next one."""
        if receipt.state is ReceiptState.REFUSED:
            log.warning("%s: update %s was refused: %s", self._client_id, uid, receipt.reason)
            return False
        if receipt.state is ReceiptState.LATE and receipt.reason == DROPPED:
            log.warning("%s: update %s came too late and is thrown away", self._client_id, uid)
            return False
        if receipt.state is ReceiptState.LATE:
            log.warning("%s: update %s came too late: the next one takes it", self._client_id, uid)
        try:
            header = read_header(path)
            codec = codec_named(header.codec)
        except (PayloadError, UnknownCodec, FileNotFoundError) as error:
            log.warning("%s: update %s leaves no residual: %s", self._client_id, uid, error)
            return False
        if codec.order is Order.EXCHANGEABLE and receipt.accepted:
            return False
        return header.coordinates > 0 or len(receipt.accepted) < len(header.lengths)

    def _adopt(self) -> None:
        """Enter payloads that were durable before a crash; delete those that are of no use."""
        rows = self._database.rows("SELECT payload FROM updates")
        known = {str(row[0]) for row in rows}
        left = {leftover.payload_file.name for leftover in self.leftovers()}
        settled = {self.payload_file(self.run or "", r).name for r in self.settled_rounds()} - left
        for path in sorted(self._payloads.iterdir()):
            if path.suffix == TEMPORARY_SUFFIX:
                # A trainer that runs as a service may be writing this very file.
                if path.stem in known | settled or not path.name.startswith(f"{self.run}-"):
                    path.unlink()
            elif path.name in settled:
                path.unlink()
            elif path.name not in known | left:
                self._adopt_payload(path)

    def _adopt_payload(self, path: Path) -> None:
        try:
            self.commit(path)
        except UnusablePayload as error:
            log.warning("%s: dropped payload %s: %s", self._client_id, path.name, error)


def _read_entries(path: Path) -> tuple[PayloadHeader, tuple[SegmentEntry, ...]]:
    try:
        header = read_header(path)
        entries = [
            SegmentEntry(length, hashlib.sha256(read_segment(path, header, index)).digest())
            for index, length in enumerate(header.lengths)
        ]
    except (PayloadError, FileNotFoundError) as error:
        raise UnusablePayload(str(error), reason="payload", retryable=True) from error
    return header, tuple(entries)


def _manifest_of(
    header: PayloadHeader, entries: tuple[SegmentEntry, ...], *, client_id: str, seq: int
) -> Manifest:
    return Manifest(
        run=header.run,
        round_id=header.round_id,
        base_version=header.base_version,
        base_digest=bytes.fromhex(header.base_digest),
        layout_digest=bytes.fromhex(header.layout_digest),
        client_id=client_id,
        seq=seq,
        codec=header.codec,
        num_examples=header.num_examples,
        segments=entries,
        train_loss=header.train_loss,
        steps=header.steps,
        train_s=header.train_s,
        evaluation=header.evaluation,
    )


def _octets(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _manifest(canonical: object) -> Manifest:
    assert isinstance(canonical, bytes)
    return frame.decode(Manifest, canonical)
