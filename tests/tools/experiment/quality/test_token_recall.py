from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.experiment.quality.token_recall import kept_types, token_recall

SCORES = [0.0, 5.0, 1.0, 4.0, 2.0, 3.0]  # ids 1, 3 are the upper two fifths of those seen


def mask(*ids: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.isin(np.arange(len(SCORES)), ids)


@pytest.mark.parametrize(
    ("kept", "recall"), [((1, 3), 1.0), ((1, 0), 0.5), ((4, 5, 0), 0.0), ((0, 1, 2, 3, 4, 5), 1.0)]
)
def test_recall_is_the_share_of_the_sensitive_that_is_kept(
    kept: tuple[int, ...], recall: float
) -> None:
    assert token_recall(SCORES, mask(*kept), share=0.4) == recall


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.sampled_from([0.1, 0.5, 1.0]))
def test_a_run_that_keeps_its_own_highest_scores_recalls_them_all(
    scores: list[float], share: float
) -> None:
    kept = kept_types(scores, share=share)
    if any(scores):
        assert token_recall(scores, kept, share=share) == 1
    assert not kept[np.asarray(scores) == 0].any(), "what was never seen is no token to keep"


def test_the_earlier_of_equal_scores_is_kept() -> None:
    assert kept_types([1.0, 1.0, 1.0, 1.0], share=0.5).tolist() == [True, True, False, False]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="not comparable"):
        token_recall(SCORES, mask(1)[:3], share=0.5)
    with pytest.raises(ValueError, match="no token"):
        token_recall([0.0] * 6, mask(1), share=0.5)
    with pytest.raises(ValueError, match="above 0"):
        kept_types(SCORES, share=0.0)
