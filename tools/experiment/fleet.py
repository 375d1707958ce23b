"""What a trial needs of its clients and their model: local training and evaluation. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from codec.codec import FloatArray
from tools.bench.clients import Clients
from tools.experiment.local_options import LocalOptions


class TrialFailed(Exception):
    """A trial cannot go on, as where it diverged; the line says why, and is its result."""


@dataclass(frozen=True, slots=True)
class Control:
    """SCAFFOLD's control variates as one client sees them in a round.

    Attributes:
        server: float32 (layout.size,), c.
        client: float32 (layout.size,), this client's c_i; zeros before its first round.

    Source: Karimireddy et al., "SCAFFOLD", ICML 2020, Algorithm 1.
    """

    server: FloatArray
    client: FloatArray


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What one client's local training gives.

    Attributes:
        delta: float32 (layout.size,), trained - start.
        importance: float32 (layout.size,), finite and ≥ 0, what the codec is given; None weights
            every coordinate alike.
        num_examples: The update's weight in the average.
        train_s: Processor seconds of local training, what the importance took included: other
            programs on this machine do not count.
        control_delta: float32 (layout.size,), the client's new c_i minus the old one; None where
            no control was given.
    """

    delta: FloatArray
    importance: FloatArray | None
    num_examples: int
    train_s: float
    control_delta: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good an adapter is on the held-out rows of all clients.

    Attributes:
        loss: Mean over the answers' tokens, in nats.
        accuracy: Share of these tokens that the model holds most likely, 0 to 1.
    """

    loss: float
    accuracy: float


class Fleet(Clients, Protocol):
    """Clients with their texts, and the model that they train."""

    def train(
        self,
        client_id: str,
        adapter: FloatArray,
        *,
        seed: int,
        options: LocalOptions,
        control: Control | None,
    ) -> LocalUpdate:
        """Return what a client's local steps from an adapter give; the same for the same arguments.

        Args:
            client_id: One of `client_ids`.
            adapter: float32 (layout.size,), the round's adapter.
            seed: Of the batches and of all else that local training draws; a client's batches
                must not depend on the options, so that methods are compared on the same ones.
            options: How the method differs from plain local training.
            control: SCAFFOLD's control variates where the options say so.

        Raises:
            TrialFailed: Training diverged.
        """
        ...

    def evaluate(self, adapter: FloatArray) -> Evaluation:
        """Return how good an adapter is on the held-out rows."""
        ...
