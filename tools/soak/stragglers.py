"""Case `stragglers`: who never returns and who is slow costs a round its deadline, and no more.

Of the devices that never return, one half falls silent in the middle of its training and keeps its
connection; the other half is killed there and stays dead.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tools.soak import evidence
from tools.soak.fleet import AGGREGATOR, Fleet, FleetSpec
from tools.soak.outcome import Outcome, Tell
from tools.soak.synthetic_trainer import Behaviour

# [s] What a round may take beyond its deadline.
GRACE_S = 5.0
_NEVER_S = 1e6
_OPENS = re.compile(r"^(\S+ \S+) \w+ \S+: round=(\d+) attempt=(\d+) opens")
_CLOSES = re.compile(r"^(\S+ \S+) \w+ \S+: round=(\d+) closes reason=(\S+) updates=(\d+)")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the case is; a slow device takes 10 times `train_s`."""

    agents: int
    rounds: int
    train_s: float
    deadline_s: float


FULL = Plan(agents=20, rounds=10, train_s=2.0, deadline_s=15.0)
QUICK = Plan(agents=10, rounds=3, train_s=1.0, deadline_s=8.0)


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Play ten rounds with twenty devices."""
    return _run(folder, FULL, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Play three rounds with ten devices."""
    return _run(folder, QUICK, tell=tell)


def _run(folder: Path, plan: Plan, *, tell: Tell) -> Outcome:
    gone, slow = round(0.3 * plan.agents), round(0.2 * plan.agents)
    names = [f"device-{number}" for number in range(1, plan.agents + 1)]
    never = Behaviour(train_s=_NEVER_S)
    slower = Behaviour(train_s=plan.train_s, slow=10.0)
    quorum = plan.agents // 2
    spec = FleetSpec(
        agents=plan.agents,
        rounds=plan.rounds,
        settings={
            # Goal and cohort are all of them: what returns decides when a round closes.
            "goal": plan.agents,
            "quorum": quorum,
            "min_devices": quorum,
            "deadline_s": plan.deadline_s,
            "answer_timeout_s": plan.deadline_s / 2,
        },
        behaviour=Behaviour(train_s=plan.train_s),
        behaviours=dict.fromkeys(names[:gone], never)
        | dict.fromkeys(names[gone : gone + slow], slower),
    )
    killed = names[: gone // 2]
    fleet = Fleet(folder, spec)
    with fleet:
        fleet.start()
        seconds = _follow(fleet, killed, plan=plan, tell=tell)
    left = evidence.gather(folder / "state", spec.devices)
    rounds = _rounds(fleet.log(AGGREGATOR))
    longest = max((length for length, _, _ in rounds.values()), default=0.0)
    fewest = min((summary.participants for summary in left.summaries), default=0)
    twice = len(left.settled) - len({(row.client_id, row.round_id) for row in left.settled})
    closed = len(rounds) == plan.rounds == len(left.summaries)
    return Outcome(
        case="stragglers",
        figure=f"{gone} of {plan.agents} agents never return, {slow} are 10 times slower: every"
        f" round closes within {plan.deadline_s:.0f} + {GRACE_S:.0f} s with quorum {quorum}",
        measured=f"{len(left.summaries)} of {plan.rounds} rounds, the longest took {longest:.1f} s,"
        f" the fewest participants were {fewest}",
        reached=closed and longest <= plan.deadline_s + GRACE_S and fewest >= quorum and not twice,
        details={
            "rounds": {
                number: {"seconds": round(length, 2), "reason": reason, "updates": updates}
                for number, (length, reason, updates) in rounds.items()
            },
            "late": [summary.late for summary in left.summaries],
            "seconds": round(seconds, 1),
        },
    )


def _follow(fleet: Fleet, killed: list[str], *, plan: Plan, tell: Tell) -> float:
    """Kill those that are to die as soon as they train, and wait for the last round."""
    alive = set(killed)
    told = 0

    def over() -> bool:
        nonlocal told
        for name in sorted(alive):
            if "training, was" in fleet.log(name):
                fleet.kill(name, stays_dead=True)
                alive.discard(name)
        version = evidence.committed_version(fleet.state(AGGREGATOR))
        if version != told:
            told = version
            tell(f"round {version} of {plan.rounds}")
        return version >= plan.rounds

    began = time.monotonic()
    timeout_s = 60.0 + 2 * plan.rounds * (plan.deadline_s + GRACE_S)
    fleet.wait_for(over, "all rounds are over", timeout_s=timeout_s)
    return time.monotonic() - began


def _rounds(log: str) -> dict[int, tuple[float, str, int]]:
    """Return round → seconds from its first opening to its closing, reason, and updates."""
    opened: dict[int, datetime] = {}
    rounds: dict[int, tuple[float, str, int]] = {}
    for line in log.splitlines():
        if match := _OPENS.match(line):
            opened.setdefault(int(match[2]), _moment(match[1]))
        elif match := _CLOSES.match(line):
            number = int(match[2])
            length_s = (_moment(match[1]) - opened[number]).total_seconds()
            rounds[number] = (length_s, match[3], int(match[4]))
    return rounds


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007  # only differences count
