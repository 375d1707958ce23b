"""Scores per vocabulary id, and the masks that they make."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.mask import Mask, TokenScores, keep_count, weights

scores_of_targets = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def test_before_a_refresh_all_ids_score_alike() -> None:
    assert TokenScores(5, decay=0.9).of(np.array([0, 3])).tolist() == [1.0, 1.0]


def test_scores_are_a_bias_corrected_average_shrunk_by_counts() -> None:
    decay, prior = 0.9, 4 * 0.1
    table = TokenScores(4, decay=decay)
    table.refresh(np.array([0, 0, 1]), np.array([6.0, 2.0, 1.0]))  # mean 3
    table.refresh(np.array([1, 2]), np.array([30.0, 10.0]))  # mean 20
    sums = 0.9 * 0.1 * np.array([8 / 3, 1 / 3, 0, 0]) + 0.1 * np.array([0, 1.5, 0.5, 0])
    counts = 0.9 * 0.1 * np.array([2, 1, 0, 0]) + 0.1 * np.array([0, 1, 1, 0])
    mean = sums.sum() / counts.sum()
    expected = (sums + prior * mean) / (counts + prior)
    np.testing.assert_allclose(table.of(np.arange(4)), expected, rtol=1e-12)
    assert table.of(np.array([3]))[0] == pytest.approx(mean)


def test_a_batch_counts_the_same_whatever_its_scale() -> None:
    small, large = TokenScores(3, decay=0.5), TokenScores(3, decay=0.5)
    ids, scores = np.array([0, 1, 1]), np.array([1.0, 2.0, 3.0])
    small.refresh(ids, scores * 1e-12)
    large.refresh(ids, scores * 1e12)
    np.testing.assert_allclose(small.of(np.arange(3)), large.of(np.arange(3)), rtol=1e-12)


@pytest.mark.parametrize("scores", [[0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
def test_batch_that_says_nothing_changes_nothing(scores: list[float]) -> None:
    table = TokenScores(2, decay=0.5)
    table.refresh(np.array([0, 1]), np.array(scores))
    table.refresh(np.array([], dtype=np.int64), np.array([]))
    assert table.of(np.array([0, 1])).tolist() == [1.0, 1.0]


@given(scores_of_targets, st.floats(0.01, 1))
@settings(deadline=None, max_examples=200)
def test_hard_mask_keeps_the_share_rounded_up_of_the_highest(
    values: list[float], ratio: float
) -> None:
    scores = np.array(values)
    kept = weights(scores, mask=Mask.HARD, ratio=ratio)
    assert set(kept.tolist()) <= {0.0, 1.0}
    assert kept.sum() == keep_count(len(scores), ratio)
    if (kept == 0).any():
        assert scores[kept == 1].min() >= scores[kept == 0].max()


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
@settings(deadline=None, max_examples=200)
def test_soft_mask_weighs_as_much_as_the_hard_one_keeps(values: list[float], ratio: float) -> None:
    scores = np.array(values)
    soft = weights(scores, mask=Mask.SOFT, ratio=ratio)
    assert soft.sum(dtype=np.float64) == pytest.approx(keep_count(len(scores), ratio), rel=1e-4)
    assert (soft <= 1).all()
    assert (np.diff(soft[np.argsort(scores, kind="stable")]) >= 0).all()


def test_of_equal_scores_the_earlier_are_kept() -> None:
    assert weights(np.ones(4), mask=Mask.HARD, ratio=0.5).tolist() == [1, 1, 0, 0]


def test_soft_mask_of_scores_that_are_zero() -> None:
    assert weights(np.zeros(4), mask=Mask.SOFT, ratio=0.5).tolist() == [0.5] * 4
    one = weights(np.array([0.0, 2.0, 0.0]), mask=Mask.SOFT, ratio=0.3)
    assert one.tolist() == pytest.approx([0, 1, 0])
    shared = weights(np.array([3.0, 0.0, 0.0]), mask=Mask.SOFT, ratio=0.6)
    assert shared.tolist() == pytest.approx([1, 0.5, 0.5])


def test_no_mask_keeps_all() -> None:
    assert weights(np.array([0.0, 2.0]), mask=Mask.OFF, ratio=0.1).tolist() == [1, 1]


def test_count_is_exact_where_the_product_is_whole() -> None:
    assert [keep_count(n, 0.1) for n in (10, 11, 20, 30, 70)] == [1, 2, 2, 3, 7]
    for ratio in (0.0, 1.1):
        with pytest.raises(ValueError, match="token ratio"):
            keep_count(3, ratio)


def test_decay_is_checked() -> None:
    with pytest.raises(ValueError, match="decay"):
        TokenScores(2, decay=1.0)
