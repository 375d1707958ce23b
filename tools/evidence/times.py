"""Seconds and joules to the target under the time model of `tools.experiment.timing`. Pure.

What a client's training took was measured on a machine that did other things as well. Methods with
the same local options do the same local work, so their training seconds are the median over all
such client rounds of the comparison; encoding seconds are the median of the configuration's own.
Bytes are each client's real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from statistics import median
from typing import Final

from tools.evidence.reading import RoundRecord, Trial
from tools.evidence.targets import Comparison, Outcome, Tried, value_at
from tools.experiment.timing import (
    ClientLink,
    ClientRound,
    LinkProfile,
    Power,
    Slowdown,
    TimeModel,
    draw_link,
    draw_slowdown,
)

_LOCAL: Final = frozenset(
    {"mask", "ratio", "interval", "merge", "prox", "scaffold", "freeze", "importance"}
)


class RememberedModel(TimeModel):
    """A time model that draws each client's link and slowdown once, for there are many rounds."""

    __slots__ = ()

    def link(self, client_id: str) -> ClientLink:
        """Return a client's link."""
        return _link(self.profile, client_id, self.seed)

    def factor(self, client_id: str) -> float:
        """Return what a client's training seconds are multiplied by, at least 1."""
        return _factor(self.slowdown, client_id, self.seed)


@lru_cache(maxsize=100_000)
def _link(profile: LinkProfile, client_id: str, seed: int) -> ClientLink:
    return draw_link(profile, client_id, seed=seed)


@lru_cache(maxsize=100_000)
def _factor(slowdown: Slowdown, client_id: str, seed: int) -> float:
    return draw_slowdown(slowdown, client_id, seed=seed)


@dataclass(frozen=True, slots=True)
class Pace:
    """What computing takes.

    Attributes:
        train_s: Local options → seconds of a client's local training.
        encode_s: Configuration → seconds of encoding an update.
    """

    train_s: Mapping[str, float]
    encode_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a trial took until its target.

    Attributes:
        seconds: Of all rounds.
        mean_j: Energy of a cohort's client, mean over clients, summed over rounds.
        straggler_j: The same of each round's client that spent the most.
    """

    seconds: float
    mean_j: float
    straggler_j: float


def pace_of(comparison: Comparison) -> Pace:
    """Return what computing takes in a comparison."""
    train: dict[str, list[float]] = {}
    encode: dict[str, list[float]] = {}
    for tried in comparison.tried:
        for trial in tried.trials:
            for client in (each for record in trial.rounds for each in record.clients):
                train.setdefault(_local_work(tried), []).append(client.train_s)
                encode.setdefault(tried.text, []).append(client.encode_s)
    return Pace(
        {key: median(several) for key, several in train.items()},
        {key: median(several) for key, several in encode.items()},
    )


def seconds_to_target(
    tried: Tried, pace: Pace, models: Mapping[int, TimeModel], *, downlink: bool = False
) -> dict[int, float]:
    """Return seed → seconds until the target, of the trials that reached it.

    Args:
        tried: The configuration.
        pace: What computing takes.
        models: Seed → links and slowdowns.
        downlink: Whether each client fetches its share of the round's bytes down first.
    """
    found = {}
    for seed, outcome in tried.outcomes.items():
        if outcome.place is None:
            continue
        rounds = [
            models[seed].round_time(clients).seconds
            for clients in _clients(tried, outcome.trial, pace, downlink=downlink)
        ]
        found[seed] = _until(outcome, rounds)
    return found


def energy_to_target(
    tried: Tried, pace: Pace, models: Mapping[int, TimeModel], power: Power
) -> dict[int, Cost]:
    """Return seed → seconds and joules until the target, of the trials that reached it."""
    found = {}
    for seed, outcome in tried.outcomes.items():
        if outcome.place is None:
            continue
        model = models[seed]
        rounds = list(_clients(tried, outcome.trial, pace, downlink=False))
        energy = [model.round_energy(clients, power) for clients in rounds]
        found[seed] = Cost(
            seconds=_until(outcome, [model.round_time(clients).seconds for clients in rounds]),
            mean_j=_until(outcome, [each.mean_j for each in energy]),
            straggler_j=_until(outcome, [each.straggler_j for each in energy]),
        )
    return found


def _clients(
    tried: Tried, trial: Trial, pace: Pace, *, downlink: bool
) -> Iterable[tuple[ClientRound, ...]]:
    """Yield what the clients of each round did, from round 1 on."""
    train_s = pace.train_s.get(_local_work(tried), 0.0)
    encode_s = pace.encode_s.get(tried.text, 0.0)
    for before, record in pairwise(trial.rounds):
        share = _down_share(before, record) if downlink else 0
        yield tuple(
            ClientRound(
                client_id=client.client_id,
                bytes_up=client.wire_up,
                train_s=train_s,
                encode_s=encode_s,
                arrived=client.arrived,
                bytes_down=share,
            )
            for client in record.clients
        )


def _down_share(before: RoundRecord, record: RoundRecord) -> int:
    return round((record.bytes_down - before.bytes_down) / max(1, len(record.clients)))


def _until(outcome: Outcome, rounds: Iterable[float]) -> float:
    assert outcome.place is not None
    return value_at(list(accumulate(rounds, initial=0.0)), outcome.place)


def _local_work(tried: Tried) -> str:
    """Return one text per kind of local work."""
    return ",".join(
        f"{name}={value}" for name, value in tried.configuration.options if name in _LOCAL
    )
