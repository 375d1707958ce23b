"""What may go wrong, and when: a scripted or a seeded list of faults."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """The kinds of faults; the values are what `--faults` takes."""

    LOSS = "loss"  # TCP repeats much: delay
    REORDER = "reorder"  # messages of different topics overtake each other
    CUT = "cut"  # a connection breaks
    BLACKOUT = "blackout"  # nothing passes for a while, or for long
    FLAPPING = "flapping"  # up and down, again and again
    BROKER_KILL = "broker-kill"  # everything since the last autosave is lost
    BROKER_WIPE = "broker-wipe"  # its database too
    BROKER_RESTORE = "broker-restore"  # an old database comes back
    SESSION_EXPIRED = "session-expired"
    OVERFLOW = "overflow"  # the broker's queues are short, and drop silently
    AGENT_CRASH = "agent-crash"
    AGGREGATOR_CRASH = "aggregator-crash"
    TRAINER_CRASH = "trainer-crash"
    NEVER_RETURN = "never-return"  # a device takes its first task and is gone
    SLOW = "slow"  # a device takes ten times as long
    CLOCK = "clock"  # clocks begin anywhere, stand while a lid is closed, and are years off
    HOSTILE = "hostile"  # a device that wants in what does not belong
    TWO_AGGREGATORS = "two-aggregators"  # a copied state folder is started elsewhere
    CLONE = "clone"  # a copied device
    PAUSE = "pause"  # an operator lets a device take nothing new for a while
    HEAT = "heat"  # a device grows so hot that it gives up what it trains


ALL = frozenset(Kind)
# Drawn apart, so that what else goes wrong in a seed does not depend on them.
PAUSES = frozenset({Kind.PAUSE, Kind.HEAT})

AGENT_POINTS = (
    "trainer-file-before",
    "trainer-file-written",
    "trainer-file-renamed",
    "agent-row-before",
    "agent-row-committed",
    "agent-segment-sent",
    "agent-answer-in",
    "agent-receipt-before",
    "agent-receipt-committed",
    "agent-receipt-done",
)
AGGREGATOR_POINTS = (
    "aggregator-journal-before",
    "aggregator-journal-committed",
    "aggregator-journal-answered",
    "aggregator-freeze-before",
    "aggregator-frozen",
    "aggregator-folder-before",
    "aggregator-current-written",
    "aggregator-committed",
    "aggregator-announcing",
    "aggregator-adapter-sent",
    "aggregator-announced",
)
# As the point of two aggregators: both have the same client id, and throw each other out.
SAME_NAME = "same-name"
# Points that a round reaches many times.
_FREQUENT = frozenset(
    {
        "agent-segment-sent",
        "agent-answer-in",
        "aggregator-journal-before",
        "aggregator-journal-committed",
        "aggregator-journal-answered",
        "aggregator-adapter-sent",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at: Seconds from the beginning; for a crash the moment from which it may come.
        kind: What goes wrong.
        target: Which device or aggregator; empty for the broker.
        duration_s: How long it lasts.
        point: Where a process dies; empty: at this very moment.
        reach: At which reach of that point after `at`.
    """

    at: float
    kind: Kind
    target: str = ""
    duration_s: float = 0.0
    point: str = ""
    reach: int = 1


def plan(
    kinds: frozenset[Kind],
    *,
    devices: tuple[str, ...],
    aggregator: str,
    until: float,
    rng: random.Random,
) -> tuple[Fault, ...]:
    """Return random faults of these kinds, from the beginning until a moment."""
    faults: list[Fault] = []
    for kind in sorted(kinds):
        for _ in range(_how_often(kind, until, rng)):
            at = rng.uniform(0.0, until)
            faults.append(_fault(kind, at, devices, aggregator, rng))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def plan_pauses(
    kinds: frozenset[Kind], *, devices: tuple[str, ...], until: float, rng: random.Random
) -> tuple[Fault, ...]:
    """Return random pauses of these kinds, from the beginning until a moment."""
    faults: list[Fault] = []
    for kind in sorted(kinds & PAUSES):
        for _ in range(_how_often(kind, until, rng)):
            duration_s = rng.choice((rng.uniform(1.0, 30.0), rng.uniform(30.0, 400.0)))
            faults.append(Fault(rng.uniform(0.0, until), kind, rng.choice(devices), duration_s))
    return tuple(faults)


# Seconds between two of a kind, in a seed that has this kind at all.
_EVERY_S = {
    Kind.CUT: 25.0,
    Kind.BLACKOUT: 120.0,
    Kind.FLAPPING: 300.0,
    Kind.BROKER_KILL: 150.0,
    Kind.BROKER_WIPE: 200.0,
    Kind.BROKER_RESTORE: 250.0,
    Kind.SESSION_EXPIRED: 120.0,
    Kind.AGENT_CRASH: 40.0,
    Kind.AGGREGATOR_CRASH: 60.0,
    Kind.TRAINER_CRASH: 120.0,
    Kind.CLOCK: 200.0,
    Kind.TWO_AGGREGATORS: 600.0,
    Kind.CLONE: 600.0,
    Kind.PAUSE: 100.0,
    Kind.HEAT: 100.0,
}
_ONCE = frozenset({Kind.TWO_AGGREGATORS, Kind.CLONE})


def _how_often(kind: Kind, until: float, rng: random.Random) -> int:
    every_s = _EVERY_S.get(kind)
    if every_s is None or rng.random() < 0.5:  # noqa: PLR2004  half the kinds in a seed
        return 0
    if kind in _ONCE:
        return 1
    return min(40, 1 + int(rng.expovariate(every_s / until)))


def _fault(
    kind: Kind, at: float, devices: tuple[str, ...], aggregator: str, rng: random.Random
) -> Fault:
    anyone = rng.choice((*devices, aggregator))
    device = rng.choice(devices)
    match kind:
        case Kind.CUT:
            return Fault(at, kind, anyone, rng.choice((0.0, 0.0, rng.uniform(0.0, 90.0))))
        case Kind.BLACKOUT:
            long = rng.random() < 0.3  # noqa: PLR2004  longer than keepalive
            return Fault(at, kind, anyone, rng.uniform(60.0, 400.0) if long else rng.uniform(1, 50))
        case Kind.FLAPPING:
            return Fault(at, kind, device, rng.uniform(5.0, 30.0))
        case Kind.BROKER_KILL | Kind.BROKER_RESTORE:
            return Fault(at, kind, duration_s=rng.uniform(0.5, 60.0))
        case Kind.BROKER_WIPE:
            return Fault(at, kind, duration_s=rng.uniform(0.5, 30.0))
        case Kind.AGENT_CRASH:
            return _crash(kind, at, device, AGENT_POINTS, rng)
        case Kind.AGGREGATOR_CRASH:
            return _crash(kind, at, aggregator, AGGREGATOR_POINTS, rng)
        case Kind.CLOCK:
            return Fault(at, kind, device, rng.uniform(5.0, 600.0))
        case _:
            return Fault(at, kind, device, rng.uniform(1.0, 60.0))


def _crash(
    kind: Kind, at: float, target: str, points: tuple[str, ...], rng: random.Random
) -> Fault:
    if rng.random() < 0.2:  # noqa: PLR2004  anywhere, between two events
        return Fault(at, kind, target, rng.uniform(0.5, 40.0))
    point = rng.choice(points)
    reach = rng.randint(1, 8) if point in _FREQUENT else 1
    return Fault(at, kind, target, rng.uniform(0.5, 40.0), point, reach)
