"""Federated rounds without a network: what a method's bytes buy in held-out loss. Pure.

Each round is the deployed one: the aggregator's cohort, the agents' delta and Fisher, the codec's
segments under a budget, the aggregator's weighted mean of what they decode to, and its step. All
that chance decides follows from the seed and is the same for every method: cohorts, batches, and
the seed that a client's codec is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from agent.job import device_seed
from aggregator.cohort import sample_cohort
from aggregator.fedavg import ClientUpdate, federated_average
from aggregator.server_optimizer import relative_variance, step
from codec.codec import Budget, Codec, FloatArray, Order, SumArray
from codec.errors import CodecError, InvalidInput
from codec.layout import Layout
from codec.residual import residual_after
from tools.bench.clients import Clients
from tools.bench.methods import Method

# What an aggregator believes by default.
MAX_DELTA_ABS = 100.0


class RunFailed(Exception):
    """A run cannot go on: it diverged, or its codec refused; the line says which."""


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What one client's local training gives: float32 (layout.size,) each, and its weight."""

    delta: FloatArray
    fisher: FloatArray
    num_examples: int


class Fleet(Clients, Protocol):
    """Clients with their texts, and the model that they train."""

    def train(self, client_id: str, adapter: FloatArray, *, seed: int) -> LocalUpdate:
        """Return what a client's local steps from an adapter give.

        Raises:
            RunFailed: Training diverged.
        """
        ...

    def loss(self, adapter: FloatArray) -> float:
        """Return the held-out loss over all clients, in nats per token."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What every method of an experiment shares.

    Attributes:
        rounds: Adapter versions to make.
        cohort: Clients per round.
        segment_bytes: Most bytes that one segment has.
        seed: Of cohorts, batches and codecs.
    """

    rounds: int
    cohort: int
    segment_bytes: int
    seed: int


@dataclass(frozen=True, slots=True)
class Point:
    """How far a run is after a round.

    Attributes:
        round: 0 before anything was sent.
        loss: Held-out loss in nats per token.
        bytes_up: All segments of all updates so far, headers counted.
    """

    round: int
    loss: float
    bytes_up: int


def play(method: Method, *, codec: Codec, fleet: Fleet, plan: Plan) -> Iterator[Point]:
    """Yield a point before the first round and one after each, all rounds of one run.

    Raises:
        RunFailed: The model diverged, or the codec refused the budget or its own bytes.
    """
    server = _Server(method, order=codec.order, adapter=fleet.start())
    residuals: dict[str, FloatArray] = {}
    bytes_up = 0
    yield Point(0, _finite_loss(fleet, server.adapter), 0)
    for number in range(1, plan.rounds + 1):
        updates = _updates(
            method,
            codec=codec,
            fleet=fleet,
            plan=plan,
            number=number,
            adapter=server.adapter,
            residuals=residuals,
        )
        average = federated_average(
            sorted(updates, key=lambda update: update.uid),
            codec=codec,
            layout=fleet.layout,
            max_delta_abs=MAX_DELTA_ABS,
        )
        for uid, reason in average.refused.items():
            raise RunFailed(f"round {number}: the update of {uid} was refused ({reason})")
        round_bytes = sum(len(body) for update in updates for body in update.segments.values())
        bits = 8 * round_bytes / (len(updates) * fleet.layout.size)
        server.move(average.mean, bits=bits, cohort=len(updates))
        bytes_up += round_bytes
        yield Point(number, _finite_loss(fleet, server.adapter), bytes_up)


class _Server:
    """The aggregator's side of a run: the adapter and the velocity.

    The velocity is that of FedAvgM, v ← βv + mean and Θ ← Θ + ηv: Hsu et al., "Measuring the
    Effects of Non-Identical Data Distribution for Federated Visual Classification" (2019).
    """

    def __init__(self, method: Method, *, order: Order, adapter: FloatArray) -> None:
        self._method = method
        self._order = order
        self._velocity = np.zeros(adapter.size, dtype=np.float64)
        self.adapter = adapter

    def move(self, mean: SumArray, *, bits: float, cohort: int) -> None:
        """Take the step of one round whose updates had so many bits per coordinate."""
        self._velocity *= self._method.momentum
        self._velocity += mean
        server_step = self._method.server_step
        if server_step is None:
            server_step = step_at_rate(bits, cohort=cohort, order=self._order)
        try:
            self.adapter = step(self.adapter, self._velocity, server_step=server_step)
        except OverflowError as error:
            raise RunFailed(str(error)) from error


def step_at_rate(bits: float, *, cohort: int, order: Order) -> float:
    """Return the server's step that keeps an unbiased sparse mean as long as a dense one would be.

    With the relative variance w, the mean of n updates is √(1 + w/n) times too long where the
    clients agree. What an ordered codec drops makes no update longer: its step is 1.

    Args:
        bits: Bits per coordinate that were sent.
        cohort: n.
        order: The codec's.
    """
    if order is Order.ORDERED:
        return 1.0
    return 1 / math.sqrt(1 + relative_variance(bits) / cohort)


def _updates(
    method: Method,
    *,
    codec: Codec,
    fleet: Fleet,
    plan: Plan,
    number: int,
    adapter: FloatArray,
    residuals: dict[str, FloatArray],
) -> list[ClientUpdate]:
    """Return the cohort's updates of one round, each client's residual brought up to date."""
    budget = _budget(method, layout=fleet.layout, plan=plan, number=number)
    cohort = sample_cohort(
        fleet.client_ids, size=plan.cohort, seed=plan.seed, round_id=number, attempt=0
    )
    updates = []
    for client_id in cohort:
        seed = device_seed(plan.seed, client_id=client_id, round_id=number)
        local = fleet.train(client_id, adapter, seed=seed)
        delta = local.delta
        if client_id in residuals:
            delta = delta + residuals[client_id]
        try:
            encoded = codec.encode(
                delta, local.fisher, layout=fleet.layout, budget=budget, seed=seed
            )
            segments = dict(enumerate(encoded))
            if method.feedback is not None:
                residuals[client_id] = residual_after(
                    delta,
                    encoded=segments,
                    accepted=segments.keys(),
                    codec=codec,
                    layout=fleet.layout,
                    feedback=True,
                    decay=method.feedback,
                )
        except (CodecError, InvalidInput) as error:
            raise RunFailed(f"round {number}, {client_id}: {error}") from error
        updates.append(ClientUpdate(client_id, local.num_examples, len(segments), segments))
    return updates


def _budget(method: Method, *, layout: Layout, plan: Plan, number: int) -> Budget:
    rate = method.rate
    if rate is None:
        return Budget(update_bytes=None, segment_bytes=plan.segment_bytes)
    update_bytes = rate.update_bytes(layout.size, round_number=number, rounds=plan.rounds)
    return Budget(update_bytes=update_bytes, segment_bytes=plan.segment_bytes)


def _finite_loss(fleet: Fleet, adapter: FloatArray) -> float:
    loss = fleet.loss(adapter)
    if not math.isfinite(loss):
        raise RunFailed(f"the held-out loss is {loss}")
    return loss
