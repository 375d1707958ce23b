"""Reads a run from the aggregator's state folder, which it never writes to.

The aggregator may run meanwhile: all of it is read in one transaction, so that it fits together.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import quote

from aggregator.account import Contribution, DeviceTraffic
from aggregator.evaluation import FleetEvaluation, weighted_mean
from aggregator.journal import RoundState
from aggregator.state_folder import JOURNAL_FILE
from aggregator.store import SCHEMA_VERSION
from aggregator.tensors import TensorFigures
from transport import control, frame
from transport.control import RoundSummary
from transport.errors import MessageError
from transport.messages import Evaluation, Receipt

# [bytes] A safetensors header that is longer is none of ours.
_MAX_HEADER_BYTES = 16 << 20


class NoRun(Exception):
    """The folder holds no run that can be read: it is the wrong one, or damaged."""


@dataclass(frozen=True, slots=True)
class DeviceRound:
    """What one device did for one round; None for what it never said."""

    client_id: str
    was_asked: bool
    traffic: DeviceTraffic
    energy_j: float | None
    above_idle_j: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """One committed round.

    Attributes:
        summary: What the journal says of it.
        attempts: Openings, 1 where none was abandoned.
        committed_at: Unix seconds; None where there is no account of the round.
        devices: Sorted by name; empty where there is no account.
        contributions: The updates in its mean, sorted by uid.
        tensors: None where they were not counted.
    """

    summary: RoundSummary
    attempts: int
    committed_at: float | None
    devices: tuple[DeviceRound, ...]
    contributions: tuple[Contribution, ...]
    tensors: TensorFigures | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as its state folder has it.

    Attributes:
        run: The run's id.
        starts: How often the aggregator was started, or led again.
        finished: Whether the run has ended.
        about: What the run is; empty where no round has an account.
        base_model: As the initial adapter names it; empty where it cannot be read.
        layout: (name, coordinates) of each tensor; empty where the initial adapter cannot be read.
        rounds: Those that are committed, in order.
        open_round: The number of the round that is on, and the bytes that have come for it.
        evaluation: Of the newest version, where devices have said anything of it.
        receipts: (device, state of the receipt) → how many.
    """

    run: str
    starts: int
    finished: bool
    about: Mapping[str, str | int | None]
    base_model: str
    layout: tuple[tuple[str, int], ...]
    rounds: tuple[Round, ...]
    open_round: tuple[int, int] | None
    evaluation: FleetEvaluation | None
    receipts: Mapping[tuple[str, str], int]


