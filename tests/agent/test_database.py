from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agent.database import SCHEMA_VERSION, Database, DatabaseError


def test_facts_and_counters_survive(tmp_path: Path) -> None:
    database = Database(tmp_path / "d")
    assert database.fact("run") is None
    with database.transaction():
        database.set_fact("run", "a")
        assert database.count_up("seq") == 1
    database.close()
    database = Database(tmp_path / "d")
    assert database.fact("run") == "a"
    assert database.count_up("seq") == 2
    database.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "d")
    with pytest.raises(KeyError), database.transaction():  # noqa: PT012 - the block is the subject
        database.set_fact("run", "a")
        raise KeyError
    assert database.fact("run") is None
    database.close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    database = Database(tmp_path / "d")
    assert database.rows("PRAGMA journal_mode") == [("wal",)]
    assert database.rows("PRAGMA synchronous") == [(2,)]
    database.close()


def test_what_is_no_database_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"no database" * 100)
    with pytest.raises(DatabaseError, match="move it away"):
        Database(tmp_path / "d")


def test_a_disk_that_cannot_be_used_now_is_no_damaged_database(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        Database(tmp_path / "missing" / "d")


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "d")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(DatabaseError, match=f"this program knows {SCHEMA_VERSION}"):
        Database(tmp_path / "d")


def test_an_older_version_is_refused_with_a_way_out(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "d")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(DatabaseError, match="version 1") as refusal:
        Database(tmp_path / "d")
    assert "the program that wrote it can still send" in str(refusal.value)
    assert "move it away (updates not sent are lost)" in str(refusal.value)
