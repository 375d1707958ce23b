"""Case: an update of 2 MB over a link that is there for 20 s and gone for 20 s, by turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.netem.lab import Lab
from tools.netem.profile import Phase, Profile, load_profile
from tools.soak.link_update import UpdateRun, upload
from tools.soak.outcome import Outcome, Tell

MOST_S = 60.0
_BYTES = 2_000_000
_TIMEOUT_S = 300.0
# [s] Into the cycle of 40 s: the upload begins with all of the good time, with some, or with none.
# Begun with the bad time, it has one good time to be done in, of which it needs five sixths.
_BEGINS_S = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0)
_QUICK_BEGINS_S = (15.0, 20.0)


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Begin an upload at eight moments of the link's cycle."""
    return _run(folder, _BEGINS_S, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Begin one upload late in the good time, and one with the bad time."""
    return _run(folder, _QUICK_BEGINS_S, tell=tell)


def begun_at(profile: Profile, elapsed_s: float) -> Profile:
    """Return a cycle that begins where this one is after so many seconds."""
    phases, skipped_s = list(profile.phases), elapsed_s % profile.cycle_s
    while skipped_s >= phases[0].for_s:
        skipped_s -= phases[0].for_s
        phases.append(phases.pop(0))
    if skipped_s:
        first = phases.pop(0)
        rest, head = first.for_s - skipped_s, skipped_s
        phases = [_lasting(first, rest), *phases, _lasting(first, head)]
    return profile.model_copy(update={"phases": tuple(phases)})


def outcome(runs: Sequence[tuple[float, UpdateRun]]) -> Outcome:
    """Return the case's outcome from (seconds into the cycle, what the update took)."""
    slowest_s = max(run.seconds for _, run in runs)
    return Outcome(
        case="flapping",
        figure=f"1 Mbit/s, 20 s up and 20 s down by turns, 2 MB: at most {MOST_S:.0f} s",
        measured=f"{min(run.seconds for _, run in runs):.0f} to {slowest_s:.0f} s"
        f" ({len(runs)} begun at different moments)",
        reached=slowest_s <= MOST_S,
        details={
            f"begun {begin_s:.0f} s into the cycle": {
                "seconds": round(run.seconds, 1),
                "update_bytes": run.update_bytes,
                "link_bytes": run.link_bytes,
                "disconnects": run.disconnects,
            }
            for begin_s, run in runs
        },
    )


def _run(folder: Path, begins_s: Sequence[float], *, tell: Tell) -> Outcome:
    cycle = load_profile("flapping")
    steady = cycle.model_copy(update={"phases": ()})
    runs: list[tuple[float, UpdateRun]] = []
    with Lab() as lab:  # one at a time: what starts a fleet would delay another one's cuts
        for begin_s in begins_s:
            rotated = begun_at(cycle, begin_s)
            run = upload(
                lab,
                folder / f"begun-{begin_s:.0f}",
                steady,
                update_bytes=_BYTES,
                timeout_s=_TIMEOUT_S,
                tell=tell,
                begun=lambda rotated=rotated: lab.apply(rotated),  # type: ignore[misc]
            )
            runs.append((begin_s, run))
            tell(
                f"begun {begin_s:.0f} s into the cycle: {run.seconds:.1f} s,"
                f" {run.disconnects} disconnects"
            )
    return outcome(runs)


def _lasting(phase: Phase, for_s: float) -> Phase:
    return phase.model_copy(update={"for_s": for_s})
