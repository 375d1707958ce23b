"""What a run has left on its disks, read as it lies there, and whether it adds up.

Everything is read beside the programs that wrote it: from their SQLite files, from the trainers'
own lines, and by doing the aggregator's sum again from nothing but seeds.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from agent.job import device_seed
from agent.leftovers import add_leftovers
from agent.outbox import Outbox
from aggregator.adapter_folder import read_adapter, read_delta, version_folder
from aggregator.config import AggregatorConfig
from aggregator.state_folder import JOURNAL_FILE
from codec.codec import Budget
from codec.registry import codec_named
from tools.soak.synthetic_trainer import (
    TRAINED_FILE,
    read_behaviour,
    synthetic_delta,
    synthetic_segments,
)
from transport import control, frame
from transport.control import RoundSummary
from transport.messages import Receipt, ReceiptState

OUTBOX_FILE = "outbox.sqlite3"
# [1] Float32 rounding of adapters of the order of 0.1, some sums of them deep.
BALANCE_ERROR = 1e-6


@dataclass(frozen=True, slots=True)
class SettledRow:
    """The last word on one update, as the journal has it."""

    uid: str
    round_id: int
    client_id: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run has left.

    Attributes:
        summaries: Of the committed rounds, in order.
        settled: All receipts.
        trained: Device → rounds that its trainer worked on, one entry for each time.
        waiting: Device → updates still without receipt.
        digests: SHA-256 of each adapter version that is still there, hexadecimal.
    """

    summaries: tuple[RoundSummary, ...]
    settled: tuple[SettledRow, ...]
    trained: dict[str, tuple[int, ...]]
    waiting: dict[str, int]
    digests: dict[int, str] = field(default_factory=dict)

    @property
    def accepted(self) -> int:
        """Updates of which every segment was accepted."""
        return sum(row.receipt.state is ReceiptState.ACCEPTED for row in self.settled)


def committed_version(state_dir: Path) -> int:
    """Return the newest version that an aggregator's journal has; 0 where there is none yet."""
    rows = _rows(state_dir / JOURNAL_FILE, "SELECT count(*) FROM rounds WHERE summary IS NOT NULL")
    return int(str(rows[0][0])) if rows else 0


def waiting_updates(state_dir: Path) -> int:
    """Return how many updates an agent's outbox holds."""
    rows = _rows(state_dir / OUTBOX_FILE, "SELECT count(*) FROM updates")
    return int(str(rows[0][0])) if rows else 0


def gather(state: Path, devices: tuple[str, ...]) -> Evidence:
    """Return what the services below a folder of state folders have left.

    Args:
        state: Has the aggregator's folder and one for each device.
        devices: Their names.
    """
    journal = state / "aggregator" / JOURNAL_FILE
    summaries = _rows(
        journal, "SELECT summary FROM rounds WHERE summary IS NOT NULL ORDER BY round_id"
    )
    receipts = _rows(journal, "SELECT uid, round_id, client_id, receipt FROM receipts ORDER BY uid")
    return Evidence(
        summaries=tuple(control.decode(RoundSummary, _octets(row[0])) for row in summaries),
        settled=tuple(
            SettledRow(
                str(uid),
                int(str(round_id)),
                str(client_id),
                frame.decode(Receipt, _octets(receipt)),
            )
            for uid, round_id, client_id, receipt in receipts
        ),
        trained={device: _trained(state / device) for device in devices},
        waiting={device: waiting_updates(state / device) for device in devices},
        digests=_digests(state / "aggregator"),
    )


def check_exactly_once(evidence: Evidence, *, rounds: int) -> list[str]:
    """Return what is wrong with a run in which every device took part in every round whole."""
    wrong = []
    numbers = [summary.round_id for summary in evidence.summaries]
    if numbers != list(range(1, rounds + 1)):
        wrong.append(f"rounds {numbers} are committed, not 1 to {rounds}")
    counts = Counter((row.client_id, row.round_id) for row in evidence.settled)
    wrong += [f"{count} receipts for {who}" for who, count in counts.items() if count > 1]
    for device, trained in evidence.trained.items():
        if set(trained) != set(range(1, rounds + 1)):
            wrong.append(f"{device} trained rounds {sorted(set(trained))}")
        settled = {row.round_id for row in evidence.settled if row.client_id == device}
        if settled != set(trained):
            wrong.append(f"{device}: trained {sorted(set(trained))}, settled {sorted(settled)}")
    for row in evidence.settled:
        whole = row.receipt.accepted == frozenset(range(row.receipt.total))
        if row.receipt.state is not ReceiptState.ACCEPTED or not whole:
            wrong.append(f"{row.client_id} round {row.round_id} is {row.receipt.state.value}")
    for summary in evidence.summaries:
        if summary.participants != len(evidence.trained):
            wrong.append(f"round {summary.round_id} has {summary.participants} participants")
    wrong += [f"{device} still waits" for device, count in evidence.waiting.items() if count]
    return wrong


