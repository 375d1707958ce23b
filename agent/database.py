"""The outbox's SQLite file: its schema, and transactions that are durable when they return."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE updates (
    uid TEXT PRIMARY KEY,
    seq INTEGER NOT NULL UNIQUE,
    run TEXT NOT NULL,
    round_id INTEGER NOT NULL,
    payload TEXT NOT NULL UNIQUE,
    manifest BLOB NOT NULL,
    UNIQUE (run, round_id)
);
CREATE TABLE settled (round_id INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE leftovers (
    number INTEGER PRIMARY KEY,
    payload TEXT NOT NULL UNIQUE,
    accepted BLOB NOT NULL,
    total INTEGER NOT NULL
);
"""


class DatabaseError(Exception):
    """The state folder's database cannot be used; the text says how to mend it."""


class Database:
    """One connection, used by one thread; every transaction survives a loss of power."""

    def __init__(self, path: Path) -> None:
        """Open the file, making it where there is none.

        Raises:
            DatabaseError: It is no database, damaged, or of a newer version of this program.
            sqlite3.OperationalError: The disk is full, or cannot be used for another reason.
        """
        try:
            self._connection = _open(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise DatabaseError(
                f"{path} cannot be used ({error}): move it away (updates not sent are lost)"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block does when it ends, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return what a query finds."""
        return self._connection.execute(query, parameters).fetchall()

    def fact(self, name: str) -> str | None:
        """Return a fact's value, None where it was never set."""
        found = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,))
        row = found.fetchone()
        return str(row[0]) if row else None

    def set_fact(self, name: str, value: str) -> None:
        """Set a fact; inside a transaction it belongs to it."""
        self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def count_up(self, name: str, *, first: int = 1) -> int:
        """Return a counter's next value; a value that was committed never comes again."""
        before = self.fact(name)
        value = first if before is None else int(before) + 1
        self.set_fact(name, str(value))
        return value

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the log at every commit; NORMAL could forget the last ones.
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(  # noqa: TRY301 - one place closes what was opened
                f"it is of version {version}, this program knows {SCHEMA_VERSION}; the program "
                "that wrote it can still send what waits in it"
            )
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection
