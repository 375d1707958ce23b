"""Lets a model go on from prompts, greedily, no further than a number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agent.data import Example
from agent.tokens import IdArray, Tokenizer, tokenize


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote.

    Attributes:
        text: Without the end of the sequence.
        ended: Whether the model ended it, and not the number of tokens.
    """

    text: str
    ended: bool


def prompt_ids(prompt: str, tokenizer: Tokenizer, *, most: int) -> IdArray:
    """Return a prompt's last tokens, at most this many, as rows that learn its answer have them."""
    rows = tokenize([Example(prompt, "answer")], tokenizer)
    ids = rows[0].ids[: int(np.argmax(rows[0].learnt))]
    return ids[-most:]


def write(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    prompt_tokens: int,
    new_tokens: int,
    rows_at_once: int,
    on_part: Callable[[], None] = lambda: None,
) -> list[Written]:
    """Return what the model writes after each prompt, always the token that is most likely.

    Args:
        model: A Hugging Face causal language model in evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer.
        prompts: None of them empty.
        prompt_tokens: Most tokens of a prompt; its end is what is kept.
        new_tokens: Most tokens to write.
        rows_at_once: Prompts that go through the model together.
        on_part: Called before each such part; what it raises ends the writing.
    """
    rows = [prompt_ids(prompt, tokenizer, most=prompt_tokens) for prompt in prompts]
    # Prompts of like length pad each other least.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    written: dict[int, Written] = {}
    for first in range(0, len(order), rows_at_once):
        on_part()
        part = order[first : first + rows_at_once]
        texts = _write_part(model, tokenizer, [rows[index] for index in part], new_tokens)
        written.update(zip(part, texts, strict=True))
    return [written[index] for index in range(len(rows))]


@torch.no_grad()
def _write_part(
    model: Any, tokenizer: Any, rows: Sequence[IdArray], new_tokens: int
) -> list[Written]:
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    seen = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        seen[index, width - len(row) :] = 1
    end = tokenizer.eos_token_id
    output = model.generate(
        input_ids=torch.from_numpy(ids).to(model.device),
        attention_mask=torch.from_numpy(seen).to(model.device),
        do_sample=False,
        num_beams=1,
        max_new_tokens=new_tokens,
        eos_token_id=end,
        pad_token_id=end if end is not None else 0,
    )
    return [_read(row, tokenizer) for row in output[:, width:].cpu().tolist()]


def _read(ids: Sequence[int], tokenizer: Any) -> Written:
    end = tokenizer.eos_token_id
    ended = end in ids
    kept = ids[: ids.index(end)] if ended else ids
    return Written(tokenizer.decode(kept, skip_special_tokens=True), ended)
