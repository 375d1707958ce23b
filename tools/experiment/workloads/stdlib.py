"""The demo's texts as a workload: Python's standard library, by package group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tools.corpus import CLIENT_PACKAGES, ClientCorpus, client_groups
from tools.experiment.workloads.records import Record
from tools.experiment.workloads.workload import Question


def stdlib_records(_data: Path | None) -> list[Record]:
    """Return every package group's passages, all text learnt; the corpus says what is held out."""
    groups = client_groups(len(CLIENT_PACKAGES))
    return [record for group in groups for record in _group_records(group)]


def _group_records(group: ClientCorpus) -> Iterator[Record]:
    for passages, heldout in ((group.train, False), (group.heldout, True)):
        for passage in passages:
            yield Record("", passage, group.client_id, passage, _question(passage), heldout)


def _question(passage: str) -> Question:
    """Ask for a passage's second half, from the line that its middle falls into on."""
    cut = passage.rfind("\n", 0, len(passage) // 2) + 1 or len(passage) // 2
    return Question(passage[:cut], passage[cut:])
