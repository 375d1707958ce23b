"""Turns examples into rows of token ids that know which of their tokens are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from agent.data import AnyExample, Conversation, DataError, Example

IdArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

# How many texts the tokenizer is given at once: enough to keep it busy, little to hold.
_TEXTS_AT_ONCE = 2048


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    chat_template: Any

    def __call__(self, text: Any, *, add_special_tokens: bool) -> Any:
        """Return a mapping whose "input_ids" are the text's, or one list per text of a list."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Return the conversation as the model was taught to read it."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One example as tokens.

    Attributes:
        ids: int32 (tokens,), token ids.
        learnt: bool (tokens,), True where the token is a target; the first never is, since
            nothing stands before it.
    """

    ids: IdArray
    learnt: BoolArray

    @property
    def targets(self) -> int:
        """How many of its tokens are learnt."""
        return int(np.count_nonzero(self.learnt))

    def cut(self, max_tokens: int) -> Row:
        """Return the row with at most this many tokens.

        An overlong row loses the beginning of its leading prompt first, down to half of
        `max_tokens` (what stands nearest to the answer says most about it), and then the end of
        what is learnt, with its end-of-sequence: a text that goes on does not end there.
        """
        length = len(self.ids)
        if length <= max_tokens:
            return self
        prompt = int(np.argmax(self.learnt)) if self.learnt.any() else length
        kept = min(prompt, max(max_tokens // 2, max_tokens - (length - prompt)))
        window = slice(prompt - kept, prompt - kept + max_tokens)
        learnt = self.learnt[window].copy()
        learnt[0] = False
        return Row(self.ids[window], learnt)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of text that is either learnt or not, with or without an end of sequence."""

    text: str
    learnt: bool
    ends: bool = False


def tokenize(examples: Sequence[AnyExample], tokenizer: Tokenizer) -> list[Row]:
    """Return one uncut row per example that has anything to learn.

    The beginning-of-sequence token stands where the tokenizer itself puts it; the end-of-sequence
    token follows every completion and is learnt. Conversations are written by the tokenizer's chat
    template where it has one, else as "Role: content" with an end of sequence after each answer.

    Args:
        examples: What `agent.data` has read.
        tokenizer: The base model's.

    Raises:
        DataError: The chat template refuses a conversation.
    """
    begin = _begin_ids(tokenizer)
    rows: list[Row] = []
    pieces = [_pieces(example, tokenizer) for example in examples]
    ids = iter(_encode([piece.text for parts, _ in pieces for piece in parts], tokenizer))
    for parts, templated in pieces:
        # A chat template writes the beginning of the sequence itself.
        tokens, learnt = ([], []) if templated else (list(begin), [False] * len(begin))
        for piece in parts:
            piece_ids = next(ids)
            if piece.ends and tokenizer.eos_token_id is not None:
                piece_ids = [*piece_ids, tokenizer.eos_token_id]
            tokens += piece_ids
            learnt += [piece.learnt] * len(piece_ids)
        if any(learnt[1:]):
            learnt[0] = False
            rows.append(Row(np.array(tokens, dtype=np.int32), np.array(learnt, dtype=np.bool_)))
    return rows


def _begin_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that the tokenizer puts before a text: its beginning of sequence, or none."""
    ids = tokenizer("", add_special_tokens=True)["input_ids"]
    begins = tokenizer.bos_token_id is not None and list(ids[:1]) == [tokenizer.bos_token_id]
    return list(ids[:1]) if begins and tokenizer.bos_token_id != tokenizer.eos_token_id else []


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    encoded: list[list[int]] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        batch = list(texts[start : start + _TEXTS_AT_ONCE])
        encoded += tokenizer(batch, add_special_tokens=False)["input_ids"]
    return encoded


def _pieces(example: AnyExample, tokenizer: Tokenizer) -> tuple[list[_Piece], bool]:
    """Return the example's pieces, and whether a chat template wrote them."""
    match example:
        case Example(prompt=prompt, completion=completion):
            return [_Piece(prompt, learnt=False), _Piece(completion, learnt=True, ends=True)], False
        case Conversation():
            if tokenizer.chat_template:
                return _templated(example, tokenizer), True
            return _plain(example), False


def _plain(conversation: Conversation) -> list[_Piece]:
    pieces: list[_Piece] = []
    for turn in conversation.turns:
        head = f"{turn.role.capitalize()}: "
        if turn.role == "assistant":
            pieces.append(_Piece(head, learnt=False))
            pieces.append(_Piece(turn.content, learnt=True, ends=True))
        else:
            pieces.append(_Piece(f"{head}{turn.content}\n\n", learnt=False))
    return pieces


def _templated(conversation: Conversation, tokenizer: Tokenizer) -> list[_Piece]:
    """Cut what the template writes at the ends of the turns: each answer is learnt, with its end.

    A template may rewrite earlier turns once later ones follow (some drop an answer's reasoning);
    such answers stand among what is given, and only the last one is learnt.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in conversation.turns]
    last = max(i for i, turn in enumerate(conversation.turns) if turn.role == "assistant")
    whole = _render(messages[: last + 1], tokenizer, conversation.place)
    pieces: list[_Piece] = []
    done = 0
    for index, turn in enumerate(conversation.turns[: last + 1]):
        if turn.role != "assistant":
            continue
        answer = _render(messages[: index + 1], tokenizer, conversation.place)
        given = _given(messages[:index], answer, tokenizer, conversation.place)
        if given is None or given < done or not whole.startswith(answer):
            continue
        pieces.append(_Piece(whole[done:given], learnt=False))
        pieces.append(_Piece(answer[given:], learnt=True))
        done = len(answer)
    return pieces


def _given(
    messages: list[dict[str, str]], answer: str, tokenizer: Tokenizer, place: str
) -> int | None:
    """Return how many characters of `answer` stand before what the assistant is to say.

    None where the template writes the earlier turns otherwise once the answer follows.
    """
    if not messages:
        return 0
    for begins_answer in (True, False):
        prompt = _render(messages, tokenizer, place, begins_answer=begins_answer)
        if answer.startswith(prompt):
            return len(prompt)
    return None


def _render(
    messages: list[dict[str, str]],
    tokenizer: Tokenizer,
    place: str,
    *,
    begins_answer: bool = False,
) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=begins_answer
        )
    except Exception as error:  # a template is a program: anything may go wrong
        raise DataError(f"{place}: the model's chat template refuses it: {error}") from error
    return text
