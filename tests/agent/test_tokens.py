"""Rows know what is learnt: never the prompt, always the end of the sequence."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.data import Conversation, DataError, Example, Turn
from agent.tokens import Row, tokenize

BOS, EOS = 256, 257


class ByteTokenizer:
    """One id per byte, so that a test can read rows."""

    bos_token_id: int | None = BOS
    eos_token_id: int | None = EOS
    chat_template: Any = None

    def __init__(self, *, begins: bool = False) -> None:
        self.begins = begins

    def __call__(self, text: Any, *, add_special_tokens: bool) -> dict[str, Any]:
        if isinstance(text, list):
            return {"input_ids": [list(part.encode()) for part in text]}
        begin = [BOS] if self.begins and add_special_tokens else []
        return {"input_ids": [*begin, *text.encode()]}

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        raise AssertionError(f"there is no template: {conversation} {options}")


class ChatTokenizer(ByteTokenizer):
    chat_template = "a template"

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        assert options["tokenize"] is False
        if conversation[0]["role"] == "system":
            raise ValueError("System role not supported")
        text = "".join(f"<{turn['role'][0]}>{turn['content']}</>" for turn in conversation)
        return f"^{text}" + ("<a>" if options["add_generation_prompt"] else "")


class ForgetfulTokenizer(ChatTokenizer):
    """Drops what stands before the last question, as templates of reasoning models do."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        last = max((i for i, turn in enumerate(conversation) if turn["role"] == "user"), default=0)
        rewritten = [
            {**turn, "content": "..."} if turn["role"] == "assistant" and i < last else turn
            for i, turn in enumerate(conversation)
        ]
        return super().apply_chat_template(rewritten, **options)


def text_of(row: Row, *, learnt: bool) -> str:
    chosen = row.ids[row.learnt == learnt]
    return "".join({BOS: "[BOS]", EOS: "[EOS]"}.get(i) or chr(i) for i in chosen.tolist())


def only(rows: list[Row]) -> Row:
    (row,) = rows
    return row


def test_prompt_is_given_and_completion_is_learnt_with_its_end() -> None:
    row = only(tokenize([Example("2+2=", "4")], ByteTokenizer()))
    assert text_of(row, learnt=False) == "2+2="
    assert text_of(row, learnt=True) == "4[EOS]"
    assert row.targets == 2


def test_beginning_of_sequence_stands_where_the_tokenizer_puts_it() -> None:
    row = only(tokenize([Example("", "ab")], ByteTokenizer(begins=True)))
    assert text_of(row, learnt=False) == "[BOS]"
    assert text_of(row, learnt=True) == "ab[EOS]"


def test_first_token_is_never_a_target() -> None:
    row = only(tokenize([Example("", "ab")], ByteTokenizer()))
    assert row.learnt.tolist() == [False, True, True]


def test_empty_completion_still_teaches_to_end() -> None:
    row = only(tokenize([Example("silence", "")], ByteTokenizer()))
    assert text_of(row, learnt=True) == "[EOS]"


def test_nothing_to_learn_gives_no_row() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.eos_token_id = None
    assert tokenize([Example("a prompt", "")], tokenizer) == []


TALK = Conversation(
    (
        Turn("user", "one"),
        Turn("assistant", "ONE"),
        Turn("user", "two"),
        Turn("assistant", "TWO"),
        Turn("user", "never answered"),
    )
)


def test_plain_conversation_learns_each_answer_with_its_end() -> None:
    row = only(tokenize([TALK], ByteTokenizer()))
    assert text_of(row, learnt=True) == "ONE[EOS]TWO[EOS]"
    assert text_of(row, learnt=False).startswith("User: one\n\nAssistant: User: two\n\n")


def test_template_writes_the_conversation_and_answers_are_learnt_with_their_end() -> None:
    row = only(tokenize([TALK], ChatTokenizer(begins=True)))
    assert text_of(row, learnt=True) == "ONE</>TWO</>"
    assert text_of(row, learnt=False) == "^<u>one</><a><u>two</><a>"


def test_answers_that_a_template_rewrites_are_given_and_the_last_is_learnt() -> None:
    row = only(tokenize([TALK], ForgetfulTokenizer()))
    assert text_of(row, learnt=True) == "TWO</>"
    assert text_of(row, learnt=False) == "^<u>one</><a>...</><u>two</><a>"


def test_conversation_that_begins_with_an_answer() -> None:
    talk = Conversation((Turn("assistant", "HI"), Turn("user", "x"), Turn("assistant", "Y")))
    row = only(tokenize([talk], ChatTokenizer()))
    assert text_of(row, learnt=True) == "<a>HI</>Y</>"


def test_template_that_refuses_names_the_place() -> None:
    talk = Conversation((Turn("system", "be"), Turn("assistant", "x")), place="a.jsonl:7")
    with pytest.raises(
        DataError, match=r"a\.jsonl:7: the model's chat template refuses it: System"
    ):
        tokenize([talk], ChatTokenizer())


def test_overlong_completion_is_cut_at_its_end_and_overlong_prompt_at_its_beginning() -> None:
    row = only(tokenize([Example("p" * 6 + "q", "abcdefgh")], ByteTokenizer()))
    cut = row.cut(10)
    assert text_of(cut, learnt=False) == "ppppq"
    assert text_of(cut, learnt=True) == "abcde"
    short_answer = only(tokenize([Example("0123456789", "ab")], ByteTokenizer()))
    assert text_of(short_answer.cut(8), learnt=False) == "56789"
    assert text_of(short_answer.cut(8), learnt=True) == "ab[EOS]"
    assert row.cut(100) is row


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 45))
@settings(deadline=None, max_examples=200)
def test_cut_rows_are_windows_that_fit_and_never_learn_their_first(
    learnt: list[bool], max_tokens: int
) -> None:
    row = Row(
        np.arange(len(learnt), dtype=np.int32), np.array([False, *learnt[1:]], dtype=np.bool_)
    )
    cut = row.cut(max_tokens)
    assert len(cut.ids) == len(cut.learnt) == min(len(row.ids), max_tokens)
    assert (np.diff(cut.ids) == 1).all()
    assert not cut.learnt[0]
    assert not (cut.learnt & ~row.learnt[cut.ids]).any()
