from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.data import Example
from agent.tokens import Row, tokenize
from tools.experiment.workloads.windows import pieces_of, token_counts, windows

modest = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def cut_rows(prompt: str, answer: str, tokenizer: Any, max_tokens: int) -> list[Row]:
    counts = token_counts([prompt, answer], tokenizer)
    pairs = windows(prompt, answer, counts=counts, max_tokens=max_tokens)
    rows = tokenize([Example(*pair) for pair in pairs], tokenizer)
    return [row.cut(max_tokens) for row in rows]


@modest
@given(given_words=st.integers(1, 60), said=st.integers(1, 120), max_tokens=st.integers(4, 40))
def test_every_word_of_an_answer_is_learnt_once_and_the_end_once(
    word_tokenizer: Any, given_words: int, said: int, max_tokens: int
) -> None:
    prompt = " ".join(f"p{number}" for number in range(given_words))
    answer = "".join(f" a{number}" for number in range(said))
    rows = cut_rows(prompt, answer, word_tokenizer, max_tokens)
    assert all(len(row.ids) <= max_tokens for row in rows)
    learnt = Counter(int(i) for row in rows for i in row.ids[row.learnt])
    expected = Counter(word_tokenizer(answer, add_special_tokens=False)["input_ids"])
    del learnt[0]
    assert learnt == expected
    ends = [int(row.ids[-1]) == 0 for row in rows]
    assert ends[:-1] == [False] * (len(rows) - 1), "a text that goes on does not end"


@modest
@given(
    prompt=st.text("ab é漢\n", max_size=80),
    answer=st.text("xy ü字\n", min_size=1, max_size=200),
    max_tokens=st.integers(4, 40),
)
def test_the_first_window_is_the_row_of_the_whole(
    byte_tokenizer: Any, prompt: str, answer: str, max_tokens: int
) -> None:
    """What windows leave out is what the row would have cut away."""
    whole = tokenize([Example(prompt, answer)], byte_tokenizer)[0].cut(max_tokens)
    first = cut_rows(prompt, answer, byte_tokenizer, max_tokens)[0]
    assert first.ids.tolist() == whole.ids.tolist()
    assert first.learnt.tolist() == whole.learnt.tolist()


@modest
@given(st.text(max_size=200))
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(pieces_of(text)) == text


def test_text_without_spaces_is_cut_as_well(byte_tokenizer: Any) -> None:
    rows = cut_rows("問", "字" * 100, byte_tokenizer, 64)
    assert len(rows) > 4
    assert sum(row.targets for row in rows) >= 300


def test_an_answer_that_fits_is_one_window(word_tokenizer: Any) -> None:
    rows = cut_rows("a b", " c d", word_tokenizer, 8)
    assert len(rows) == 1
    assert rows[0].targets == 3, "two words and the end"
