"""The aggregator's journal and initial adapter."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aggregator.config import AggregatorConfig
from codec.layout import Layout
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from tools.doctor.journal import judge_journal
from transport.control import RunAnnouncement

Examine = Callable[..., dict[str, Finding]]
TENSORS = {"a.lora_A.weight": np.ones((2, 3), np.float32)}
LAYOUT = Layout.from_shapes({"a.lora_A.weight": (2, 3)}).digest.hex()
BASE = hashlib.sha256(b"base").hexdigest()


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    folder = tmp_path / "initial"
    folder.mkdir()
    save_file(TENSORS, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text("{}")
    facts = {"base_model": "tiny", "base_digest": BASE}
    (folder / "fedfstq.json").write_text(json.dumps(facts))
    return folder


def test_a_new_run_is_right(
    initial: Path, aggregator_config: Callable[..., AggregatorConfig], examine: Examine
) -> None:
    found = examine("journal", Context(aggregator_config(initial_adapter=initial)))
    assert {one.state for one in found.values()} == {State.OK}
    assert "6 coordinates" in found["adapter"].text


def test_a_run_of_another_adapter_is_found(
    initial: Path,
    aggregator_config: Callable[..., AggregatorConfig],
    examine: Examine,
    run: RunAnnouncement,
) -> None:
    context = Context(aggregator_config(initial_adapter=initial))
    context.known.run = run
    assert examine("journal", context)["adapter"].state is State.FAIL
    context.known.run = replace(run, layout_digest=LAYOUT, base_digest=BASE)
    assert examine("journal", context)["adapter"].state is State.OK


def test_an_adapter_that_is_none_is_found(
    aggregator_config: Callable[..., AggregatorConfig], examine: Examine
) -> None:
    found = examine("journal", Context(aggregator_config()))["adapter"]
    assert found.state is State.FAIL
    assert "fedfstq adapter" in found.mend


def test_a_journal_is_read_and_not_changed(
    aggregator_config: Callable[..., AggregatorConfig], examine: Examine
) -> None:
    config = aggregator_config()
    path = config.state_dir / "journal.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(bytes(500),)] * 500)
    assert examine("journal", Context(config))["journal"].state is State.OK  # while it is open
    connection.close()
    before = path.read_bytes()
    assert examine("journal", Context(config))["journal"].text == f"{path} is whole"
    assert path.read_bytes() == before


def test_a_damaged_journal_is_found(
    aggregator_config: Callable[..., AggregatorConfig], examine: Examine
) -> None:
    config = aggregator_config()
    path = config.state_dir / "journal.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(bytes(500),)] * 500)
    connection.close()
    damaged = bytearray(path.read_bytes())
    damaged[8192:40960] = b"\xff" * 32768
    path.write_bytes(damaged)
    found = examine("journal", Context(config))["journal"]
    assert found.state is State.FAIL
    assert "newest copy" in found.mend
    path.write_bytes(b"no database at all, but long enough to have a header " * 40)
    assert examine("journal", Context(config))["journal"].state is State.FAIL


def test_a_journal_in_use_is_no_fault() -> None:
    assert judge_journal(Path("j"), ["database is locked"]).state is State.WARN
    assert judge_journal(Path("j"), []).state is State.FAIL
