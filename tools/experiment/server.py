"""The server's optimizers, and the server's side of SCAFFOLD. Pure.

What each makes of a round's mean delta is a direction; the aggregator's own step takes it. Plain
averaging and FedAvgM are what the deployed aggregator does; the adaptive ones are comparisons.
"""

from __future__ import annotations

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
        server_step = self._server_step(bits, cohort)
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

    def _server_step(self, bits: float, cohort: int) -> float:
        if self._method.server_step is None:
            return step_at_rate(bits, cohort=cohort, order=self._order)
        if self._method.full_step:
            return self._method.server_step
        return self._method.server_step * arrivals_factor(
            bits, arrived=cohort, goal=self._goal, order=self._order
        )

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
