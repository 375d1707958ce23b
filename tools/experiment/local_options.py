"""What a method changes about the clients' local training, beside the plan that all share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from transport.control import TrainingPlan

_PLAN = TrainingPlan()


class TokenMask(str, Enum):
    """Which targets a masked step learns from; every kind has the agent's own schedule.

    Step 0 and every `interval`-th after it learn from all targets; the steps between keep
    ⌈ratio · targets⌉ of theirs (SOFT: weights with that sum).

    OFF, HARD and SOFT are the agent's, whose score of a target is the paper's Fisher proxy: the
    squared norm of the loss's gradient at the embedding where the target is predicted, averaged
    per vocabulary id. The others keep as many targets as HARD does, by another score:

    RANDOM: uniform, drawn anew in every masked step.
    GRADIENT_NORM: the norm of the target's own loss gradient at its logits, ‖p - y‖, averaged per
        vocabulary id as the agent's score is.
    ATTENTION: the attention that the token receives from later positions in the last layers,
        averaged per vocabulary id as the agent's score is.
    """

    OFF = "off"
    HARD = "hard"
    SOFT = "soft"
    RANDOM = "random"
    GRADIENT_NORM = "gradient-norm"
    ATTENTION = "attention"


class Importance(str, Enum):
    """What the codec is given as the importance of the adapter's coordinates.

    FISHER: the agent's average of squared minibatch gradients over its local steps.
    UNIFORM: none, every coordinate alike. A codec that ranks coordinates by importance times
        squared delta ranks them by magnitude then.
    MAGNITUDE: the squared delta, its mean the Fisher's.
    GRADIENT_NORM: the root of FISHER: how long the gradient is, not how long it is squared.
    RANDOM: FISHER's own values at random places, within matrices and, as means, among them.
    ORACLE: mean squared gradient per batch of one over all of the client's rows, at the trained
        adapter.
    """

    FISHER = "fisher"
    UNIFORM = "uniform"
    MAGNITUDE = "magnitude"
    GRADIENT_NORM = "gradient-norm"
    RANDOM = "random"
    ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How a method's clients train; the defaults are the plan's training without any mask.

    Attributes:
        mask: Which targets masked steps learn from.
        ratio: Share of the targets that a masked step keeps, above 0 and at most 1.
        interval: Steps from one refresh to the next, ≥ 1.
        merge: Share of the positions that are merged into the next one, 0 (none) to 0.5.
        importance: What the codec is given.
        prox: FedProx's μ ≥ 0.
        scaffold: Whether control variates correct the gradients.
        freeze_a: Whether LoRA's A keeps its first values, so that only B is trained and sent.

    Raises:
        ValueError: A number is out of its range; the line says which.
    """

    mask: TokenMask = TokenMask.OFF
    ratio: float = _PLAN.token_ratio
    interval: int = _PLAN.mask_interval
    merge: float = 0.0
    importance: Importance = Importance.FISHER
    prox: float = 0.0
    scaffold: bool = False
    freeze_a: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}, it must be above 0 and at most 1")
        if self.interval < 1:
            raise ValueError(f"interval is {self.interval}, it must be at least 1")
        if not 0 <= self.merge <= 0.5:  # noqa: PLR2004  # of each pair, one can go
            raise ValueError(f"merge is {self.merge}, it must be from 0 to 0.5")
        if not 0 <= self.prox < float("inf"):
            raise ValueError(f"prox is {self.prox}, it must be at least 0 and finite")
