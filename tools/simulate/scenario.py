"""What is simulated: a seed's fleet, network and faults, or a script's."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from aggregator.admission import LatePolicy
from aggregator.config import AggregatorConfig
from tools.simulate.broker import FEDERATION
from tools.simulate.faults import ALL, PAUSES, Fault, Kind, plan, plan_pauses
from tools.simulate.line import Network
from tools.simulate.trainer import Traits
from transport.control import TrainingPlan

COORD = "coord"
# Of the seeds, so many pass every message through its real bytes.
WIRE_EVERY = 16
DEFAULT_DEVICES = 3
DEFAULT_ROUNDS = 25
# [s] What a round of a healthy fleet takes here, roughly; faults are spread over the run by it.
ROUND_S = 20.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation.

    Attributes:
        seed: Of everything that is left to chance in it.
        config: The run's configuration.
        traits: Device → what it is like.
        networks: Client id → what its way to the broker is like.
        faults: What goes wrong.
        hostile: Devices that do not keep to the protocol.
        wire: Every message passes through its real bytes.
        jumps: Clocks mean nothing.
        queue_limit: Messages that the broker holds for a client.
    """

    seed: int
    config: AggregatorConfig
    traits: dict[str, Traits]
    networks: dict[str, Network] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    hostile: frozenset[str] = frozenset()
    wire: bool = False
    jumps: bool = False
    queue_limit: int = 20_000


def configuration(*, rounds: int, goal: int, quorum: int, **changes: object) -> AggregatorConfig:
    """Return a run's configuration."""
    values: dict[str, object] = {
        "federation": FEDERATION,
        "state_dir": Path("nowhere"),
        "initial_adapter": Path("nowhere"),
        "rounds": rounds,
        "goal": goal,
        "quorum": quorum,
        "deadline_s": 120.0,
        "codec": "fstq",
        "update_bytes": 65_536,
        "segment_bytes": 1_024,
        "plan": TrainingPlan(eval_examples=0),
        "downlink_codec": None,
        "late": LatePolicy.STALE,
    }
    return AggregatorConfig(**(values | changes))  # type: ignore[arg-type]  # checked by pydantic


def names(devices: int) -> tuple[str, ...]:
    """Return the names of so many devices."""
    return tuple(f"d{number}" for number in range(devices))


def random_scenario(
    seed: int,
    *,
    devices: int | None = None,
    rounds: int = DEFAULT_ROUNDS,
    kinds: frozenset[Kind] = ALL,
) -> Scenario:
    """Return the scenario of a seed: always the same one.

    Args:
        seed: Which one.
        devices: In the fleet; None lets the seed choose, 2 to 5.
        rounds: Of the run.
        kinds: What may go wrong; the seed chooses among them.
    """
    rng = random.Random(f"scenario/{seed}")
    count = devices or rng.choice((2, 2, 2, 2, 3, 3, 4, 5))
    fleet = names(count)
    here = frozenset(kind for kind in sorted(kinds - PAUSES) if rng.random() < 0.5)  # noqa: PLR2004
    away = frozenset(fleet[1:2]) if Kind.NEVER_RETURN in here and count > 2 else frozenset()  # noqa: PLR2004
    hostile = frozenset(fleet[-1:]) if Kind.HOSTILE in here and count > 2 else frozenset()  # noqa: PLR2004
    if count - len(away) - len(hostile) < 2:  # noqa: PLR2004  a copied device is let in no more
        here -= {Kind.CLONE}
    good = count - len(away) - len(hostile) - (Kind.CLONE in here)
    quorum = rng.randint(1, good)
    goal = rng.randint(quorum, good)
    config = _config(rng, rounds=rounds, goal=goal, quorum=quorum)
    traits = {name: _traits(rng, here) for name in fleet}
    for name in away:
        traits[name] = replace(traits[name], stays_away=True)
    networks = {name: _network(rng, here) for name in (*fleet, COORD)}
    honest = tuple(name for name in fleet if name not in hostile)
    until = rounds * ROUND_S
    faults = plan(here, devices=honest, aggregator=COORD, until=until, rng=rng)
    apart = random.Random(f"pauses/{seed}")
    faults += plan_pauses(kinds, devices=honest, until=until, rng=apart)
    return Scenario(
        seed=seed,
        config=config,
        traits=traits,
        networks=networks,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        hostile=hostile,
        wire=seed % WIRE_EVERY == 0,
        jumps=Kind.CLOCK in here,
        queue_limit=rng.choice((3, 10, 40)) if Kind.OVERFLOW in here else 20_000,
    )


def _config(rng: random.Random, *, rounds: int, goal: int, quorum: int) -> AggregatorConfig:
    return configuration(
        rounds=rounds,
        goal=goal,
        quorum=quorum,
        over_selection=rng.choice((1.0, 1.3, 2.0)),
        deadline_s=rng.choice((60.0, 120.0, 300.0)),
        answer_timeout_s=rng.choice((10.0, 30.0)),
        codec=rng.choice(("fstq", "fstq", "fstq-r")),
        downlink_codec=rng.choice((None, "fstq+")),
        late=rng.choice(tuple(LatePolicy)),
        max_staleness=rng.choice((1, 2, 4)),
        plan=TrainingPlan(eval_examples=rng.choice((0, 0, 0, 8))),
        seed=rng.getrandbits(32),
    )


def _traits(rng: random.Random, here: frozenset[Kind]) -> Traits:
    slow = Kind.SLOW in here and rng.random() < 0.3  # noqa: PLR2004
    return Traits(
        train_s=rng.uniform(5.0, 20.0) * (10.0 if slow else 1.0),
        load_s=rng.uniform(0.5, 8.0),
        segments=40 if rng.random() < 0.05 else rng.randint(1, 4),  # noqa: PLR2004
        examples=rng.randint(1, 50),
        trainer_is_service=rng.random() < 0.3,  # noqa: PLR2004
        failures=0.1 if Kind.TRAINER_CRASH in here else 0.0,
    )


def _network(rng: random.Random, here: frozenset[Kind]) -> Network:
    return Network(
        latency_s=rng.choice((0.005, 0.05, 0.3)),
        loss=rng.choice((0.0, 0.05, 0.2)) if Kind.LOSS in here else 0.0,
        reorder=0.2 if Kind.REORDER in here else 0.0,
        bytes_per_s=rng.choice((None, None, 5_000.0)) if Kind.SLOW in here else None,
    )
