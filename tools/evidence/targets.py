"""The target, fixed by the baseline alone, and what each trial took to it. Pure.

For every setting and seed the target is the lowest held-out loss that the baseline has reached
after `target_share` of its rounds: the running minimum of its loss, linear between evaluated
rounds. Nothing else is smoothed. A trial reaches a loss at the first evaluated round that is no
worse, and between that round and the lowest loss before it (taken at the evaluated round before)
bytes and seconds are read on the straight line. The baseline is read in the same way as all others.

A trial that fails, as by diverging, has failed and has reached nothing; one that ends above the
target has not reached it, and its bytes of all rounds are the least that it would take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from tools.evidence.commands import Axes, axes_of, command_of
from tools.evidence.families import Configuration, configuration
from tools.evidence.reading import Trial


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one trial stands to its target.

    Attributes:
        trial: The trial.
        target: The loss to reach.
        place: The round at which it was reached, with its fraction; None where it was not.
    """

    trial: Trial
    target: float
    place: float | None

    @property
    def wire_up(self) -> float | None:
        """Bytes that all clients published until the target; None where it was not reached.

        Whole messages as they travel: compressed, with frame, manifest and topic.
        """
        return self._at_place([each.wire_up for each in self.trial.rounds])

    @property
    def bytes_up(self) -> float | None:
        """The same of segments alone, as the codec made them."""
        return self._at_place([each.bytes_up for each in self.trial.rounds])

    @property
    def bytes_down(self) -> float | None:
        """Bytes of the adapter versions that all cohorts fetched until the target."""
        return self._at_place([each.bytes_down for each in self.trial.rounds])

    @property
    def all_wire_up(self) -> float:
        """Bytes of the whole trial: the least to a target that was not reached."""
        return self.trial.rounds[-1].wire_up if self.trial.rounds else 0.0

    def _at_place(self, of_rounds: Sequence[float]) -> float | None:
        return None if self.place is None else value_at(of_rounds, self.place)


@dataclass(frozen=True)
class Tried:
    """One configuration in one setting.

    Attributes:
        configuration: The method's text, taken apart.
        outcomes: Seed → outcome, of the trials that did not fail and have a target.
        failed: The trials that failed.
        command: What runs all of them again; "" where that is not known.
    """

    configuration: Configuration
    outcomes: Mapping[int, Outcome]
    failed: tuple[Trial, ...]
    command: str = ""

    @property
    def text(self) -> str:
        """The method's text."""
        return self.configuration.text

    @cached_property
    def reached(self) -> dict[int, float]:
        """Seed → bytes published to the target, of the trials that reached it."""
        found = {seed: each.wire_up for seed, each in self.outcomes.items()}
        return {seed: each for seed, each in found.items() if each}

    @property
    def runs(self) -> int:
        """How many trials have ended, well or not."""
        return len(self.outcomes) + len(self.failed)

    @property
    def always_reached(self) -> bool:
        """Whether every trial of it reached the target."""
        return bool(self.reached) and len(self.reached) == self.runs

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All of its trials."""
        return (*(each.trial for each in self.outcomes.values()), *self.failed)

    def least_bytes(self) -> dict[int, float]:
        """Return seed → bytes to the target, or of the whole trial where it was not reached."""
        return {
            seed: self.reached.get(seed, each.all_wire_up)
            for seed, each in self.outcomes.items()
            if each.all_wire_up > 0
        }


@dataclass(frozen=True)
class Comparison:
    """All configurations in one setting.

    Attributes:
        experiment: For which the trials were run.
        setting: What they share.
        baseline: The text of the method that sets the target.
        targets: Seed → loss to reach.
        tried: Configurations, the baseline's first, then by text.
        untargeted: Trials without a target: the baseline of their seed is missing, has failed, or
            was no better than the start by then, so that there is nothing to reach.
    """

    experiment: str
    setting: Mapping[str, Any]
    baseline: str
    targets: Mapping[int, float]
    tried: tuple[Tried, ...]
    untargeted: tuple[Trial, ...]

    @property
    def workload(self) -> str:
        """What was learnt."""
        return str(self.setting["workload"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have a target."""
        return tuple(sorted(self.targets))

    @cached_property
    def by_text(self) -> dict[str, Tried]:
        """Configurations by their text."""
        return {each.text: each for each in self.tried}

    @property
    def reference(self) -> Tried | None:
        """The baseline's own trials; None where there are none."""
        return self.by_text.get(self.baseline)


