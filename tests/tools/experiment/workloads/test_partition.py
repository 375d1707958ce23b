from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.experiment.workloads.partition import (
    TooFewItems,
    class_entropy,
    deal,
    partition,
)
from tools.experiment.workloads.workload import Item, Workload

LABELS = [number % 7 for number in range(1400)]
ALPHAS = (0.05, 0.1, 0.5, 1.0, math.inf)


def entropies(alpha: float) -> list[float]:
    return [
        class_entropy([LABELS[index] for index in share])
        for seed in range(3)
        for share in partition(LABELS, clients=20, alpha=alpha, seed=seed)
    ]


@settings(deadline=None, max_examples=80)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=150),
    clients=st.integers(1, 20),
    alpha=st.sampled_from([0.001, *ALPHAS, 100.0]),
    seed=st.integers(0, 2**32),
    least=st.integers(1, 4),
)
def test_every_item_is_given_once_and_sizes_are_sensible(
    labels: list[int], clients: int, alpha: float, seed: int, least: int
) -> None:
    if len(labels) < least * clients:
        with pytest.raises(TooFewItems, match="fewer clients"):
            partition(labels, clients=clients, alpha=alpha, seed=seed, least=least)
        return
    shares = partition(labels, clients=clients, alpha=alpha, seed=seed, least=least)
    assert len(shares) == clients
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(labels)))
    mean = len(labels) / clients
    for share in shares:
        assert max(least, mean // 2) <= len(share) <= max(least, math.ceil(2 * mean))
        assert share.tolist() == sorted(share.tolist())


def test_the_same_seed_gives_the_same_clients_and_another_gives_others() -> None:
    one, again, other = (partition(LABELS, clients=9, alpha=0.1, seed=s) for s in (4, 4, 5))
    assert all(map(np.array_equal, one, again))
    assert not all(map(np.array_equal, one, other))


def test_a_smaller_alpha_gives_clients_of_fewer_classes() -> None:
    means = [fmean(entropies(alpha)) for alpha in ALPHAS]
    assert means == sorted(means)
    assert means[0] < 0.8, "one class has most of a client"
    assert means[-1] > 0.95 * math.log2(7), "without regard to the labels, all classes alike"


def test_at_a_tenth_one_or_two_classes_dominate_nearly_every_client() -> None:
    shares = partition(LABELS, clients=20, alpha=0.1, seed=0)
    counts = [np.sort(np.bincount([LABELS[i] for i in share], minlength=7)) for share in shares]
    assert fmean(float(count[-2:].sum() / count.sum()) for count in counts) > 0.8


@pytest.mark.parametrize(("clients", "alpha"), [(0, 1.0), (3, 0.0), (3, -1.0), (3, math.nan)])
def test_what_is_not_positive_is_refused(clients: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        partition(LABELS, clients=clients, alpha=alpha, seed=0)


def test_a_client_has_all_parts_of_its_records_and_no_held_out_item() -> None:
    train = tuple(
        Item("", f"{record} {part}", record % 3, str(record), record=record, part=part)
        for record in range(60)
        for part in range(1 + record % 4)
    )
    heldout = (Item("", "kept apart", 0, "h", record=99),)
    workload = Workload("w", ("a", "b", "c"), train, heldout, ())
    shares = deal(workload, clients=7, alpha=0.1, seed=0)
    assert sorted(item.answer for share in shares for item in share) == sorted(
        item.answer for item in train
    )
    owners = [{item.record for item in share} for share in shares]
    assert sum(map(len, owners)) == 60, "no record is shared"


def test_entropy_is_in_bits() -> None:
    assert class_entropy([3, 3, 3]) == 0
    assert class_entropy([0, 1, 2, 3]) == pytest.approx(2)
