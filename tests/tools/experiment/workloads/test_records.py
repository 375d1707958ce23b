from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.data import DataError
from tools.experiment.workloads.records import Record, assemble, find_files
from tools.experiment.workloads.workload import Question


def record(text: str, *, label: str = "a", group: str = "", heldout: bool | None = None) -> Record:
    question = Question(text, "answer")
    return Record(text, " answer", label, group or text, question, heldout)


def test_a_group_stands_on_one_side_whatever_its_records_are(byte_tokenizer: Any) -> None:
    records = [record(f"text {i}", group=f"group {i % 10}") for i in range(100)]
    made = assemble("w", records, tokenizer=byte_tokenizer, max_tokens=64)
    train, heldout = ({item.group for item in side} for side in (made.train, made.heldout))
    assert train
    assert heldout
    assert not train & heldout
    assert len(train | heldout) == 10


def test_a_text_that_has_been_there_is_left_out(byte_tokenizer: Any) -> None:
    records = [record("same", label="b"), record("same", label="a"), record("other", label="b")]
    made = assemble("w", records, tokenizer=byte_tokenizer, max_tokens=64)
    assert [made.classes[item.label] for item in made.items] == ["b", "b"]


def test_a_records_own_side_counts(byte_tokenizer: Any) -> None:
    records = [record("one", heldout=True), record("two", heldout=False, label="b")]
    made = assemble("w", records, tokenizer=byte_tokenizer, max_tokens=64)
    assert [item.prompt for item in made.train] == ["two"]
    assert [item.prompt for item in made.heldout] == ["one"]
    assert [(q.prompt, q.label) for q in made.questions] == [("one", 0)]


def test_a_long_record_is_several_parts_of_one_record(byte_tokenizer: Any) -> None:
    long = Record("p", " word" * 40, "a", "g", Question("p", "w"), heldout=False)
    made = assemble("w", [long], tokenizer=byte_tokenizer, max_tokens=32)
    assert [item.part for item in made.train] == list(range(len(made.train)))
    assert len(made.train) > 5
    assert {item.record for item in made.train} == {0}


@pytest.mark.parametrize("folder", [None, Path("/nowhere")])
def test_missing_files_are_asked_for(folder: Path | None) -> None:
    with pytest.raises(DataError, match=r"fetch it from there.*--data, FEDFSTQ_DATA"):
        find_files("med", folder, patterns=("a*.json",), fetch="fetch it from there")


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.json", "a2.json", "a1.json"):
        (tmp_path / name).touch()
    found = find_files("med", tmp_path, patterns=("a*.json", "a1.json"), fetch="")
    assert [path.name for path in found] == ["a1.json", "a2.json"]
