"""Case `kill-matrix`: every scene ends with the adapter of the undisturbed run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tools.soak import evidence
from tools.soak.fleet import FleetSpec, make_template
from tools.soak.outcome import Outcome, Tell
from tools.soak.scenes import FEEDBACK, SPEC, Reference, Scene, SceneResult, play, playable

# One of each kind: before, inside and after what makes a thing durable, on both sides.
QUICK = (
    "trainer-file-written",
    "agent-row-open",
    "agent-segment-sent:7",
    "agent-receipt-committed",
    "aggregator-journal-committed:3",
    "aggregator-freeze-open",
    "aggregator-folder-renamed",
    "aggregator-current-written",
    "aggregator-committed",
    "feedback agent-row-committed",
    "aggregator-folder-written ENOSPC",
    "broker wiped",
    "broker's old database restored",
)


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Play every scene."""
    return _run(folder, playable(), tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Play one scene of each kind."""
    return _run(folder, (scene for scene in playable() if scene.name in QUICK), tell=tell)


def undisturbed(folder: Path, spec: FleetSpec) -> Reference:
    """Play a run without faults.

    Raises:
        RuntimeError: It does not add up: no scene can be compared with it.
    """
    template = make_template(folder / "template", spec)
    scene = Scene("undisturbed", spec=spec)
    result = play(scene, folder / "run", reference=Reference(template, {}))
    if result.wrong:
        raise RuntimeError(f"the undisturbed run fails: {'; '.join(result.wrong)}")
    return Reference(template, evidence.gather(folder / "run" / "state", spec.devices).digests)


def references(folder: Path) -> dict[bool, Reference]:
    """Return the undisturbed run without (False) and with (True) feedback and deltas."""
    return {
        False: undisturbed(folder / "undisturbed", SPEC),
        True: undisturbed(folder / "undisturbed-feedback", FEEDBACK),
    }


def _run(folder: Path, scenes: Iterable[Scene], *, tell: Tell) -> Outcome:
    tell("the undisturbed runs")
    found = references(folder)
    results: list[SceneResult] = []
    for scene in scenes:
        tell(scene.name)
        place = folder / scene.name.replace(" ", "-").replace("'", "").replace(":", "-")
        result = play(scene, place, reference=found[scene.spec.settings == FEEDBACK.settings])
        results.append(result)
        if result.wrong:
            tell(f"{scene.name}: {'; '.join(result.wrong)}")
        else:
            shutil.rmtree(place)  # what went well needs no logs
    same = [result for result in results if not result.wrong]
    return Outcome(
        case="kill-matrix",
        figure="every scene: same adapter digest, each update exactly once",
        measured=f"{len(same)} of {len(results)} scenes",
        reached=bool(results) and len(same) == len(results),
        details={
            "digest": found[False].digests[SPEC.rounds],
            "scenes": {
                result.name: {
                    "seconds": round(result.seconds, 1),
                    "wrong": list(result.wrong),
                    "ends": {name: list(ends) for name, ends in result.codes.items() if ends},
                }
                for result in results
            },
        },
    )