def read_run(folder: Path) -> Run:
    """Return the run of a state folder.

    Raises:
        NoRun: There is none, or it was written by other software, or is damaged.
    """
    path = folder / JOURNAL_FILE
    if not path.is_file():
        raise NoRun(f"{folder} has no {JOURNAL_FILE}: name the state_dir of an aggregator")
    try:
        with closing(_connect(path)) as connection:
            connection.execute("BEGIN")
            return _read(connection, folder)
    except sqlite3.DatabaseError as error:
        raise NoRun(f"{path} cannot be read: {error}") from error
    except (MessageError, ValueError, KeyError, TypeError) as error:
        raise NoRun(f"{path} is damaged: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open a journal without any right to write, and so that nothing is left beside it.

    While an aggregator has it open there is a -wal file, and both share it. Where there is none,
    SQLite would make one, with the wrong owner perhaps; the file is then read as it lies.
    """
    is_shared = path.with_name(path.name + "-wal").exists()
    uri = f"file:{quote(str(path.resolve()))}?mode=ro{'' if is_shared else '&immutable=1'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def _read(connection: sqlite3.Connection, folder: Path) -> Run:
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema != SCHEMA_VERSION:
        raise NoRun(
            f"{folder / JOURNAL_FILE} was written by other software (schema {schema}, this is "
            f"{SCHEMA_VERSION})"
        )
    row = connection.execute("SELECT run, epoch, finished_version FROM run").fetchone()
    if row is None:
        raise NoRun(f"{folder / JOURNAL_FILE} holds no run yet")
    run, starts, finished_version = row
    accounts = _Accounts(connection)
    rounds = tuple(_rounds(connection, accounts))
    version = rounds[-1].summary.version if rounds else 0
    return Run(
        run=run,
        starts=starts,
        finished=finished_version == version,
        about=accounts.about,
        base_model=_base_model(folder),
        layout=_layout(folder),
        rounds=rounds,
        open_round=_open_round(connection),
        evaluation=_evaluation(connection, version),
        receipts=_receipts(connection),
    )


class _Accounts:
    """The tables of `aggregator.account_tables`, which journals of before do not have."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        self._exist = {"accounts", "traffic", "contributions"} <= {name for (name,) in names}
        self.about: dict[str, str | int | None] = {}

    def of(
        self, round_id: int
    ) -> tuple[
        float | None, tuple[DeviceRound, ...], tuple[Contribution, ...], TensorFigures | None
    ]:
        """Return when a round was committed, its devices, its contributions, and its tensors."""
        row = None
        if self._exist:
            row = self._connection.execute(
                "SELECT committed_at, about, tensors FROM accounts WHERE round_id = ?", (round_id,)
            ).fetchone()
        if row is None:
            return None, (), (), None
        committed_at, about, tensors = row
        self.about = json.loads(about)
        return (
            committed_at,
            self._devices(round_id),
            self._contributions(round_id),
            _tensors(tensors),
        )

    def _devices(self, round_id: int) -> tuple[DeviceRound, ...]:
        rows = self._connection.execute(
            "SELECT client_id, asked, payload_bytes, framing_bytes, mqtt_bytes, repeated_bytes, "
            "refused_bytes, packets, repeated_packets, energy_j, above_idle_j "
            "FROM traffic WHERE round_id = ? ORDER BY client_id",
            (round_id,),
        )
        return tuple(
            DeviceRound(name, bool(asked), DeviceTraffic(*counts), energy_j, above_idle_j)
            for name, asked, *counts, energy_j, above_idle_j in rows
        )

    def _contributions(self, round_id: int) -> tuple[Contribution, ...]:
        rows = self._connection.execute(
            "SELECT uid, client_id, trained_for, weight, examples, steps, train_s, train_loss, "
            "eval_loss, eval_tokens, accepted, segments, payload_bytes, norm, clipped "
            "FROM contributions WHERE round_id = ? ORDER BY uid",
            (round_id,),
        )
        names = [field.name for field in fields(Contribution)]
        found = (dict(zip(names, row, strict=True)) for row in rows)
        return tuple(Contribution(**one | {"clipped": bool(one["clipped"])}) for one in found)


def _tensors(text: str | None) -> TensorFigures | None:
    if text is None:
        return None
    figures = json.loads(text)
    moved, energy = tuple(figures["moved"]), tuple(figures["energy"])
    bits = figures.get("bits")  # rounds of earlier software have none
    if bits is None:
        return TensorFigures(moved, energy)
    return TensorFigures(moved, energy, tuple(bits), figures["shared_bits"])


def _rounds(connection: sqlite3.Connection, accounts: _Accounts) -> Iterator[Round]:
    rows = connection.execute(
        "SELECT round_id, record, summary FROM rounds WHERE summary IS NOT NULL ORDER BY round_id"
    )
    for round_id, record, summary in rows.fetchall():
        committed_at, devices, contributions, tensors = accounts.of(round_id)
        yield Round(
            summary=control.decode(RoundSummary, summary),
            attempts=json.loads(record)["attempt"],
            committed_at=committed_at,
            devices=devices,
            contributions=contributions,
            tensors=tensors,
        )


def _open_round(connection: sqlite3.Connection) -> tuple[int, int] | None:
    row = connection.execute(
        "SELECT round_id, record FROM rounds WHERE state != ?", (RoundState.COMMITTED.value,)
    ).fetchone()
    return None if row is None else (row[0], json.loads(row[1])["tally"]["bytes_up"])


def _evaluation(connection: sqlite3.Connection, version: int) -> FleetEvaluation | None:
    rows = connection.execute(
        "SELECT loss, tokens, correct FROM evaluations WHERE version = ? ORDER BY client_id",
        (version,),
    )
    return weighted_mean([Evaluation(*row) for row in rows])


def _receipts(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for client_id, receipt in connection.execute("SELECT client_id, receipt FROM receipts"):
        key = (client_id, frame.decode(Receipt, receipt).state.value)
        counts[key] = counts.get(key, 0) + 1
    return counts


def _base_model(folder: Path) -> str:
    try:
        facts = json.loads((folder / "adapters" / "0" / "fedfstq.json").read_bytes())
        return str(facts["base_model"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _layout(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return names and sizes from the head of the initial adapter's file, in the layout's order."""
    try:
        with (folder / "adapters" / "0" / "adapter_model.safetensors").open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _MAX_HEADER_BYTES else {}
        return tuple(
            (name, math.prod(header[name]["shape"]))
            for name in sorted(header)
            if name != "__metadata__"
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return ()
