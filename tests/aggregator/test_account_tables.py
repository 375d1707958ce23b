from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from aggregator import account_tables
from aggregator.account import Contribution, DeviceTraffic, RoundAccount, Spent
from aggregator.tensors import TensorFigures

ONE = Contribution("u1", "a", 1, 2.5, 5, 8, 1.5, 2.0, None, 0, 3, 4, 300, 0.5, clipped=True)
ACCOUNT = RoundAccount(
    about={"codec": "fp32", "update_bytes": None},
    asked=("a", "b"),
    traffic={"a": DeviceTraffic(1, 2, 3, 4, 5, 6, 7), "c": DeviceTraffic(refused_bytes=9)},
    spent={"b": Spent(2.5, None)},
    contributions=(ONE,),
    tensors=TensorFigures((3, 4), (0.5, 0.25), (30, 40), 10),
)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        account_tables.create(opened)
        yield opened


def test_all_of_an_account_is_in_its_tables(connection: sqlite3.Connection) -> None:
    account_tables.write_account(connection, 7, ACCOUNT, committed_at=12.5)
    ((round_id, at, about, tensors),) = connection.execute("SELECT * FROM accounts")
    assert (round_id, at, json.loads(about)) == (7, 12.5, ACCOUNT.about)
    assert json.loads(tensors) == {
        "moved": [3, 4],
        "energy": [0.5, 0.25],
        "bits": [30, 40],
        "shared_bits": 10,
    }
    assert connection.execute("SELECT * FROM traffic ORDER BY client_id").fetchall() == [
        (7, "a", 1, 1, 2, 3, 4, 5, 6, 7, None, None),
        (7, "b", 1, 0, 0, 0, 0, 0, 0, 0, 2.5, None),
        (7, "c", 0, 0, 0, 0, 0, 9, 0, 0, None, None),
    ]
    assert connection.execute("SELECT * FROM contributions").fetchall() == [
        (7, "u1", "a", 1, 2.5, 5, 8, 1.5, 2.0, None, 0, 3, 4, 300, 0.5, 1)
    ]


def test_writing_and_making_them_twice_changes_nothing(connection: sqlite3.Connection) -> None:
    for _ in range(2):
        account_tables.write_account(connection, 7, ACCOUNT, committed_at=12.5)
        account_tables.create(connection)
    assert connection.execute("SELECT count(*) FROM traffic").fetchone() == (3,)
    assert connection.execute("SELECT count(*) FROM contributions").fetchone() == (1,)


def test_open_traffic_is_that_of_one_round_and_gone_with_its_account(
    connection: sqlite3.Connection,
) -> None:
    sent = DeviceTraffic(1, 2, 3, 4, 5, 6, 7)
    account_tables.save_traffic(connection, 7, "a", DeviceTraffic(1))
    account_tables.save_traffic(connection, 7, "a", sent)
    assert account_tables.load_traffic(connection, 7) == {"a": sent}
    assert account_tables.load_traffic(connection, 8) == {}
    account_tables.write_account(connection, 7, ACCOUNT, committed_at=12.5)
    assert account_tables.load_traffic(connection, 7) == {}


def test_tensors_that_were_not_counted_are_nothing(connection: sqlite3.Connection) -> None:
    account_tables.write_account(connection, 7, RoundAccount(), committed_at=0.0)
    assert connection.execute("SELECT tensors FROM accounts").fetchone() == (None,)
