"""The demo's base model really writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agent.data import Example
from agent.tokens import tokenize
from tools.demo.options import BASE_FOLDER
from tools.experiment.quality.generation import prompt_ids, write

pytestmark = pytest.mark.torch

PROMPTS = ("def read(self, size=-1):\n", "import os\nimport sys\n", "class Error(Exception):\n   ")


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  # slow
    from transformers.utils import logging  # noqa: PLC0415  # slow

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        BASE_FOLDER, dtype=torch.float32, local_files_only=True
    )
    return model.eval(), AutoTokenizer.from_pretrained(BASE_FOLDER, local_files_only=True)


def test_a_prompt_is_what_a_row_of_its_answer_begins_with(base: tuple[Any, Any]) -> None:
    row = tokenize([Example(PROMPTS[0], "pass")], base[1])[0]
    ids = prompt_ids(PROMPTS[0], base[1], most=100)
    assert ids.tolist() == row.ids[: int(np.argmax(row.learnt))].tolist()
    assert prompt_ids(PROMPTS[0], base[1], most=3).tolist() == ids[-3:].tolist()


def test_each_token_is_the_most_likely_one(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    ids = prompt_ids(PROMPTS[1], tokenizer, most=64).tolist()
    start = len(ids)
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    (written,) = write(
        model, tokenizer, PROMPTS[1:2], prompt_tokens=64, new_tokens=8, rows_at_once=1
    )
    assert tokenizer.eos_token_id not in ids[start:], "else the comparison would be shorter"
    assert written.text == tokenizer.decode(ids[start:])
    assert not written.ended


def test_prompts_side_by_side_are_answered_as_alone_and_in_their_order(
    base: tuple[Any, Any],
) -> None:
    parts: list[None] = []
    together, alone = (
        write(
            *base,
            PROMPTS,
            prompt_tokens=16,
            new_tokens=12,
            rows_at_once=rows,
            on_part=lambda: parts.append(None),
        )
        for rows in (3, 1)
    )
    assert together == alone
    assert len(parts) == 1 + 3


def test_an_answer_ends_with_the_sequence(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    end = tokenizer.eos_token_id

    class Ends:
        device = torch.device("cpu")

        def generate(self, *, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
            said = tokenizer("x = 1", add_special_tokens=False)["input_ids"]
            tail = torch.tensor([[*said, end, end]]).expand(len(input_ids), -1)
            return torch.cat([input_ids, tail], dim=1)

    (written,) = write(
        Ends(), tokenizer, PROMPTS[:1], prompt_tokens=8, new_tokens=8, rows_at_once=1
    )
    assert (written.text, written.ended) == ("x = 1", True)
    assert model.config.eos_token_id == end
