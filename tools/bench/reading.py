"""Makes what `fedfstq bench inference` measures: a base model, a workload's rows and prompts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from agent.adapter import AdaptedModel
from agent.base import locate_base
from agent.data import Example
from agent.tokens import Row, Tokenizer, tokenize
from tools.bench.fleet import FloatArray
from tools.bench.reader import Prompt
from tools.bench.subjects import adapted
from tools.experiment.workloads.opening import open_workload
from transport.control import TrainingPlan


@dataclass(frozen=True, slots=True)
class Setting:
    """What is read by what.

    Attributes:
        model: Folder or hub name of the base model.
        workload: Its name.
        data: The folder of the data sets; None where the workload needs none.
        prompts: How many held-out prompts.
        plan: Of the adapter's training; prompts with their answers are cut to its max_tokens.
    """

    model: str
    workload: str
    data: Path | None
    prompts: int
    plan: TrainingPlan

    @property
    def name(self) -> str:
        """The model's name for tables."""
        return Path(self.model).name


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is to be trained, what on, and what it is to read."""

    model: AdaptedModel
    start: FloatArray
    rows: tuple[Row, ...]
    prompts: tuple[Prompt, ...]


def open_setting(setting: Setting) -> Opened:
    """Load the model, and cut the workload's texts.

    Raises:
        BaseError: There is no such model.
        DataError: There is no such workload, or its files are missing.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries to each other
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  # slow
    from transformers.utils import logging  # noqa: PLC0415  # the same

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = locate_base(setting.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    longest = setting.plan.max_tokens
    workload = open_workload(setting.workload, setting.data, tokenizer, max_tokens=longest)
    asked = workload.question_sample(setting.prompts)
    questions = [Example(each.prompt, each.answer) for each in asked]
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    base.requires_grad_(requires_grad=False)
    model, start = adapted(base.eval(), folder)
    return Opened(
        model,
        start,
        _rows([item.example for item in workload.train], tokenizer, longest),
        tuple(Prompt.of(row) for row in _rows(questions, tokenizer, longest)),
    )


def with_steps(plan: TrainingPlan, steps: int) -> TrainingPlan:
    """Return a plan of so many steps, the token mask on."""
    return replace(plan, local_steps=steps, mask="hard")


def _rows(examples: Sequence[Example], tokenizer: Tokenizer, longest: int) -> tuple[Row, ...]:
    cut = (row.cut(longest) for row in tokenize(examples, tokenizer))
    return tuple(row for row in cut if row.targets)
