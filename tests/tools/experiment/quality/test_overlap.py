"""The figures are those of rouge-score 0.1.2 and of nltk 3.10 (METEOR with no synonyms).

They were made once with these packages; nltk's alignment is not always the one of fewest chunks,
so that only pairs stand here whose alignment leaves no choice.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.experiment.quality.overlap import (
    decision_match,
    exact_match,
    meteor,
    rouge_l,
    words,
)

GUIDE = "It is a guide to action that ensures that the military will forever heed Party commands"
ACTION = (
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
TROOPS = "It is to insure the troops forever hearing the activity guidebook that party direct"
MAT = "the cat sat on the mat"

texts = st.lists(st.sampled_from(["walk", "walking", "the", "cat", "dog"]), max_size=12).map(
    " ".join
)


@pytest.mark.parametrize(
    ("written", "expected", "figure"),
    [
        ("the cat was sat on the mat", MAT, 0.923077),
        ("on the mat sat the cat", MAT, 0.5),
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        (ACTION, GUIDE, 0.647059),
        (TROOPS, GUIDE, 0.4),
        ("Return the sum, of 3 numbers!", "return the sum of three numbers", 0.833333),
        ("", "a", 0.0),
    ],
)
def test_rouge_l_is_the_packages(written: str, expected: str, figure: float) -> None:
    assert rouge_l(written, expected) == pytest.approx(figure, abs=1e-6)


@pytest.mark.parametrize(
    ("written", "expected", "figure"),
    [
        ("the cat was sat on the mat", MAT, 0.965392),
        ("police killed the gunman", "police kill the gunman", 0.992188),
        ("the gunman kill police", "police killed the gunman", 0.789062),
        (TROOPS, GUIDE, 0.303539),
        ("Return the sum, of 3 numbers!", "return the sum of three numbers", 0.806667),
        ("yes. patients improved after treatment", "no. the patient did not improve", 0.169492),
        ("", "a", 0.0),
    ],
)
def test_meteor_is_the_packages(written: str, expected: str, figure: float) -> None:
    assert meteor(written, expected) == pytest.approx(figure, abs=1e-6)


def test_meteor_aligns_in_the_fewest_chunks() -> None:
    """Three chunks of six matches: "on the mat", "sat", "the cat"."""
    assert meteor("on the mat sat the cat", MAT) == pytest.approx(1 - 0.5 * (3 / 6) ** 3)


@settings(deadline=None, max_examples=100)
@given(texts, texts)
def test_measures_lie_between_none_and_all(left: str, right: str) -> None:
    assert 0 <= rouge_l(left, right) <= 1
    assert 0 <= meteor(left, right) <= 1
    assert rouge_l(left, right) == rouge_l(right, left)


@settings(deadline=None, max_examples=50)
@given(texts.filter(bool))
def test_the_expected_text_itself_is_best(text: str) -> None:
    count = len(text.split())
    assert rouge_l(text, text) == 1
    assert meteor(text, text) == pytest.approx(1 - 0.5 / count**3), "one chunk"


def test_words_of_every_script_are_words() -> None:
    assert words("Don't STOP: x_1!") == ["don", "t", "stop", "x", "1"]
    assert words("कौन सा") == ["कौन", "सा"], "vowel signs do not divide a word"
    assert words("مرحبا بك؟") == ["مرحبا", "بك"]
    assert words("学生数。") == ["学", "生", "数"]
    assert words("Été") == words("E\u0301te\u0301")


def test_an_exact_match_forgives_white_space_at_line_ends_only() -> None:
    assert exact_match("a = 1 \nb = 2\n", "a = 1\nb = 2")
    assert not exact_match("a = 1\n  b = 2", "a = 1\nb = 2")
    assert not exact_match("", "a")


def test_a_decision_is_the_first_word() -> None:
    assert decision_match(" Yes, it is.", "yes")
    assert not decision_match("It is, yes", "yes")
    assert not decision_match("", "yes")
