"""A model that reads fewer tokens: what it reads, how it is scored, and what the rows say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tools.bench.inference import (
    NEW_TOKENS,
    Latency,
    measure,
    median_interval,
    quality,
    reductions,
)
from tools.bench.reader import NOTHING, Reader, Reduction
from tools.bench.reading import Opened
from tools.bench.token_reduction import Positions, Selection

pytestmark = pytest.mark.torch

ALL = tuple(Selection)


@pytest.mark.parametrize("selection", [each for each in ALL if each is not Selection.NONE])
@pytest.mark.parametrize("positions", Positions)
def test_reading_all_tokens_by_any_choice_is_reading_the_prompt(
    reader: Reader, opened: Opened, selection: Selection, positions: Positions
) -> None:
    """Which also compares both kinds of positions, and the shift of the answer."""
    whole = quality(reader, opened.prompts, NOTHING)
    same = quality(reader, opened.prompts, Reduction(selection, positions, 1.0))
    assert same.loss == pytest.approx(whole.loss, rel=1e-5)
    assert same.accuracy == whole.accuracy


def test_the_quality_of_a_whole_prompt_is_the_models_own_loss(
    reader: Reader, opened: Opened
) -> None:
    prompt = opened.prompts[0]
    ids = torch.from_numpy(np.concatenate([prompt.ids, prompt.answer]))[None]
    labels = ids.clone()
    labels[:, : len(prompt.ids)] = -100
    with torch.no_grad():
        loss = float(reader.model.base(input_ids=ids, labels=labels).loss)
    assert quality(reader, [prompt], NOTHING).loss == pytest.approx(loss, rel=1e-5)


def test_rows_compare_every_way_with_the_whole_prompt(reader: Reader, opened: Opened) -> None:
    ways = [NOTHING, Reduction(Selection.RANDOM, Positions.COMPACTED, 0.5, 16)]
    rows = measure(reader, opened.prompts, ways=ways, on_progress=lambda _text, _share: None)
    assert [(row.selection, row.new_tokens) for row in rows] == [
        (way.selection.value, count) for way in ways for count in NEW_TOKENS
    ]
    first = rows[0]
    assert (first.end_to_end_speedup, first.relative_loss_change) == (1.0, 0.0)
    assert not first.reached
    assert all(row.end_to_end_ms >= row.prefill_ms > 0 for row in rows)
    assert rows[-1].span_tokens == 16
    expected = quality(reader, opened.prompts, ways[1]).loss / first.answer_loss - 1
    assert rows[-1].relative_loss_change == pytest.approx(expected)


def test_all_ways_are_different_and_begin_with_the_whole_prompt() -> None:
    ways = reductions((0.9, 0.5))
    assert ways[0] == NOTHING
    assert len(set(ways)) == len(ways)
    assert {way.selection for way in ways} == set(Selection)


def test_further_tokens_add_to_the_first() -> None:
    latency = Latency(np.array([1.0]), np.array([[0.5, 0.25]]))
    assert latency.end_to_end(1).tolist() == [1.0]
    assert latency.end_to_end(3).tolist() == [1.75]


def test_an_interval_holds_its_median() -> None:
    median, low, high = median_interval(np.array([1.0, 2, 3, 4, 50]))
    assert median == 3
    assert low <= median <= high
