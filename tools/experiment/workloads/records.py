"""Turns records of any source into a workload, and finds their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.data import DataError
from agent.tokens import Tokenizer
from tools.experiment.workloads.windows import token_counts, windows
from tools.experiment.workloads.workload import Item, Question, Workload, is_heldout


@dataclass(frozen=True, slots=True)
class Record:
    """One record before it is cut to items.

    Attributes:
        prompt: What is given.
        answer: What is learnt.
        label: The name of its class.
        group: What must not stand on both sides of the split.
        question: What is asked of the model where it is held out; its label is filled in.
        heldout: Whether it is; None where its group's hash decides.
    """

    prompt: str
    answer: str
    label: str
    group: str
    question: Question
    heldout: bool | None = None


def assemble(
    name: str, records: Sequence[Record], *, tokenizer: Tokenizer, max_tokens: int
) -> Workload:
    """Return the workload of these records; those whose text has been there before are left out.

    Args:
        name: The workload's.
        records: In the order of their file.
        tokenizer: The base model's.
        max_tokens: The length of the rows that items are cut for.
    """
    classes = tuple(sorted({record.label for record in records}))
    unique = {(record.prompt, record.answer): record for record in reversed(records)}
    counts = token_counts((text for texts in unique for text in texts), tokenizer)
    sides: dict[bool, list[Item]] = {False: [], True: []}
    questions = []
    for number, record in enumerate(reversed(unique.values())):
        heldout = is_heldout(record.group) if record.heldout is None else record.heldout
        label = classes.index(record.label)
        cut = windows(record.prompt, record.answer, counts=counts, max_tokens=max_tokens)
        sides[heldout] += [
            Item(prompt, answer, label, record.group, record=number, part=part)
            for part, (prompt, answer) in enumerate(cut)
        ]
        if heldout:
            questions.append(replace(record.question, label=label))
    return Workload(name, classes, tuple(sides[False]), tuple(sides[True]), tuple(questions))


def find_files(
    workload: str, data: Path | None, *, patterns: Sequence[str], fetch: str
) -> list[Path]:
    """Return the files of a data folder that match any pattern, in the order of their names.

    Raises:
        DataError: The folder is not given or holds none; the line says what to fetch and where to.
    """
    if data is None:
        raise DataError(
            f"the workload {workload} needs data that is not part of the project: {fetch}, and "
            "name its folder with --data, FEDFSTQ_DATA or the experiment's `data`"
        )
    found = sorted({path for pattern in patterns for path in data.glob(pattern)})
    if not found:
        raise DataError(
            f"{data}: the workload {workload} found no {' or '.join(patterns)} there: {fetch}, and "
            "name its folder with --data, FEDFSTQ_DATA or the experiment's `data`"
        )
    return found
