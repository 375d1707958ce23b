"""A model that reads prompts in part: its tables, and what it chooses by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.tokens import Row
from tools.bench.reader import (
    Prompt,
    Reader,
    Reduction,
    choose,
    distances,
    first_layer_attention,
)
from tools.bench.reading import Opened
from tools.bench.token_reduction import Positions, Selection

pytestmark = pytest.mark.torch


def test_a_row_is_a_prompt_and_its_answer() -> None:
    row = Row(ids=np.arange(5, dtype=np.int32), learnt=np.array([False, False, False, True, True]))
    prompt = Prompt.of(row)
    assert prompt.ids.tolist() == [0, 1, 2]
    assert prompt.answer.tolist() == [3, 4]


def test_training_leaves_tables_that_tell_ids_apart(reader: Reader) -> None:
    assert reader.steps == 2
    assert np.ptp(reader.scores) > 0
    assert np.ptp(reader.input_scores) >= 0
    assert (reader.scores >= 0).all()


def test_tables_choose_by_id(reader: Reader) -> None:
    ids = np.arange(100, 130)
    half = Reduction(Selection.SCORES, Positions.ORIGINAL, 0.5)
    chosen = choose(reader, ids, half, seed=0)
    assert len(chosen) == 15
    best = 1 + int(np.argmax(reader.scores[ids[1:-4]]))
    assert best in chosen


def test_first_layer_attention_is_the_models_own(reader: Reader, opened: Opened) -> None:
    """As the eager implementation gives it."""
    ids = opened.prompts[0].ids
    base = reader.model.base
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")
    with torch.no_grad():
        attention = base(input_ids=torch.from_numpy(ids)[None], output_attentions=True).attentions
    base.set_attn_implementation(before)
    received = attention[0][0].mean(dim=0).sum(dim=0).numpy() / np.arange(len(ids), 0, -1)
    assert first_layer_attention(base, ids) == pytest.approx(received, rel=1e-3)


def test_distances_are_counted_from_the_prompts_end() -> None:
    assert distances(18).tolist() == [1, 1, *[0] * 16]
    assert distances(5000).max() == distances(4000).max()
