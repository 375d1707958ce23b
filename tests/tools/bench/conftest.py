"""The demo's base model with an adapter that a few steps have trained; torch is loaded on use."""
# ruff: noqa: PLC0415  # most tests beside this file need no torch

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tools.demo.options import BASE_FOLDER, PLAN
from transport.control import TrainingPlan

if TYPE_CHECKING:
    from tools.bench.reader import Reader
    from tools.bench.reading import Opened


@pytest.fixture(scope="session")
def two_steps() -> TrainingPlan:
    """Return the demo's training, of two short steps with the token mask on."""
    from tools.bench.reading import with_steps

    return with_steps(replace(PLAN, batch_size=2, max_tokens=48), 2)


@pytest.fixture(scope="module")
def opened(two_steps: TrainingPlan) -> Opened:
    """Return the demo's model, and rows and prompts of the standard library."""
    import torch

    from tools.bench.reading import Setting, open_setting

    torch.set_num_threads(1)
    return open_setting(Setting(str(BASE_FOLDER), "stdlib", None, 3, two_steps))


@pytest.fixture(scope="module")
def reader(opened: Opened, two_steps: TrainingPlan) -> Reader:
    """Return that model, trained, and its tables."""
    from tools.bench.reader import train_reader

    return train_reader(
        "stdlib",
        "demo",
        opened.model,
        opened.rows,
        start=opened.start,
        plan=two_steps,
        on_progress=lambda _text, _share: None,
    )
