"""Energy of rounds from samples of the board's power: trapezoids, and what idling would have taken.

Pure: samples and changes of phase come in with their moments. A trapezoid that a change of phase
falls into is cut there, on the straight line between its two samples. A gap between samples that
is too long is time that nobody measured: it is counted as such, and no energy is made up for it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

# A gap of more than so many sample intervals is time that was not measured.
GAP_INTERVALS = 5.0
# The power of idling is this quantile of the newest samples while nothing was on: low, since other
# programs' work only ever adds; not the lowest, since one bad sample must not set it.
IDLE_QUANTILE = 0.1
IDLE_SAMPLES = 360
# Fewer say too little.
LEAST_IDLE_SAMPLES = 6
# [rounds] An update may be offered for longer than its own round.
KEPT_ROUNDS = 8
# Changes of phase between two samples; with more of them the sensor is as good as gone.
MAX_PENDING = 256


class Phase(str, Enum):
    """What energy was spent on."""

    IDLE = "idle"
    FETCHING = "fetching"
    TRAINING = "training"
    UPLOADING = "uploading"


@dataclass(frozen=True, slots=True)
class Sample:
    """The board's power at a moment.

    Attributes:
        at: Monotonic seconds.
        power_w: Watts.
    """

    at: float
    power_w: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Energy over a time, and how much of that time it was measured in."""

    energy_j: float = 0.0
    covered_s: float = 0.0
    uncovered_s: float = 0.0

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            self.energy_j + other.energy_j,
            self.covered_s + other.covered_s,
            self.uncovered_s + other.uncovered_s,
        )


@dataclass(frozen=True, slots=True)
class RoundEnergy:
    """What a round has taken so far; idling is no part of it.

    Attributes:
        fetching: Until the adapter version is here.
        training: The trainer's time, encoding included.
        uploading: While segments wait to be accepted and nothing else is on.
    """

    fetching: Measured = Measured()
    training: Measured = Measured()
    uploading: Measured = Measured()

    @property
    def total(self) -> Measured:
        """All phases together."""
        return self.fetching + self.training + self.uploading

    def above_idle_j(self, idle_w: float) -> float:
        """Return the energy beyond what idling would have taken in the measured time."""
        total = self.total
        return max(total.energy_j - idle_w * total.covered_s, 0.0)


@dataclass(frozen=True, slots=True)
class _Activity:
    """What is on from a moment on; round 0 is none."""

    since: float
    phase: Phase
    round_id: int


def trapezoid(first: Sample, second: Sample, *, max_gap_s: float) -> Measured:
    """Return the energy between two samples; none, over uncovered time, where they are too far."""
    seconds = max(second.at - first.at, 0.0)
    if seconds > max_gap_s:
        return Measured(uncovered_s=seconds)
    return Measured((first.power_w + second.power_w) / 2 * seconds, covered_s=seconds)


def low_quantile(values: Iterable[float], *, share: float) -> float:
    """Return the value that this share of all values, rounded down, is below."""
    ascending = sorted(values)
    return ascending[int(share * len(ascending))]


class EnergyMeter:
    """Adds up what each round takes."""

    def __init__(self) -> None:
        self._activities = [_Activity(float("-inf"), Phase.IDLE, 0)]
        self._before: Sample | None = None
        self._max_gap_s = 0.0
        self._idle: deque[float] = deque(maxlen=IDLE_SAMPLES)
        self._rounds: OrderedDict[int, RoundEnergy] = OrderedDict()
        self._total = Measured()

    @property
    def total(self) -> Measured:
        """Everything since the start, idling included."""
        return self._total

    @property
    def idle_w(self) -> float | None:
        """What idling takes; None before there are samples enough."""
        if len(self._idle) < LEAST_IDLE_SAMPLES:
            return None
        return low_quantile(self._idle, share=IDLE_QUANTILE)

    def round(self, round_id: int) -> RoundEnergy:
        """Return what a round has taken up to the last sample."""
        return self._rounds.get(round_id, RoundEnergy())

    def forget_rounds(self) -> None:
        """Forget all rounds: another run has begun."""
        self._rounds.clear()

    def begin(self, phase: Phase, *, round_id: int, now: float) -> bool:
        """Note what is on from now on; return whether that is a change."""
        last = self._activities[-1]
        if (phase, round_id) == (last.phase, last.round_id):
            return False
        self._activities.append(_Activity(max(now, last.since), phase, round_id))
        if len(self._activities) > MAX_PENDING:
            self._before = None
        if self._before is None:
            # Nothing is measured, so nobody needs to know what was on before.
            del self._activities[:-1]
        return True

    def sample(self, power_w: float, *, interval_s: float, now: float) -> None:
        """Take a sample.

        Args:
            power_w: The board's power in watts, finite and not negative.
            interval_s: When the next one is meant to follow; gaps are judged by it.
            now: Monotonic seconds.
        """
        assert power_w >= 0
        sample, before = Sample(now, power_w), self._before
        if before is not None:
            self._add(before, sample)
        del self._activities[:-1]
        if self._activities[-1].phase is Phase.IDLE:
            self._idle.append(power_w)
        self._before = sample
        self._max_gap_s = GAP_INTERVALS * interval_s

    def _add(self, before: Sample, sample: Sample) -> None:
        self._total += trapezoid(before, sample, max_gap_s=self._max_gap_s)
        fits = sample.at - before.at <= self._max_gap_s
        ends = [activity.since for activity in self._activities[1:]] + [sample.at]
        for activity, end in zip(self._activities, ends, strict=True):
            first, second = (
                _between(before, sample, moment) for moment in (max(activity.since, before.at), end)
            )
            piece = trapezoid(first, second, max_gap_s=self._max_gap_s if fits else -1.0)
            self._attribute(activity, piece)

    def _attribute(self, activity: _Activity, piece: Measured) -> None:
        phase, round_id = activity.phase, activity.round_id
        if phase is Phase.IDLE or not round_id:
            return
        energy = self._rounds.pop(round_id, RoundEnergy())
        match phase:
            case Phase.FETCHING:
                energy = replace(energy, fetching=energy.fetching + piece)
            case Phase.TRAINING:
                energy = replace(energy, training=energy.training + piece)
            case Phase.UPLOADING:
                energy = replace(energy, uploading=energy.uploading + piece)
        self._rounds[round_id] = energy
        while len(self._rounds) > KEPT_ROUNDS:
            self._rounds.popitem(last=False)


def _between(first: Sample, second: Sample, at: float) -> Sample:
    """Return the sample that a straight line between two others has at a moment."""
    at = min(max(at, first.at), second.at)
    if second.at <= first.at:
        return replace(first, at=at)
    share = (at - first.at) / (second.at - first.at)
    return Sample(at, first.power_w + (second.power_w - first.power_w) * share)
