"""Case: 70 % of the agents drop out of every round; the adapter learns nearly as much."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from tools.soak.learning_fleet import (
    AGENTS,
    ROUNDS,
    Dropout,
    FleetSettings,
    Learned,
    Place,
    learn,
)
from tools.soak.outcome import Outcome, Tell

SHARE = 0.7
# The most by which the loss may be above that of a fleet without dropout.
MOST = 0.03
_QUICK_ROUNDS = 3


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Compare ten rounds of twenty agents with and without dropout."""
    return _compare(folder, rounds=ROUNDS, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Do the same for three rounds."""
    return _compare(folder, rounds=_QUICK_ROUNDS, tell=tell)


def _compare(folder: Path, *, rounds: int, tell: Tell) -> Outcome:
    # A stopped agent that had said yes is awaited until the deadline.
    settings = FleetSettings(
        rounds=rounds, quorum=AGENTS // 10, deadline_s=40.0, answer_timeout_s=20.0
    )
    # Who is stopped for several rounds is offline by then.
    few = replace(settings, min_devices=round((1 - SHARE) * AGENTS))
    without = learn(
        folder / "all", settings, place=Place(), tell=lambda line: tell(f"no dropout: {line}")
    )
    around = partial(Dropout, share=SHARE, seed=1)
    dropped = learn(
        folder / "dropout",
        few,
        place=Place(),
        tell=lambda line: tell(f"dropout: {line}"),
        around_rounds=around,
    )
    return outcome(without, dropped, rounds=rounds)


def outcome(without: Learned, dropped: Learned, *, rounds: int) -> Outcome:
    """Return the case's outcome from the two runs."""
    above = dropped.loss / without.loss - 1
    return Outcome(
        case="dropout",
        figure=f"{SHARE:.0%} dropout per round, {rounds} rounds: final loss within {MOST:.0%}",
        measured=(
            f"{dropped.loss:.4f} against {without.loss:.4f} nats, {above:+.2%}"
            f" (before: {without.before:.4f})"
        ),
        reached=above <= MOST and len(dropped.rounds) == rounds,
        details={"without": without.facts(), "dropout": dropped.facts()},
    )
