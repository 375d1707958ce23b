from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.data import DataError
from tools.experiment.workloads.med import TOPICS, med_records, topic


@pytest.mark.parametrize(
    ("headings", "expected"),
    [
        (["Humans", "Breast Neoplasms", "Lymphatic Metastasis", "Heart Rate"], "oncology"),
        (["Humans", "Myocardial Infarction"], "heart"),
        (["Infant, Newborn", "Cesarean Section", "Female"], "birth"),
        (["Attitude of Health Personnel", "Humans"], "services"),
        (["Hearing Loss"], "senses"),
        (["Humans", "Retrospective Studies", "Aged, 80 and over"], "other"),
        ([], "other"),
    ],
)
def test_most_of_the_headings_decide_the_topic(headings: list[str], expected: str) -> None:
    assert topic(headings) == expected


def test_a_heading_speaks_by_the_beginning_of_a_word() -> None:
    assert topic(["Research"]) == "other", "'ear' does not begin a word of it"


def test_the_first_topic_counts_where_several_are_alike() -> None:
    first, second = list(TOPICS)[:2]
    assert topic([TOPICS[second][0], TOPICS[first][0]]) == first


def test_a_record_gives_the_abstract_and_learns_decision_and_answer(data_folder: Path) -> None:
    records = med_records(data_folder)
    assert len(records) == 48
    record = records[1]
    assert record.prompt.startswith("This is study 0.\nSome were asked.")
    assert record.prompt.endswith("Question: Is walking good for the heart?\nAnswer: ")
    assert record.answer == "yes. Study 0 says so."
    assert record.label == "heart"
    assert record.question.decision == "yes"
    assert len({each.group for each in records}) == 48


def test_another_file_is_refused(tmp_path: Path) -> None:
    entry = {"QUESTION": "?", "CONTEXTS": [], "LONG_ANSWER": "!"}
    (tmp_path / "pubmedqa_other.json").write_text(json.dumps({"1": entry}, indent=1))
    with pytest.raises(DataError, match="final_decision"):
        med_records(tmp_path)
