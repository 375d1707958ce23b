"""Case `broker-wipe`: a broker that forgets everything, again and again, costs no update.

A broker's persistence is not trusted, nor its acknowledgement: killed, and its database deleted, it
has lost every session, every retained message and everything in flight.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tools.soak import evidence
from tools.soak.fleet import Fleet, FleetSpec
from tools.soak.outcome import Outcome, Tell
from tools.soak.synthetic_trainer import Behaviour


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the case is.

    Attributes:
        wipe_every_s: Seconds from one wipe to the next.
        train_s: Seconds that a training takes: the run must outlast several wipes.
    """

    agents: int
    rounds: int
    wipe_every_s: float
    train_s: float

    @property
    def updates(self) -> int:
        """Updates that the run makes."""
        return self.agents * self.rounds


FULL = Plan(agents=20, rounds=50, wipe_every_s=60.0, train_s=5.0)
QUICK = Plan(agents=10, rounds=10, wipe_every_s=10.0, train_s=3.0)


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Make 1,000 updates while the broker is wiped every minute."""
    return _run(folder, FULL, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Make 100 updates while the broker is wiped every ten seconds."""
    return _run(folder, QUICK, tell=tell)


def _run(folder: Path, plan: Plan, *, tell: Tell) -> Outcome:
    spec = FleetSpec(
        agents=plan.agents, rounds=plan.rounds, behaviour=Behaviour(train_s=plan.train_s)
    )
    fleet = Fleet(folder, spec)
    wipes: list[float] = []
    with fleet:
        fleet.start()
        began = time.monotonic()

        def step() -> None:
            elapsed_s = time.monotonic() - began
            if elapsed_s >= plan.wipe_every_s * (len(wipes) + 1):
                tell(f"the broker is killed and wiped after {elapsed_s:.0f} s")
                fleet.wipe_broker()
                wipes.append(elapsed_s)

        seconds = fleet.wait_finished(timeout_s=60.0 * plan.rounds, tell=tell, step=step)
        restarts = {name: child.codes for name, child in fleet.supervisor.children.items()}
    left = evidence.gather(folder / "state", spec.devices)
    wrong = evidence.check_exactly_once(left, rounds=plan.rounds)
    expected = evidence.recompute(left, state=folder / "state", config=fleet.config)
    if expected != left.digests:
        wrong.append("the adapters are not what the updates give")
    wrong += [
        f"{name} ended: {codes}" for name, codes in restarts.items() if name != "broker" and codes
    ]
    return Outcome(
        case="broker-wipe",
        figure=f"{plan.updates} updates, broker killed and wiped every {plan.wipe_every_s:.0f} s:"
        f" {plan.updates} accepted exactly once",
        measured=f"{left.accepted} accepted exactly once, {len(wipes)} wipes, {seconds:.0f} s",
        reached=not wrong and left.accepted == plan.updates and bool(wipes),
        details={
            "wipes": len(wipes),
            "seconds": round(seconds, 1),
            "trained": sum(len(rounds) for rounds in left.trained.values()),
            "wrong": wrong,
        },
    )
