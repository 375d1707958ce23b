"""The model of the journal holds what SQLite holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aggregator.store import Store
from tools.simulate.faults import Kind
from tools.simulate.journal import Journal
from tools.simulate.scenario import random_scenario
from tools.simulate.world import simulate


class Mirror:
    """Gives every transaction of the model to a real journal as well, and compares the two."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._path = folder / "journal.sqlite3"
        self._stack = stack
        self.store: Any = None
        self.compared = 0

    def open(self) -> None:
        self.close()
        self.store = Store(self._path, identity="a run")

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None

    def compare(self, journal: Journal) -> None:
        self.compared += 1
        assert journal.load() == self.store.load()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with ExitStack() as stack:
        mirror = Mirror(tmp_path, stack)
        stack.callback(mirror.close)
        begin = Journal.open

        def opening(journal: Journal) -> Any:
            snapshot = begin(journal)
            mirror.open()
            mirror.compare(journal)
            return snapshot

        monkeypatch.setattr(Journal, "open", opening)
        for name in ("write", "freeze", "reopen", "commit", "finish"):
            monkeypatch.setattr(Journal, name, _mirrored(name, mirror))
        yield mirror


def _mirrored(name: str, mirror: Mirror) -> Any:
    original = getattr(Journal, name)

    def both(journal: Journal, argument: Any) -> None:
        original(journal, argument)
        getattr(mirror.store, name)(argument)

    return both


@pytest.mark.parametrize("seed", [3, 17, 40])
def test_every_restart_reads_the_same(mirror: Mirror, seed: int) -> None:
    kinds = frozenset({Kind.AGGREGATOR_CRASH, Kind.AGENT_CRASH, Kind.HOSTILE, Kind.CUT})
    outcome = simulate(random_scenario(seed, devices=4, rounds=6, kinds=kinds))
    assert outcome.violation == "", outcome.text
    mirror.open()
    assert mirror.compared >= 1
