"""What a workload is: items to learn, items to measure with, and questions to answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from agent.data import Example

# The share of a workload's groups that is never trained on.
HELDOUT_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Item:
    """One text to learn, short enough that little of it is cut away.

    Attributes:
        prompt: What is given; no loss is taken on it. Empty where all text is learnt.
        answer: What is learnt. Where it is longer than a row, the rest of it is the next items',
            each of which gives what stands before as its prompt.
        label: Index into the workload's classes; what clients are told apart by.
        group: Items that must not stand on both sides of the held-out split share it.
        record: Items that are parts of one record share it; a client has all of them.
        part: 0 where the answer begins with this item, 1 for what goes on from there, and so on.
    """

    prompt: str
    answer: str
    label: int
    group: str
    record: int
    part: int = 0

    @property
    def example(self) -> Example:
        """What a device's agent would have read from its file."""
        return Example(self.prompt, self.answer)


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out record as a prompt to go on from, and the answer that is expected.

    Attributes:
        prompt: All of what is given.
        answer: What is expected after it.
        decision: The one word that the answer must begin with to count as right; None where the
            whole answer is compared.
        python: Whether the answer is a Python program.
        given: The input that a program's task names.
        label: Index into the workload's classes.
    """

    prompt: str
    answer: str
    decision: str | None = None
    python: bool = False
    given: str = ""
    label: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """A named set of texts, split once and for all: no seed, method or partition moves an item.

    Attributes:
        name: As experiments name it.
        classes: What the labels stand for.
        train: What clients are given, see `tools.experiment.workloads.partition.deal`.
        heldout: What the loss is measured on; no client has them, nor others of their group.
        questions: The held-out records once more, for what the model writes itself.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Item, ...]
    heldout: tuple[Item, ...]
    questions: tuple[Question, ...]

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, those to train on first."""
        return self.train + self.heldout

    def heldout_sample(self, count: int) -> tuple[Item, ...]:
        """Return at most this many held-out items: as many of each class as there are, in turn.

        The same for every method, seed and partition; a larger sample holds the smaller ones.
        """
        return tuple(_in_turn(self.heldout, count))

    def question_sample(self, count: int) -> tuple[Question, ...]:
        """Return at most this many questions, chosen as `heldout_sample` chooses.

        Where tasks ask for Python programs with an input, half of the questions are of these, since
        no others can be tested.
        """
        testable = [each for each in self.questions if each.python and each.given]
        chosen = _in_turn(testable, count // 2)
        taken = set(chosen)
        rest = [each for each in self.questions if each not in taken]
        return tuple(chosen + _in_turn(rest, count - len(chosen)))


_Entry = TypeVar("_Entry", Item, Question)


def is_heldout(group: str, *, share: float = HELDOUT_SHARE) -> bool:
    """Tell whether a group's items are held out: by its hash, wherever and whenever it is asked."""
    return hash_64(group) < int(share * 2**64)


def hash_64(text: str) -> int:
    """Return 64 bits that are the same for the same text on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _in_turn(entries: Sequence[_Entry], count: int) -> list[_Entry]:
    """Return entries by turns of their classes, each class in the order of its texts' hashes."""
    classes: dict[int, list[_Entry]] = {}
    for entry in sorted(entries, key=lambda entry: hash_64(f"{entry.prompt}\0{entry.answer}")):
        classes.setdefault(entry.label, []).append(entry)
    longest = max(map(len, classes.values()), default=0)
    ordered = [classes[label] for label in sorted(classes)]
    turns = [members[turn] for turn in range(longest) for members in ordered if turn < len(members)]
    return turns[:count]
