"""Parts of exchangeable updates average to what the whole updates would, over seeds.

Given which segments came, E[Σ p_k Δ̃_k] = Σ p_k Δ_k, and for shares s_k the squared error of one
such mean is Σ p_k² ‖Δ_k‖² ((1 + q) / s_k - 1), where q is what quantising alone adds to a whole
update. T independent means average to an error that is √T times smaller; a bias would stay.
"""

from __future__ import annotations

import math
import random

import numpy as np

from aggregator.fedavg import ClientUpdate, federated_average
from codec.codec import Budget, Codec, Order
from codec.layout import Layout
from codec.registry import codec_named

LAYOUT = Layout.from_shapes({"a": (16, 24), "b": (24, 16)})
TRIALS = 100
DEVICES = 4
BITS = 6


def bodies_of(codec: Codec, delta: np.ndarray, seed: int) -> tuple[bytes, ...]:
    budget = Budget(update_bytes=BITS * LAYOUT.size // 8, segment_bytes=100)
    return codec.encode(delta, None, layout=LAYOUT, budget=budget, seed=seed)


def mean_of(codec: Codec, updates: list[ClientUpdate]) -> np.ndarray:
    average = federated_average(
        sorted(updates, key=lambda update: update.uid),
        codec=codec,
        layout=LAYOUT,
        max_delta_abs=100.0,
    )
    assert not average.refused
    return average.mean


def test_ten_to_a_hundred_percent_of_the_segments_give_the_same_mean() -> None:
    codec, dice = codec_named("fstq-r"), random.Random(3)
    assert codec.order is Order.EXCHANGEABLE
    rng = np.random.default_rng(5)
    # They share a direction, as deltas of one fleet do: a mean that loses a part of it shows.
    common = rng.normal(0, 0.01, LAYOUT.size)
    deltas = [
        (common + rng.normal(0, 0.01, LAYOUT.size)).astype(np.float32) for _ in range(DEVICES)
    ]
    noise = quantising_noise(codec, deltas[0])
    error, expected = np.zeros(LAYOUT.size), 0.0
    for trial in range(TRIALS):
        updates, examples = [], []
        for number, delta in enumerate(deltas):
            bodies = bodies_of(codec, delta, trial * DEVICES + number)
            count = len(bodies)
            assert count >= 5
            some = dice.sample(range(count), dice.randint(max(1, count // 10), count))
            # The last one is late by a round.
            weight = (number + 1) / math.sqrt(2 if number == DEVICES - 1 else 1)
            segments = {index: bodies[index] for index in some}
            updates.append(ClientUpdate(f"{number}", weight, count, segments))
            examples.append(weight * len(some) / count)
        weights = np.array(examples) / sum(examples)
        error += mean_of(codec, updates) - sum(
            weight * delta.astype(np.float64) for weight, delta in zip(weights, deltas, strict=True)
        )
        expected += sum(
            weight**2
            * float(np.dot(delta, delta))
            * ((1 + noise) * update.segment_count / len(update.segments) - 1)
            for weight, delta, update in zip(weights, deltas, updates, strict=True)
        )
    length = float(np.linalg.norm(common))
    root = math.sqrt(expected)
    assert root / TRIALS < 0.1 * length, "too noisy to see a bias of a tenth"
    # Some hundred coordinates: the norm is within a few percent of its root mean square.
    assert np.linalg.norm(error) < 1.3 * root
    # Along what they share, one standard deviation is a fraction of that; four are allowed.
    along = abs(float(error @ common)) / length
    assert along < 4 * root / math.sqrt(LAYOUT.size)


def quantising_noise(codec: Codec, delta: np.ndarray) -> float:
    """Return q, what whole updates differ from their delta by, relative and squared."""
    squares = 0.0
    for seed in range(20):
        bodies = bodies_of(codec, delta, 10_000 + seed)
        update = ClientUpdate("u", 1.0, len(bodies), dict(enumerate(bodies)))
        squares += float(np.sum((mean_of(codec, [update]) - delta) ** 2))
    return squares / 20 / float(np.dot(delta, delta))
