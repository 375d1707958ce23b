"""XQuAD as a workload: the same questions in seven languages, by language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.data import DataError
from tools.experiment.workloads.records import Record, find_files
from tools.experiment.workloads.workload import Question

PATTERNS = ("xquad.??.json",)
FETCH = "fetch xquad.{ar,de,en,es,hi,ru,zh}.json from github.com/google-deepmind/xquad"

# What ends a sentence in the languages that are there.
_SENTENCE = re.compile(r"[^.!?。！？؟।]*(?:[.!?。！？؟।]+(?=\s|$|\D)|$)")  # noqa: RUF001 - their own


def lang_records(data: Path | None) -> list[Record]:
    """Return XQuAD's records: the sentence that holds the answer, then the question and the answer.

    The question is learnt as well as the answer, which alone is a few words. All languages'
    versions of one article are one group: no translation of a held-out text is trained on.

    Raises:
        DataError: There is no such file, or it is not in SQuAD's format.
    """
    files = find_files("lang", data, patterns=PATTERNS, fetch=FETCH)
    return [record for file in files for record in _file_records(file)]


def _file_records(file: Path) -> Iterator[Record]:
    language = file.suffixes[-2].removeprefix(".")
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        for number, article in enumerate(articles):
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    yield _record(paragraph["context"], entry, language, f"article {number}")
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(
            f"{file}: not in SQuAD's format: {type(error).__name__}: {error}"
        ) from error


def _record(context: str, entry: dict[str, Any], language: str, group: str) -> Record:
    question, answer = entry["question"].strip(), entry["answers"][0]
    given = f"{_sentence_at(context, int(answer['answer_start']))}\n"
    asked = Question(f"{given}{question}\n", answer["text"])
    return Record(given, f"{question}\n{answer['text']}", language, group, asked)


def _sentence_at(context: str, place: int) -> str:
    """Return the sentence of a text that a character stands in."""
    for match in _SENTENCE.finditer(context):
        if match.end() > place:
            return match.group().strip()
    return context.strip()
