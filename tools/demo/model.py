"""The demo's use of the model: make the initial adapter, evaluate the final one as a user would."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.demo.errors import BadInput
from tools.demo.options import ALPHA, PLAN, RANK
from tools.demo.report import Score

# Rows that go through the model together: enough to keep two cores busy, some MB of activations.
_ROWS_AT_ONCE = 16
# Most held-out rows of one device that are evaluated: a large file should not take minutes.
_ROWS = 256


def make_adapter(model: str, out: Path) -> None:
    """Write the adapter of version 0 for a base model.

    Raises:
        BadInput: There is no such model, or no adapter fits it.
    """
    from agent.adapter import AdapterError, make_initial_adapter
    from agent.base import BaseError
    from agent.quantized import hide_others

    hide_others(None)  # the demo's base model is held in full; what is not used says a lot
    # Deprecations that libraries announce to each other are nothing to this command's user.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        make_initial_adapter(
            model, out, rank=RANK, alpha=ALPHA, target_modules="all-linear", seed=0
        )
    except (BaseError, AdapterError) as error:
        raise BadInput(f"--model {model}: {error}") from error


def evaluate_adapter(
    model: str, adapter: Path, heldout: Sequence[Path]
) -> list[tuple[Score, Score]]:
    """Return, for each held-out file, how the base model does and how it does with the adapter.

    The adapter is loaded by `PeftModel.from_pretrained`, as any user of it would.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from agent.adapter import load_peft_folder
    from agent.base import locate_base
    from agent.data import load_examples
    from agent.evaluate import chosen, evaluate
    from agent.tokens import tokenize

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Threads that wait for each other on cores that others use as well take ten times as long.
    torch.set_num_threads(1)
    folder = locate_base(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    devices = []
    for path in heldout:
        rows = chosen(tokenize(load_examples(path), tokenizer), _ROWS)
        devices.append([row.cut(PLAN.max_tokens) for row in rows])

    def scores(evaluated: Any) -> list[Score]:
        found = [evaluate(evaluated, rows, rows_at_once=_ROWS_AT_ONCE) for rows in devices]
        return [Score(each.loss, each.correct / each.tokens, each.tokens) for each in found]

    before = scores(base)
    return list(zip(before, scores(load_peft_folder(base, adapter)), strict=True))
