"""Padding, shifted targets and the seeded order."""

from itertools import islice

import numpy as np
import pytest

from agent.batches import UNLEARNT, draws, pad
from agent.tokens import Row


def row(ids: list[int], learnt: list[int]) -> Row:
    return Row(np.array(ids, dtype=np.int32), np.array(learnt, dtype=np.bool_))


def test_targets_are_the_next_tokens_where_they_are_learnt() -> None:
    batch = pad([row([5, 6, 7, 8], [0, 0, 1, 1]), row([9, 3], [0, 1])])
    assert batch.inputs.tolist() == [[5, 6, 7], [9, 0, 0]]
    no = UNLEARNT
    assert batch.targets.tolist() == [[no, 7, 8], [3, no, no]]


@pytest.mark.parametrize(("examples", "rows"), [(10, 3), (3, 10), (4, 4), (1, 2)])
def test_every_example_is_drawn_once_per_pass(examples: int, rows: int) -> None:
    drawn = np.concatenate(list(islice(draws(examples, rows=rows, seed=1), 20)))
    passes = drawn[: len(drawn) // examples * examples].reshape(-1, examples)
    assert (np.sort(passes, axis=1) == np.arange(examples)).all()


def test_the_seed_decides_the_order() -> None:
    def first(seed: int) -> list[int]:
        return next(draws(100, rows=100, seed=seed)).tolist()

    assert first(1) == first(1)
    assert first(1) != first(2)