def recompute(evidence: Evidence, *, state: Path, config: AggregatorConfig) -> dict[int, str]:
    """Return the digest of each version as the trainers' content gives it, summed here anew.

    The journal says which updates went into which round; what these hold comes from seeds alone.
    Only for runs that publish whole versions, and that accepted every update whole.
    """
    initial = read_adapter(version_folder(state / "aggregator", 0))
    layout, flat = initial.layout, initial.flat
    digests = {0: initial.sha256.hex()}
    codec = codec_named(config.codec)
    for summary in evidence.summaries:
        total = np.zeros(layout.size, dtype=np.float64)
        weights = 0.0
        rows = sorted(
            (row for row in evidence.settled if row.round_id == summary.round_id),
            key=lambda row: row.uid,
        )
        for row in rows:
            budget = Budget(
                config.budget_bytes(layout.size, round_id=row.round_id), config.segment_bytes
            )
            seed = device_seed(config.seed, client_id=row.client_id, round_id=row.round_id)
            segments = synthetic_segments(seed, codec=codec.name, layout=layout, budget=budget)
            delta = np.zeros(layout.size, dtype=np.float64)
            codec.accumulate(
                dict(enumerate(segments)),
                layout=layout,
                segment_count=len(segments),
                weight=1.0,
                total=delta,
            )
            weight = float(read_behaviour(state / row.client_id).examples)
            total += weight * delta
            weights += weight
        mean = total / weights
        flat = (flat.astype(np.float64) + config.server_step * mean).astype(np.float32)
        flat = flat + np.float32(0)
        digests[summary.version] = replace(initial, flat=flat).sha256.hex()
    return digests


def check_balance(evidence: Evidence, *, state: Path, config: AggregatorConfig) -> list[str]:
    """Return whether what devices trained went into the adapter, but for what they still hold.

    For runs in which every device took part in every round whole, with the same weight in each:
    exact adapter - initial adapter = Σ weight · (Σ deltas - what is left behind).
    """
    initial = read_adapter(version_folder(state / "aggregator", 0))
    size, rounds = initial.layout.size, len(evidence.summaries)
    weights = {device: read_behaviour(state / device).examples for device in evidence.trained}
    expected = np.zeros(size, dtype=np.float64)
    for device, weight in weights.items():
        trained = np.zeros(size, dtype=np.float64)
        for round_id in range(1, rounds + 1):
            seed = device_seed(config.seed, client_id=device, round_id=round_id)
            trained += synthetic_delta(seed, size)
        held = np.zeros(size, dtype=np.float32)
        outbox = Outbox(state / device, client_id=device)
        try:
            add_leftovers(held, outbox.leftovers(), layout=initial.layout, decay=1.0)
        finally:
            outbox.close()
        expected += weight / sum(weights.values()) * (trained - held)
    newest = version_folder(state / "aggregator", rounds)
    delta = read_delta(newest, size=size)
    exact = read_adapter(newest).flat if delta is None else delta.master
    apart = float(np.abs(exact.astype(np.float64) - initial.flat - expected).max())
    return [f"the balance is off by {apart:.1e}"] if apart > BALANCE_ERROR else []


def _digests(state_dir: Path) -> dict[int, str]:
    folder = state_dir / "adapters"
    return {
        int(version.name): str(json.loads((version / "fedfstq.json").read_text())["sha256"])
        for version in sorted(folder.iterdir())
        if version.name.isdecimal()
    }


def _trained(state_dir: Path) -> tuple[int, ...]:
    path = state_dir / TRAINED_FILE
    if not path.exists():
        return ()
    return tuple(int(line) for line in path.read_text(encoding="utf-8").split())


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """Return what a query finds in another process's file; nothing while that is being made."""
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def _octets(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
