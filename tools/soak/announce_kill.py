"""Case `announce-kill`: between a round's close and its announcement, no kill changes a byte.

The aggregator is killed at one point after the other. Each of its lives ends at the next point of
the list, so that one round is closed, aggregated, committed and announced by several processes.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

from tools.soak import evidence
from tools.soak.fleet import AGGREGATOR, Fleet, FleetSpec, make_template
from tools.soak.outcome import Outcome, Tell
from tools.soak.synthetic_trainer import Behaviour

# In the order in which a round passes them.
POINTS = (
    "aggregator-freeze-before",
    "aggregator-freeze-open",
    "aggregator-frozen",
    "aggregator-folder-before",
    "aggregator-folder-written",
    "aggregator-folder-renamed",
    "aggregator-current-written",
    "aggregator-commit-open",
    "aggregator-committed",
    "aggregator-announcing",
    # Every start announces what stands: after the death before, that is the new version.
    "aggregator-adapter-sent",
    "aggregator-announced",
)
# [rounds] That so many kills need at the most: an unbroken run of the list takes three.
_ROUNDS_PER_LIST = 3


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Kill it 100 times."""
    return _run(folder, 100, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Kill it once at each point."""
    return _run(folder, len(POINTS), tell=tell)


def _run(folder: Path, kills: int, *, tell: Tell) -> Outcome:
    spec = FleetSpec(
        agents=2,
        rounds=_ROUNDS_PER_LIST * -(-kills // len(POINTS)),
        behaviours={"device-2": Behaviour(examples=41)},
    )
    template = make_template(folder / "template", spec)
    tell(f"{spec.rounds} rounds undisturbed")
    reference, _ = _play(folder / "undisturbed", spec, template=template, kills=0, tell=tell)
    tell(f"the same with {kills} kills")
    digests, deaths = _play(folder / "killed", spec, template=template, kills=kills, tell=tell)
    same = sum(digests.get(version) == digest for version, digest in reference.items())
    count = sum(deaths.values())
    return Outcome(
        case="announce-kill",
        figure=f"aggregator killed {kills} times between close and announcement:"
        " adapter digest identical every time",
        measured=f"{count} kills, {same} of {len(reference)} versions identical",
        reached=count == kills and same == len(reference) and set(deaths) == set(POINTS),
        details={"deaths": dict(deaths), "rounds": spec.rounds, "digest": reference[spec.rounds]},
    )


def _play(
    folder: Path, spec: FleetSpec, *, template: Path, kills: int, tell: Tell
) -> tuple[dict[int, str], Counter[str]]:
    """Play a run; return the digests of its versions, and how often it was killed where."""
    fleet = Fleet(folder, spec, template=template)
    deaths: Counter[str] = Counter()
    with fleet:
        fleet.start(environ={AGGREGATOR: _next(0, kills)})

        def step() -> None:
            child = fleet.supervisor.children[AGGREGATOR]
            count = sum(deaths.values())
            if count < kills and child.process.poll() == -signal.SIGKILL:
                deaths[POINTS[count % len(POINTS)]] += 1
                fleet.start_service(AGGREGATOR, environ=_next(count + 1, kills))

        fleet.wait_finished(timeout_s=60.0 + 20.0 * (kills + spec.rounds), tell=tell, step=step)
    left = evidence.gather(folder / "state", spec.devices)
    wrong = evidence.check_exactly_once(left, rounds=spec.rounds)
    expected = evidence.recompute(left, state=folder / "state", config=fleet.config)
    if wrong or expected != left.digests:
        tell("; ".join([*wrong, "the adapters are not what the updates give"]))
        return {}, deaths
    return left.digests, deaths


def _next(count: int, kills: int) -> dict[str, str]:
    return {"FEDFSTQ_CRASH_AT": POINTS[count % len(POINTS)]} if count < kills else {}
