"""The aggregator's journal and the adapter that its run begins with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from aggregator.adapter_folder import BadAdapter, read_adapter, version_folder
from aggregator.state_folder import JOURNAL_FILE
from tools.doctor.context import Context
from tools.doctor.finding import Finding, fail, ok, warn
from transport.control import RunAnnouncement


def examine_journal(context: Context) -> Iterator[Finding]:
    """Yield `journal` and `adapter`."""
    config = context.aggregator
    yield _journal(config.state_dir / JOURNAL_FILE)
    copy = version_folder(config.state_dir, 0)
    folder = copy if copy.exists() else config.initial_adapter
    try:
        adapter = read_adapter(folder)
    except BadAdapter as error:
        mend = "fedfstq adapter --model BASE --out FOLDER makes one; name it in initial_adapter"
        yield fail("adapter", str(error), mend)
        return
    yield judge_adapter(
        str(folder),
        coordinates=adapter.layout.size,
        digests=(adapter.layout.digest.hex(), adapter.base_digest.hex()),
        run=context.known.run,
    )


def _journal(path: Path) -> Finding:
    if not path.exists():
        return ok("journal", f"{path} is not there yet: a new run begins with the first start")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            rows = connection.execute("PRAGMA quick_check(3)").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return judge_journal(path, [str(error)])
    return judge_journal(path, [str(row[0]) for row in rows])


def judge_journal(path: Path, said: list[str]) -> Finding:
    """Tell whether SQLite finds the journal whole."""
    if said == ["ok"]:
        return ok("journal", f"{path} is whole")
    if any("locked" in line or "busy" in line for line in said):
        return warn("journal", f"{path} is in use", "run it again in a moment")
    return fail(
        "journal",
        f"{path}: {said[0] if said else 'no answer'}",
        "stop the aggregator and put the newest copy of its state folder back, or begin a new run "
        "in an empty state_dir",
    )


def judge_adapter(
    folder: str, *, coordinates: int, digests: tuple[str, str], run: RunAnnouncement | None
) -> Finding:
    """Tell whether the adapter is that of the run which is announced.

    Args:
        folder: Where it lies.
        coordinates: How many numbers it has.
        digests: Of its layout and of its base model.
        run: The announced run, None where there is none.
    """
    text = f"{folder}, {coordinates:,} coordinates, layout {digests[0][:12]}"
    if run is not None and digests != (run.layout_digest, run.base_digest):
        return fail(
            "adapter",
            f"{text}: the announced run {run.run[:8]} has another layout or base model",
            "another aggregator leads in this federation: name another `federation`, or stop it",
        )
    return ok("adapter", text)
