"""Where the journal keeps the rounds' accounts, for reports alone.

    accounts        one row per committed round: when, what the run is, what the tensors did
    traffic         one row per round and device that was asked or has sent anything
    contributions   one row per round and update in its mean
    open_traffic    one row per device that has sent anything while the open round has been on,
                    which a restarted aggregator goes on from; empty once that is committed

They are made where they are missing, in journals of before as well; an aggregator that does not
know them leaves them alone, so that they do not raise the schema's version.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, astuple

from aggregator.account import DeviceTraffic, RoundAccount

_TABLES = (
    """CREATE TABLE IF NOT EXISTS accounts (
    round_id INTEGER PRIMARY KEY, committed_at REAL NOT NULL, about TEXT NOT NULL, tensors TEXT
)""",
    """CREATE TABLE IF NOT EXISTS traffic (
    round_id INTEGER NOT NULL, client_id TEXT NOT NULL, asked INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL, framing_bytes INTEGER NOT NULL, mqtt_bytes INTEGER NOT NULL,
    repeated_bytes INTEGER NOT NULL, refused_bytes INTEGER NOT NULL,
    packets INTEGER NOT NULL, repeated_packets INTEGER NOT NULL,
    energy_j REAL, above_idle_j REAL,
    PRIMARY KEY (round_id, client_id)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS contributions (
    round_id INTEGER NOT NULL, uid TEXT NOT NULL, client_id TEXT NOT NULL,
    trained_for INTEGER NOT NULL, weight REAL NOT NULL, examples INTEGER NOT NULL,
    steps INTEGER NOT NULL, train_s REAL NOT NULL, train_loss REAL NOT NULL,
    eval_loss REAL, eval_tokens INTEGER NOT NULL,
    accepted INTEGER NOT NULL, segments INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    norm REAL NOT NULL, clipped INTEGER NOT NULL,
    PRIMARY KEY (round_id, uid)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS open_traffic (
    client_id TEXT PRIMARY KEY, round_id INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL, framing_bytes INTEGER NOT NULL, mqtt_bytes INTEGER NOT NULL,
    repeated_bytes INTEGER NOT NULL, refused_bytes INTEGER NOT NULL,
    packets INTEGER NOT NULL, repeated_packets INTEGER NOT NULL
) WITHOUT ROWID""",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables where they are missing, in the caller's transaction."""
    for statement in _TABLES:
        connection.execute(statement)


def save_traffic(
    connection: sqlite3.Connection, round_id: int, client_id: str, sent: DeviceTraffic
) -> None:
    """Write what a device has sent while the open round has been on; the caller's transaction."""
    connection.execute(
        "INSERT OR REPLACE INTO open_traffic VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (client_id, round_id, *astuple(sent)),
    )


def load_traffic(connection: sqlite3.Connection, round_id: int) -> dict[str, DeviceTraffic]:
    """Return device → what it has sent while this round has been on."""
    rows = connection.execute(
        "SELECT client_id, payload_bytes, framing_bytes, mqtt_bytes, repeated_bytes, "
        "refused_bytes, packets, repeated_packets FROM open_traffic WHERE round_id = ?",
        (round_id,),
    )
    return {client_id: DeviceTraffic(*sent) for client_id, *sent in rows}


def write_account(
    connection: sqlite3.Connection, round_id: int, account: RoundAccount, *, committed_at: float
) -> None:
    """Write a round's account, in the caller's transaction; no round is open after it.

    Args:
        connection: The journal's.
        round_id: The round.
        account: Its account.
        committed_at: Unix seconds, for people.
    """
    tensors = None if account.tensors is None else json.dumps(asdict(account.tensors))
    connection.execute(
        "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)",
        (round_id, committed_at, json.dumps(dict(account.about)), tensors),
    )
    asked = frozenset(account.asked)
    nothing = DeviceTraffic()
    rows = []
    for client_id in sorted(asked | account.traffic.keys() | account.spent.keys()):
        sent = astuple(account.traffic.get(client_id, nothing))
        spent = account.spent.get(client_id)
        energy = (spent.energy_j, spent.above_idle_j) if spent else (None, None)
        rows.append((round_id, client_id, client_id in asked, *sent, *energy))
    connection.executemany(
        "INSERT OR REPLACE INTO traffic VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
    )
    connection.executemany(
        "INSERT OR REPLACE INTO contributions "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(round_id, *astuple(one)) for one in account.contributions],
    )
    connection.execute("DELETE FROM open_traffic")
