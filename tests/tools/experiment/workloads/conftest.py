"""Tokenizers whose tokens can be read, and data sets of the published formats, written here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest


class WordTokenizer:
    """One token per word with the space before it; its id is given at first sight."""

    bos_token_id = None
    eos_token_id = 0
    chat_template = None

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, text: Any, **_: bool) -> Any:
        if isinstance(text, list):
            return {"input_ids": [self._encode(each) for each in text]}
        return {"input_ids": self._encode(text)}

    def _encode(self, text: str) -> list[int]:
        words = re.findall(r"\s*\S+|\s+$", text)
        return [self.ids.setdefault(word, len(self.ids) + 1) for word in words]

    def apply_chat_template(self, *_: Any, **__: Any) -> Any:
        raise AssertionError


class ByteTokenizer(WordTokenizer):
    """One token per byte."""

    def _encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]


@pytest.fixture
def word_tokenizer() -> WordTokenizer:
    return WordTokenizer()


@pytest.fixture
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


ARTICLES = [
    ("Does an apple a day keep the doctor away?", ["Humans", "Diet", "Fruit"], "maybe"),
    ("Is walking good for the heart?", ["Heart Rate", "Myocardial Infarction", "Female"], "yes"),
    ("Do casts heal broken arms faster?", ["Fractures, Bone", "Humans"], "no"),
    ("Are maps of use to surgeons?", ["Humans", "Adult"], "yes"),
]

TASKS = [
    ("Write a Python function that doubles a number.", "21", "def double(x):\n    return 2 * x"),
    ("Write a Python function that adds two numbers.", "1, 2", "def add(a, b):\n    return a + b"),
    ("Greet in JavaScript.", "", "console.log('hello');"),
    ("Explain what a loop is.", "", "It does a thing again and again."),
]

PARAGRAPHS = {
    "en": ("Bees live in hives. The hive has one queen! She lays eggs.", "Who lays eggs?", "She"),
    "de": ("Bienen leben im Stock. Eine ist Königin! Sie legt Eier.", "Wer legt Eier?", "Sie"),
}
COPIES = 12


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A folder with every data set in small; the first copies of all texts are held out or not."""
    pubmed = {
        str(copy * 100 + number): {
            "QUESTION": question,
            "CONTEXTS": [f"This is study {copy}.", "Some were asked."],
            "MESHES": headings,
            "final_decision": decision,
            "LONG_ANSWER": f"Study {copy} says so.",
        }
        for copy in range(COPIES)
        for number, (question, headings, decision) in enumerate(ARTICLES)
    }
    alpaca = [
        {"instruction": f"{task} ({copy})", "input": given, "output": output}
        for copy in range(COPIES)
        for task, given, output in TASKS
    ]
    (tmp_path / "pubmedqa_tiny.json").write_text(json.dumps(pubmed))
    (tmp_path / "codealpaca_tiny.json").write_text(json.dumps(alpaca))
    for language, paragraph in PARAGRAPHS.items():
        articles = [_article(*paragraph, copy=copy) for copy in range(COPIES)]
        text = json.dumps({"data": articles, "version": "1.1"}, ensure_ascii=False)
        (tmp_path / f"xquad.{language}.json").write_text(text, encoding="utf-8")
    return tmp_path


def _article(context: str, question: str, answer: str, *, copy: int) -> dict[str, Any]:
    answers = [{"answer_start": context.rindex(answer), "text": answer}]
    qas = [{"id": str(copy), "question": f"{question} ({copy})", "answers": answers}]
    return {"title": str(copy), "paragraphs": [{"context": context, "qas": qas}]}
