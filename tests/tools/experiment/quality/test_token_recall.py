from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.experiment.quality.token_recall import token_recall

REFERENCE = (7, 3, 9, 1, 4, 8, 2, 5)


@pytest.mark.parametrize(
    ("order", "recall"),
    [
        ((3, 7, 1, 4, 8, 2, 5, 9), 1.0),
        ((3, 9, 1, 4, 8, 2, 5, 7), 0.5),
        ((9, 1, 4, 8, 2, 5, 3, 7), 0.0),
    ],
)
def test_recall_is_the_share_of_the_sensitive_that_is_kept(
    order: tuple[int, ...], recall: float
) -> None:
    assert token_recall(REFERENCE, order, sensitive=0.25, kept=0.5) == recall


@given(st.sets(st.integers(0, 4095), min_size=1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_reference_keeps_what_it_can_and_all_is_recalled_where_all_is_kept(
    ids: set[int], sensitive: float, kept: float
) -> None:
    order = tuple(sorted(ids, reverse=True))
    if kept >= sensitive:
        assert token_recall(order, order, sensitive=sensitive, kept=kept) == 1
    assert token_recall(order, order[::-1], sensitive=sensitive, kept=1) == 1


def test_a_lot_keeps_its_share_on_average() -> None:
    ids = list(range(400))
    lot = random.Random(1)
    found = [token_recall(ids, lot.sample(ids, len(ids)), kept=0.5) for _ in range(200)]
    assert sum(found) / len(found) == pytest.approx(0.5, abs=0.02)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="same text"):
        token_recall(REFERENCE, REFERENCE[:-1])
    with pytest.raises(ValueError, match="same text"):
        token_recall((), ())
    with pytest.raises(ValueError, match="above 0"):
        token_recall(REFERENCE, REFERENCE, kept=0.0)
