"""What a model's own answers are worth: it answers held-out questions, and they are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from tools.experiment.quality.generation import Written, write
from tools.experiment.quality.overlap import decision_match, exact_match, meteor, rouge_l
from tools.experiment.quality.programs import CallTest, derive_test, is_program, passes
from tools.experiment.workloads.workload import Question


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over the questions, 0 to 1 each; None where no question allows the measure.

    Attributes:
        rouge_l: F measure of the longest common subsequence of words.
        meteor: Exact and stem stage.
        exact: Share of answers that are right to the letter, or whose decision is right.
        syntax: Share of Python answers that are valid programs.
        passed: Pass@1: share of derived tests that the first and only answer passes.
        questions: How many were asked.
        programs: How many of them ask for a Python program.
        tests: For how many of these a test could be derived.
    """

    rouge_l: float
    meteor: float
    exact: float
    syntax: float | None
    passed: float | None
    questions: int
    programs: int
    tests: int

    def record(self) -> dict[str, float | int | None]:
        """Return it as a trial's file has it."""
        return {
            "rouge_l": self.rouge_l,
            "meteor": self.meteor,
            "exact": self.exact,
            "syntax": self.syntax,
            "pass": self.passed,
            "questions": self.questions,
            "programs": self.programs,
            "tests": self.tests,
        }


def evaluate_quality(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rows_at_once: int = 16,
    on_part: Callable[[], None] = lambda: None,
) -> Quality:
    """Return the quality of what a model answers, greedily and within a number of tokens.

    Args:
        model: A Hugging Face causal language model in evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer.
        questions: Not empty; see `Workload.question_sample`.
        prompt_tokens: Most tokens of a prompt.
        new_tokens: Most tokens of an answer. For ROUGE-L and METEOR the expected answers are cut
            to as many, so that what could not be said is not counted against the model.
        rows_at_once: Questions that go through the model together.
        on_part: Called before each such part; what it raises ends the measurement.
    """
    assert questions
    answers = write(
        model,
        tokenizer,
        [question.prompt for question in questions],
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rows_at_once=rows_at_once,
        on_part=on_part,
    )
    sayable = [_sayable(question.answer, tokenizer, new_tokens) for question in questions]
    return judge(questions, answers, sayable=sayable)


def judge(
    questions: Sequence[Question], answers: Sequence[Written], *, sayable: Sequence[str]
) -> Quality:
    """Return the quality of these answers.

    Args:
        questions: Not empty.
        answers: What was written to each.
        sayable: Each expected answer as far as it could be written.
    """
    overlaps = [
        (rouge_l(answer.text, expected), meteor(answer.text, expected))
        for answer, expected in zip(answers, sayable, strict=True)
    ]
    pairs = list(zip(questions, answers, strict=True))
    programs = [(question, answer) for question, answer in pairs if question.python]
    tests = [
        (test, answer)
        for question, answer in programs
        if (test := _test(question.answer, question.given)) is not None
    ]
    return Quality(
        rouge_l=fmean(rouge for rouge, _ in overlaps),
        meteor=fmean(score for _, score in overlaps),
        exact=fmean(_is_right(question, answer) for question, answer in pairs),
        syntax=_share([is_program(_whole_lines(answer)) for _, answer in programs]),
        passed=_share([passes(answer.text, test) for test, answer in tests]),
        questions=len(questions),
        programs=len(programs),
        tests=len(tests),
    )


@cache
def _test(reference: str, given: str) -> CallTest | None:
    """Derive a test once per process: deriving runs the reference."""
    return derive_test(reference, given)


def _is_right(question: Question, answer: Written) -> bool:
    if question.decision is not None:
        return decision_match(answer.text, question.decision)
    return exact_match(answer.text, question.answer)


def _whole_lines(answer: Written) -> str:
    """Return an answer without the line that the number of tokens cut off."""
    return answer.text if answer.ended else answer.text.rpartition("\n")[0]


def _sayable(expected: str, tokenizer: Any, new_tokens: int) -> str:
    ids = tokenizer(expected, add_special_tokens=False)["input_ids"]
    text: str = tokenizer.decode(ids[:new_tokens], skip_special_tokens=True)
    return expected if len(ids) <= new_tokens else text


def _share(outcomes: Sequence[bool]) -> float | None:
    return fmean(outcomes) if outcomes else None
