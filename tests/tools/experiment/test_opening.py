"""A trial is opened with what it asks for, or says what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tools.experiment.opening import open_trial
from tools.experiment.quality.token_recall import TOKEN_ORDER
from tools.experiment.spec import ExperimentError, ExperimentSpec

pytestmark = pytest.mark.torch
TRIAL = ExperimentSpec.model_validate(
    {
        "name": "small",
        "workloads": ["stdlib"],
        "clients": [4],
        "cohort": 2,
        "rank": 2,
        "target_modules": ["q_proj"],
        "heldout_rows": 8,
        "methods": ["fp32,mask=random"],
    }
).trials()[0]


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ExperimentError, match="device: cuda: torch finds no GPU"):
        open_trial(replace(TRIAL, device="cuda"), Path())


def test_quality_is_what_the_adapter_answers_and_how_it_orders_tokens() -> None:
    opened = open_trial(TRIAL, Path())
    start = opened.fleet.start()
    first, again = opened.quality(start), opened.quality(start)
    assert first == again
    assert len(set(first[TOKEN_ORDER])) == len(first[TOKEN_ORDER]) > 10
