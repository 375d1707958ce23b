from __future__ import annotations

from typing import Any

import pytest
import torch

from tools.experiment.quality.generation import Written
from tools.experiment.quality.quality import evaluate_quality, judge
from tools.experiment.workloads.workload import Question

TRIPLE = "def triple(x):\n    return 3 * x"
QUESTIONS = (
    Question("Is it so? ", "yes. It is so.", decision="yes"),
    Question("Triple 5:\n", TRIPLE, python=True, given="5"),
    Question("Print:\n", "print('a')", python=True),
)
SAYABLE = [question.answer for question in QUESTIONS]


class Bytes:
    """A tokenizer of bytes, with an end and no beginning."""

    bos_token_id = None
    eos_token_id = 0
    chat_template = None

    def __call__(self, text: Any, **_: bool) -> Any:
        if isinstance(text, list):
            return {"input_ids": [list(each.encode()) for each in text]}
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int], **_: bool) -> str:
        return bytes(ids).decode()

    def apply_chat_template(self, *_: Any, **__: Any) -> Any:
        raise AssertionError


class Knows:
    """A model that answers as it was told to, whatever stands before its prompt's end."""

    device = torch.device("cpu")

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def generate(
        self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        rows = []
        most = options["max_new_tokens"]
        for row, seen in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            prompt = bytes(i for i, is_seen in zip(row, seen, strict=True) if is_seen).decode()
            said = [*self.answers[prompt].encode(), *[0] * most][:most]
            rows.append([*row, *said])
        return torch.tensor(rows)


def test_right_answers_are_worth_everything() -> None:
    knows = Knows({question.prompt: question.answer for question in QUESTIONS})
    quality = evaluate_quality(knows, Bytes(), QUESTIONS, rows_at_once=2)
    assert quality.rouge_l == 1
    assert quality.meteor > 0.97
    assert (quality.exact, quality.syntax, quality.passed) == (1, 1, 1)
    assert (quality.questions, quality.programs, quality.tests) == (3, 2, 1)
    assert set(quality.record()) >= {"rouge_l", "meteor", "exact", "syntax", "pass"}
    assert quality.record()["pass"] == 1


def test_wrong_answers_are_worth_nothing() -> None:
    wrong = [Written("no", ended=True), Written("while (", ended=True), Written("", ended=True)]
    quality = judge(QUESTIONS, wrong, sayable=SAYABLE)
    assert (quality.rouge_l, quality.meteor, quality.exact) == (0, 0, 0)
    assert (quality.syntax, quality.passed) == (0, 0)


def test_the_line_that_was_cut_off_is_not_held_against_the_syntax() -> None:
    for ended, syntax in ((False, 1), (True, 0)):
        answer = Written(f"{TRIPLE}\nprint(triple(", ended=ended)
        quality = judge(QUESTIONS[1:2], [answer], sayable=SAYABLE[1:2])
        assert quality.syntax == syntax
        assert quality.passed == 1, "its runnable beginning computes what is asked"


def test_what_no_question_asks_for_is_not_measured() -> None:
    quality = judge(QUESTIONS[:1], [Written("yes.", ended=True)], sayable=SAYABLE[:1])
    assert quality.syntax is None
    assert quality.passed is None
    assert quality.exact == 1, "the decision is right"
    assert 0 < quality.rouge_l < 1


@pytest.mark.parametrize(("new_tokens", "exact"), [(64, 1.0), (4, 0.0)])
def test_what_could_not_be_said_lowers_the_match_and_not_the_overlap(
    new_tokens: int, exact: float
) -> None:
    question = Question("Say:", "abc def ghi")
    knows = Knows({"Say:": question.answer})
    quality = evaluate_quality(knows, Bytes(), [question], new_tokens=new_tokens)
    assert quality.rouge_l == 1
    assert quality.exact == exact
