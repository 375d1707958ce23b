from __future__ import annotations

from pathlib import Path

import pytest

from agent.data import DataError
from tools.experiment.workloads.lang import lang_records


def test_a_record_gives_the_answers_sentence_and_learns_question_and_answer(
    data_folder: Path,
) -> None:
    records = lang_records(data_folder)
    assert {record.label for record in records} == {"de", "en"}
    english = next(record for record in records if record.label == "en")
    assert english.prompt == "She lays eggs.\n"
    assert english.answer == "Who lays eggs? (0)\nShe"
    assert english.question.prompt == "She lays eggs.\nWho lays eggs? (0)\n"
    assert english.question.answer == "She"


def test_translations_of_an_article_are_one_group(data_folder: Path) -> None:
    groups: dict[str, set[str]] = {}
    for record in lang_records(data_folder):
        groups.setdefault(record.group, set()).add(record.label)
    assert len(groups) == 12
    assert all(languages == {"de", "en"} for languages in groups.values())


@pytest.mark.parametrize("text", ["[]", '{"data": [{"title": "x"}]}', "no JSON"])
def test_another_format_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "xquad.en.json").write_text(text)
    with pytest.raises(DataError, match="SQuAD"):
        lang_records(tmp_path)