def compare_all(trials: Iterable[Trial]) -> tuple[Comparison, ...]:
    """Return one comparison per experiment and setting, in their order."""
    known = tuple(trials)
    axes = axes_of(known)
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in known:
        groups.setdefault((trial.experiment, trial.setting_key), []).append(trial)
    return tuple(compare(groups[key], axes) for key in sorted(groups))


def compare(trials: Sequence[Trial], axes: Axes) -> Comparison:
    """Return how the trials of one setting, at least one, stand to their targets.

    Args:
        trials: Of one experiment and setting.
        axes: What the experiment's trials are told apart by.
    """
    first = trials[0]
    baseline = str(first.settings.get("baseline", "fp32"))
    found = {
        trial.seed: (target_of(trial, share=float(trial.settings["target_share"])), trial)
        for trial in trials
        if trial.method == baseline and not trial.failure
    }
    targets = {
        seed: target for seed, (target, trial) in found.items() if target < trial.evaluated[0][1]
    }
    grouped: dict[str, list[Trial]] = {}
    for trial in trials:
        grouped.setdefault(trial.method, []).append(trial)
    order = sorted(grouped, key=lambda text: (text != baseline, text))
    return Comparison(
        experiment=first.experiment,
        setting=first.setting,
        baseline=baseline,
        targets=targets,
        tried=tuple(_tried(text, grouped[text], targets, axes) for text in order),
        untargeted=tuple(
            trial for trial in trials if trial.seed not in targets and not trial.failure
        ),
    )


def target_of(trial: Trial, *, share: float) -> float:
    """Return the lowest loss that a trial has reached after a share of its planned rounds."""
    places = [float(each.round) for each, _ in trial.evaluated]
    lowest = list(accumulate((loss for _, loss in trial.evaluated), min))
    return _between(places, lowest, share * int(trial.settings["rounds"]))


def place_of(trial: Trial, loss: float) -> float | None:
    """Return the round at which a loss was first reached, with its fraction; None if never.

    A loss that the start already has is reached in round 0.
    """
    lowest, last = math.inf, 0
    for each, found in trial.evaluated:
        if found <= loss:
            if not math.isfinite(lowest):
                return float(each.round)
            return last + (lowest - loss) / (lowest - found) * (each.round - last)
        lowest, last = min(lowest, found), each.round
    return None


def value_at(cumulative: Sequence[float], place: float) -> float:
    """Return a cumulative value at a round with its fraction; the first entry is round 0's."""
    return _between(range(len(cumulative)), cumulative, place)


def loss_at_bytes(trial: Trial, count: float) -> float | None:
    """Return the lowest loss after so many bytes published; None beyond the last round's."""
    sent = [each.wire_up for each, _ in trial.evaluated]
    if not sent or count > sent[-1]:
        return None
    return _between(sent, list(accumulate((loss for _, loss in trial.evaluated), min)), count)


def _tried(text: str, trials: Sequence[Trial], targets: Mapping[int, float], axes: Axes) -> Tried:
    good = [trial for trial in trials if not trial.failure and trial.seed in targets]
    return Tried(
        configuration=configuration(text),
        outcomes={
            trial.seed: Outcome(trial, targets[trial.seed], place_of(trial, targets[trial.seed]))
            for trial in good
        },
        failed=tuple(trial for trial in trials if trial.failure),
        command=command_of(trials, axes),
    )


def _between(places: Sequence[float], values: Sequence[float], place: float) -> float:
    """Return the value at a place among ascending ones, on the line through its neighbours."""
    for at in range(1, len(places)):
        if place <= places[at]:
            span = places[at] - places[at - 1]
            share = (place - places[at - 1]) / span if span else 1.0
            return values[at - 1] + share * (values[at] - values[at - 1])
    return values[-1]
