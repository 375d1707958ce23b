from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.data import DataError
from tools.experiment.workloads.code import code_records, kind


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Write a C++ program that sorts.", "c++"),
        ("Implement a C function for it.", "c"),
        ("Sort in C# please", "c#"),
        ("Construct a Java class", "java"),
        ("Construct a JavaScript class", "javascript"),
        ("Make a Bash script", "shell"),
        ("Write a Python function", "python"),
        ("Select all rows with SQL", "sql"),
        ("Explain what a tree is", "explain"),
        ("Sort the numbers", "other"),
    ],
)
def test_the_language_that_is_named_is_the_kind(instruction: str, expected: str) -> None:
    assert kind(f"### Instruction:\n{instruction}\n\n### Response:\n") == expected


def test_a_record_is_what_the_agent_reads(data_folder: Path) -> None:
    records = code_records(data_folder)
    assert [record.label for record in records[:4]] == [
        "python", "python", "javascript", "explain",
    ]  # fmt: skip
    assert records[0].prompt.startswith("### Instruction:\nWrite a Python function that doubles")
    assert records[0].prompt.endswith("### Input:\n21\n\n### Response:\n")
    assert records[0].answer == "def double(x):\n    return 2 * x"


def test_a_python_task_says_its_input(data_folder: Path) -> None:
    questions = [record.question for record in code_records(data_folder)[:4]]
    assert [(each.python, each.given) for each in questions] == [
        (True, "21"), (True, "1, 2"), (False, ""), (False, ""),
    ]  # fmt: skip


def test_the_same_instruction_is_one_group_whatever_its_input(tmp_path: Path) -> None:
    entries = [{"instruction": "Add.", "input": given, "output": given} for given in ("1", "2", "")]
    (tmp_path / "codealpaca.json").write_text(json.dumps(entries))
    assert len({record.group for record in code_records(tmp_path)}) == 1


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "codealpaca.json").write_text(json.dumps([{"text": "x"}]))
    with pytest.raises(DataError, match="Alpaca"):
        code_records(tmp_path)
