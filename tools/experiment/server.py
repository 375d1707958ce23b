"""The server's optimizers, and the server's side of SCAFFOLD. Pure.

What each makes of a round's mean delta is a direction; the aggregator's own step takes it. Plain
averaging and FedAvgM are what the deployed aggregator does; the adaptive ones are comparisons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

import numpy as np

from aggregator.server_optimizer import arrivals_factor, step
from codec.codec import FloatArray, Order, SumArray
from tools.bench.experiment import step_at_rate
from tools.experiment.fleet import Control, TrialFailed
from tools.experiment.methods import Method, Server

# β1 and β2 of FedAdam and FedYogi, as their paper has them in every experiment.
_FIRST_DECAY: Final = 0.9
_SECOND_DECAY: Final = 0.99


class ServerOptimizer:
    """Moves the adapter once per round.

    FedAvgM is the aggregator's own `server_momentum`. FedAdam and FedYogi are those of Reddi et
    al., "Adaptive Federated Optimization" (ICLR 2021), Algorithm 2, whose second moment begins at
    τ².

    Args:
        method: Names the optimizer, its step η, β and τ.
        order: The codec's, which the step asks for.
        goal: Updates of a full round.
        adapter: float32 (n,), version 0.
    """

    def __init__(self, method: Method, *, order: Order, goal: int, adapter: FloatArray) -> None:
        self._method = method
        self._goal = goal
        self._order = order
        self._before: FloatArray | None = None
        self._first: SumArray = np.zeros(adapter.size)
        self._second: SumArray = np.full(adapter.size, method.tau**2)
        self.adapter = adapter

    def move(self, mean: SumArray, *, bits: float, cohort: int) -> None:
        """Take the step of one round.

        Args:
            mean: float64 (n,), the weighted mean of the deltas that arrived.
            bits: Bits per coordinate that an update had.
            cohort: How many arrived.

        Raises:
            TrialFailed: The new adapter does not fit float32.
        """
        server_step = step_of_round(
            self._method, bits=bits, arrived=cohort, goal=self._goal, order=self._order
        )
        before, self._before = self._before, self.adapter
        try:
            self.adapter = step(
                self.adapter,
                self._direction(mean),
                server_step=server_step,
                momentum=self._method.momentum,
                before=before,
            )
        except OverflowError as error:
            raise TrialFailed(f"diverged: {error}") from error

    def _direction(self, mean: SumArray) -> SumArray:
        if self._method.server is Server.AVERAGE:
            return mean
        self._first += (1 - _FIRST_DECAY) * (mean - self._first)
        square = mean * mean
        match self._method.server:
            case Server.FEDADAM:
                self._second += (1 - _SECOND_DECAY) * (square - self._second)
            case Server.FEDYOGI:
                self._second -= (1 - _SECOND_DECAY) * square * np.sign(self._second - square)
        direction: SumArray = self._first / (np.sqrt(self._second) + self._method.tau)
        return direction


def step_of_round(method: Method, *, bits: float, arrived: int, goal: int, order: Order) -> float:
    """Return a round's server step, shortened as the aggregator does where few updates arrived.

    Args:
        method: Names η, and whether it is shortened.
        bits: Bits per coordinate that an update had.
        arrived: How many updates did, at least 1.
        goal: Updates of a full round.
        order: The codec's.
    """
    if method.server_step is None:
        return step_at_rate(bits, cohort=arrived, order=order)
    if method.full_step:
        return method.server_step
    return method.server_step * arrivals_factor(bits, arrived=arrived, goal=goal, order=order)


def arrivals_digest(method: Method, *, goal: int, order: Order) -> str:
    """Return 8 hexadecimal digits that change with how steps go by arrivals; "" where they do not.

    They cover every number of arrivals at the rates of the first and of the last round. A method
    without a rate has none: what its updates take is not known beforehand.
    """
    if method.rate is None:
        return ""
    ends = (method.rate.first, method.rate.last)
    steps = [
        [
            step_of_round(method, bits=bits, arrived=arrived, goal=goal, order=order)
            for arrived in range(1, goal + 1)
        ]
        for bits in ends
    ]
    if all(len(set(each)) == 1 for each in steps):
        return ""
    text = " ".join(f"{value:.6g}" for each in steps for value in each)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class ControlVariates:
    """SCAFFOLD's c and every client's c_i: c ← c + (arrived / clients) · mean of their changes.

    Where a codec is lossy, client and server both go by what it decodes to, so that c stays the
    mean of all c_i.

    Args:
        size: Coordinates.
        clients: In the whole fleet.

    Attributes:
        server: float32 (size,), c.

    Source: Karimireddy et al., "SCAFFOLD", ICML 2020, Algorithm 1, lines 16 and 17.
    """

    def __init__(self, size: int, *, clients: int) -> None:
        self._clients = clients
        self.server: FloatArray = np.zeros(size, dtype=np.float32)
        self._of: dict[str, FloatArray] = {}

    def of(self, client_id: str) -> Control:
        """Return what a client of a round is given."""
        client = self._of.get(client_id)
        return Control(self.server, np.zeros_like(self.server) if client is None else client)

    def arrived(self, changes: Collection[tuple[str, FloatArray]]) -> None:
        """Take in the changes of the clients whose updates arrived: float32 (size,) each."""
        for client_id, change in changes:
            self._of[client_id] = self.of(client_id).client + change
        total = np.sum([change for _, change in changes], axis=0, dtype=np.float64)
        self.server = (self.server + total / self._clients).astype(np.float32)
