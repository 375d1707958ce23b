"""Cuts long answers into items of a row's length, so that all of an answer is learnt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.tokens import Tokenizer

# A word with the white space before it: what byte-level vocabularies keep together, so that the
# parts of a text have the tokens that the whole has.
_WORD = re.compile(r"\s*\S+|\s+$")
# Most characters of a piece that is not ASCII: text without spaces, as Chinese is, is cut as well.
_PIECE_CHARS = 8
_PIECES_AT_ONCE = 4096


def pieces_of(text: str) -> list[str]:
    """Return the pieces that a text may be cut between; together they are the text."""
    return [piece for word in _WORD.findall(text) for piece in _short(word)]


def token_counts(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, int]:
    """Return how many tokens each piece of these texts has.

    Args:
        texts: Prompts and answers.
        tokenizer: The base model's.
    """
    pieces = list(dict.fromkeys(piece for text in texts for piece in pieces_of(text)))
    counts: dict[str, int] = {}
    for start in range(0, len(pieces), _PIECES_AT_ONCE):
        batch = pieces[start : start + _PIECES_AT_ONCE]
        encoded = tokenizer(batch, add_special_tokens=False)["input_ids"]
        counts.update(zip(batch, map(len, encoded), strict=True))
    return counts


def windows(
    prompt: str, answer: str, *, counts: Mapping[str, int], max_tokens: int
) -> Iterator[tuple[str, str]]:
    """Yield pairs (prompt, answer) whose rows, cut to `max_tokens`, learn all of the answer.

    Each pair's prompt is what stands before its answer and its answer what is left, as far as a row
    can tell: a row keeps the end of the prompt and the beginning of the answer, and learns the end
    of the sequence only where nothing is cut away (`agent.tokens.Row.cut`). Only of a word that is
    longer than a row's room the end is not learnt.

    Args:
        prompt: What is given; may be empty.
        answer: What is learnt.
        counts: Of the pieces of both, see `token_counts`.
        max_tokens: The rows' length.
    """
    pieces = pieces_of(prompt)
    start = len(pieces)
    before = sum(counts[piece] for piece in pieces)
    pieces += pieces_of(answer)
    left = sum(counts[piece] for piece in pieces[start:]) + 1  # and the end of the sequence
    while True:
        yield (
            "".join(reversed(_as_far(pieces[:start][::-1], counts, max_tokens))),
            "".join(_as_far(pieces[start:], counts, max_tokens)),
        )
        room = max_tokens - min(before, max(max_tokens // 2, max_tokens - left))
        if left <= room:
            return
        taken, first = 0, start
        while start < len(pieces) and (start == first or taken + counts[pieces[start]] <= room):
            taken += counts[pieces[start]]
            start += 1
        if start == len(pieces):
            return
        before, left = before + taken, left - taken


def _as_far(pieces: Sequence[str], counts: Mapping[str, int], max_tokens: int) -> Sequence[str]:
    """Return the first pieces, until they fill a row and more."""
    tokens = 0
    for number, piece in enumerate(pieces):
        if tokens > max_tokens:
            return pieces[:number]
        tokens += counts[piece]
    return pieces


def _short(word: str) -> Iterator[str]:
    if len(word) <= 2 * _PIECE_CHARS or word.isascii():
        yield word
        return
    for start in range(0, len(word), _PIECE_CHARS):
        yield word[start : start + _PIECE_CHARS]
