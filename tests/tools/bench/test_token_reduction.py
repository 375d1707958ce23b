"""Which tokens of a prompt stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agent.mask import keep_count
from tools.bench.token_reduction import (
    HEAD,
    TAIL,
    Positions,
    kept,
    next_position,
    of_spans,
    position_ids,
    random_scores,
)

SCORES = arrays.arrays(np.float64, st.integers(1, 80), elements=st.floats(0, 1e6))


@settings(deadline=None, max_examples=80)
@given(SCORES, st.floats(0.01, 1))
def test_the_promised_number_stays_in_order_with_head_and_tail(
    scores: npt.NDArray[np.float64], ratio: float
) -> None:
    tokens = len(scores)
    indices = kept(scores, ratio=ratio)
    assert len(indices) == max(keep_count(tokens, ratio), min(tokens, HEAD + TAIL))
    assert (np.diff(indices) > 0).all()
    assert set(range(min(HEAD, tokens))) <= set(indices.tolist())
    assert set(range(max(0, tokens - TAIL), tokens)) <= set(indices.tolist())


@settings(deadline=None, max_examples=80)
@given(SCORES, st.floats(0.01, 1))
def test_what_stays_between_head_and_tail_scores_no_less_than_what_goes(
    scores: npt.NDArray[np.float64], ratio: float
) -> None:
    indices = set(kept(scores, ratio=ratio).tolist())
    middle = range(HEAD, max(HEAD, len(scores) - TAIL))
    stays = [scores[place] for place in middle if place in indices]
    goes = [scores[place] for place in middle if place not in indices]
    assert not stays or not goes or min(stays) >= max(goes)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.floats(0.01, 0.9), st.floats(0.01, 0.1))
def test_a_lower_ratio_keeps_a_part_of_what_a_higher_one_keeps(
    scores: npt.NDArray[np.float64], ratio: float, more: float
) -> None:
    assert set(kept(scores, ratio=ratio)) <= set(kept(scores, ratio=ratio + more))


def test_spans_are_counted_from_the_end_and_have_their_mean() -> None:
    assert of_spans(np.array([9.0, 1, 3, 5, 5]), span=2).tolist() == [9, 2, 2, 5, 5]


@settings(deadline=None, max_examples=60)
@given(SCORES)
def test_a_span_of_one_is_the_token(scores: npt.NDArray[np.float64]) -> None:
    assert np.array_equal(of_spans(scores, span=1), scores)


def test_random_scores_are_the_same_for_the_same_seed() -> None:
    assert np.array_equal(random_scores(9, seed=1), random_scores(9, seed=1))
    assert not np.array_equal(random_scores(9, seed=1), random_scores(9, seed=2))


@pytest.mark.parametrize(
    ("positions", "places", "after"),
    [(Positions.ORIGINAL, [0, 4, 7], 9), (Positions.COMPACTED, [0, 1, 2], 3)],
)
def test_what_is_written_stands_after_what_was_read(
    positions: Positions, places: list[int], after: int
) -> None:
    assert position_ids(np.array([0, 4, 7]), positions=positions).tolist() == places
    assert next_position(9, 3, positions=positions) == after
