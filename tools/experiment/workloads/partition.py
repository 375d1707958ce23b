"""Deals labelled items to clients: Dirichlet over the labels, like sizes, every item once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tools.experiment.workloads.workload import Item, Workload

IndexArray = npt.NDArray[np.intp]

_FITTING_PASSES = 200
_LEAST_LOG_SHARE = -60.0  # shares below 1e-26 are scaled to nothing by any fitting


class TooFewItems(Exception):
    """There are not enough items for so many clients; the line says how many there are."""


def partition(
    labels: Sequence[int], *, clients: int, alpha: float, seed: int, least: int = 1
) -> tuple[IndexArray, ...]:
    """Return each client's indices into `labels`, sorted; every index is given exactly once.

    Each client draws a mixture of classes from Dir(alpha · C · p) over the C classes, p being their
    shares of all items, so that with classes of like size every parameter is alpha. The mixtures
    are scaled until they use up every class, and no client has less than half or more than twice
    the mean number of items.

    Args:
        labels: Each item's class.
        clients: How many clients, ≥ 1.
        alpha: Above 0; infinity deals without regard to the labels.
        seed: Of mixtures and draws.
        least: Items that every client must have at least, whatever half the mean is.

    Raises:
        TooFewItems: There are fewer than `least` items per client.

    Source: mixtures per client as in Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data
    Distribution for Federated Visual Classification" (2019), section 3; scaling by Deming and
    Stephan's iterative proportional fitting (1940).
    """
    if clients < 1 or not alpha > 0:
        raise ValueError(f"clients is {clients} and alpha {alpha}; both must be positive")
    if len(labels) < least * clients:
        raise TooFewItems(
            f"{clients} clients need at least {least} records each, and there are {len(labels)}: "
            "ask for fewer clients"
        )
    generator = np.random.default_rng([seed, clients])
    if math.isinf(alpha):
        order = generator.permutation(len(labels))
        return tuple(np.sort(order[client::clients]) for client in range(clients))
    _, classes = np.unique(np.asarray(labels, dtype=np.int64), return_inverse=True)
    stock = np.bincount(classes)
    mixtures = np.stack(
        [_dirichlet(alpha * len(stock) * stock / len(labels), generator) for _ in range(clients)]
    )
    lowest = max(least, len(labels) // (2 * clients))
    highest = max(lowest, -(-2 * len(labels) // clients))
    counts = _rounded(_fitted(mixtures, stock, lowest=lowest, highest=highest), stock)
    _keep_within(counts, lowest=lowest, highest=highest)
    given: list[list[IndexArray]] = [[] for _ in range(clients)]
    for number in range(len(stock)):
        members = generator.permutation(np.flatnonzero(classes == number))
        for client, part in enumerate(np.split(members, np.cumsum(counts[:-1, number]))):
            given[client].append(part)
    return tuple(np.sort(np.concatenate(parts)) for parts in given)


def deal(
    workload: Workload, *, clients: int, alpha: float, seed: int, least: int = 1
) -> tuple[tuple[Item, ...], ...]:
    """Return each client's items to train on: whole records, dealt by `partition`.

    Args:
        workload: Whose items are dealt.
        clients: How many clients, ≥ 1.
        alpha: Of the Dirichlet distribution over the workload's classes.
        seed: The same seed, the same clients.
        least: Records that every client must have.

    Raises:
        TooFewItems: There are fewer than `least` records per client.
    """
    records: dict[int, list[Item]] = {}
    for item in workload.train:
        records.setdefault(item.record, []).append(item)
    members = list(records.values())
    labels = [items[0].label for items in members]
    dealt = partition(labels, clients=clients, alpha=alpha, seed=seed, least=least)
    return tuple(tuple(item for index in given for item in members[index]) for given in dealt)


def class_entropy(labels: Sequence[int]) -> float:
    """Return the entropy of a client's labels in bits: 0 for one class, log2 C for C alike."""
    _, counts = np.unique(np.asarray(labels, dtype=np.int64), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _dirichlet(
    parameters: npt.NDArray[np.float64], generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw a mixture whose every class has a share above 0, however small alpha is."""
    # Gamma(a) is Gamma(a + 1) · U^(1/a); as logarithms it knows no underflow.
    gammas = generator.gamma(parameters + 1)
    uniforms = 1 - generator.random(len(parameters))  # (0, 1]
    logarithms = np.log(gammas) + np.log(uniforms) / parameters
    mixture: npt.NDArray[np.float64] = np.exp(
        np.maximum(logarithms - logarithms.max(), _LEAST_LOG_SHARE)
    )
    mixture /= mixture.sum()
    return mixture


def _fitted(
    mixtures: npt.NDArray[np.float64], stock: IndexArray, *, lowest: int, highest: int
) -> npt.NDArray[np.float64]:
    """Scale rows into their bounds and columns to their sums, in turn; the columns come last."""
    counts: npt.NDArray[np.float64] = mixtures * (stock.sum() / len(mixtures))
    for _ in range(_FITTING_PASSES):
        sizes = counts.sum(axis=1)
        counts *= (np.clip(sizes, lowest, highest) / sizes)[:, None]
        counts *= stock / counts.sum(axis=0)
    return counts


def _rounded(counts: npt.NDArray[np.float64], stock: IndexArray) -> IndexArray:
    """Round each column to whole items with its sum, the largest remainders up."""
    whole = np.floor(counts).astype(np.intp)
    for number in range(len(stock)):
        lacking = int(stock[number] - whole[:, number].sum())
        remainders = counts[:, number] - whole[:, number]
        whole[np.argsort(-remainders, kind="stable")[:lacking], number] += 1
    return whole


def _keep_within(counts: IndexArray, *, lowest: int, highest: int) -> None:
    """Move single items from the largest client to the smallest while a size is out of bounds."""
    while True:
        sizes = counts.sum(axis=1)
        rich, poor = int(sizes.argmax()), int(sizes.argmin())
        if sizes[poor] >= lowest and sizes[rich] <= highest:
            return
        # What both have most of, so that the mixtures change least.
        able = np.where(counts[rich] > 0, counts[poor], -1)
        chosen = int(np.argmax(able * (counts.max() + 1) + counts[rich]))
        counts[rich, chosen] -= 1
        counts[poor, chosen] += 1
