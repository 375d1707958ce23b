"""Energy is the area under the samples: additive, never negative, and never made up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.energy import (
    GAP_INTERVALS,
    IDLE_SAMPLES,
    KEPT_ROUNDS,
    LEAST_IDLE_SAMPLES,
    MAX_PENDING,
    EnergyMeter,
    Measured,
    Phase,
    RoundEnergy,
    Sample,
    low_quantile,
    trapezoid,
)

watts = st.floats(0, 1000)
seconds = st.floats(0.001, 4.9)
# Uneven steps in time, each with the power at its end.
courses = st.lists(st.tuples(seconds, watts), min_size=1, max_size=30)


def course(meter: EnergyMeter, steps: list[tuple[float, float]], *, at: float = 0.0) -> float:
    """Feed a meter with steps; return the moment of the last."""
    for step_s, power_w in steps:
        at += step_s
        meter.sample(power_w, interval_s=1.0, now=at)
    return at


def training(steps: list[tuple[float, float]], *, at: float = 0.0) -> EnergyMeter:
    meter = EnergyMeter()
    meter.begin(Phase.TRAINING, round_id=1, now=at)
    course(meter, steps, at=at)
    return meter


def test_a_steady_power_is_a_rectangle() -> None:
    meter = training([(1.0, 10.0)] * 61)
    assert meter.round(1).training == Measured(600.0, 60.0, 0.0)
    assert meter.round(2) == RoundEnergy()
    assert meter.total == meter.round(1).total


@settings(deadline=None, max_examples=200)
@given(steps=courses)
def test_energy_is_never_negative_and_all_time_is_accounted_for(
    steps: list[tuple[float, float]],
) -> None:
    total = training(steps).round(1).total
    assert total.energy_j >= 0
    assert total.covered_s == pytest.approx(sum(step_s for step_s, _ in steps[1:]), abs=1e-9)
    assert total.uncovered_s == 0.0
    least, most = min(power_w for _, power_w in steps), max(power_w for _, power_w in steps)
    slack = 1e-6 + 1e-9 * most * total.covered_s
    assert least * total.covered_s - slack <= total.energy_j <= most * total.covered_s + slack


@settings(deadline=None, max_examples=200)
@given(steps=courses, cut=st.integers(0, 29))
def test_the_energy_of_two_parts_is_that_of_the_whole(
    steps: list[tuple[float, float]], cut: int
) -> None:
    cut = min(cut, len(steps) - 1)
    at = sum(step_s for step_s, _ in steps[: cut + 1])
    whole = training(steps)
    first = training(steps[: cut + 1])
    second = training([(0.0, steps[cut][1]), *steps[cut + 1 :]], at=at)
    parts = first.round(1).total + second.round(1).total
    assert whole.round(1).total.energy_j == pytest.approx(parts.energy_j, rel=1e-9, abs=1e-6)


@settings(deadline=None, max_examples=200)
@given(
    first=st.builds(Sample, st.just(0.0), watts),
    second=st.builds(Sample, seconds, watts),
    share=st.floats(0, 1),
)
def test_a_sample_on_the_line_between_two_others_changes_nothing(
    first: Sample, second: Sample, share: float
) -> None:
    power_w = first.power_w + (second.power_w - first.power_w) * share
    middle = Sample(second.at * share, max(power_w, 0.0))
    direct = trapezoid(first, second, max_gap_s=5.0)
    bent = trapezoid(first, middle, max_gap_s=5.0) + trapezoid(middle, second, max_gap_s=5.0)
    assert bent.energy_j == pytest.approx(direct.energy_j, rel=1e-9, abs=1e-9)
    assert bent.covered_s == pytest.approx(direct.covered_s)


@settings(deadline=None, max_examples=200)
@given(
    steps=courses,
    changes=st.lists(
        st.tuples(st.floats(0, 80), st.sampled_from([*Phase]), st.integers(0, 3)), max_size=10
    ),
)
def test_every_joule_is_one_phase_s(
    steps: list[tuple[float, float]], changes: list[tuple[float, Phase, int]]
) -> None:
    """What rounds have is what is not idle; changes between samples cut on the straight line."""
    meter, working = EnergyMeter(), EnergyMeter()
    due, at = sorted(changes, key=lambda change: change[0]), 0.0
    for step_s, power_w in steps:
        while due and due[0][0] <= at + step_s:
            moment, phase, round_id = due.pop(0)
            meter.begin(phase, round_id=round_id or 1, now=moment)
        at += step_s
        meter.sample(power_w, interval_s=1.0, now=at)
    course(working, steps)
    rounds = Measured()
    for round_id in (1, 2, 3):
        rounds += meter.round(round_id).total
    assert meter.total.energy_j == pytest.approx(working.total.energy_j, rel=1e-9, abs=1e-6)
    assert -1e-6 <= rounds.energy_j <= meter.total.energy_j * (1 + 1e-9) + 1e-6
    if changes and changes[0][1] is not Phase.IDLE and len(changes) == 1 and changes[0][0] == 0:
        assert rounds.energy_j == pytest.approx(meter.total.energy_j, rel=1e-9, abs=1e-6)


def test_a_change_between_two_samples_cuts_the_trapezoid() -> None:
    meter = EnergyMeter()
    meter.sample(0.0, interval_s=1.0, now=0.0)
    assert meter.begin(Phase.FETCHING, round_id=7, now=1.0)
    assert not meter.begin(Phase.FETCHING, round_id=7, now=1.5)
    assert meter.begin(Phase.TRAINING, round_id=7, now=2.0)
    assert meter.begin(Phase.UPLOADING, round_id=7, now=3.0)
    meter.sample(40.0, interval_s=1.0, now=4.0)
    energy = meter.round(7)
    assert energy.fetching == Measured(15.0, 1.0)
    assert energy.training == Measured(25.0, 1.0)
    assert energy.uploading == Measured(35.0, 1.0)
    assert meter.total == Measured(80.0, 4.0)


def test_a_long_gap_is_time_that_nobody_measured() -> None:
    meter = training([(1.0, 10.0), (1.0, 10.0)])
    meter.sample(10.0, interval_s=1.0, now=2.0 + GAP_INTERVALS)
    assert meter.round(1).total == Measured(10.0 * (1 + GAP_INTERVALS), 1 + GAP_INTERVALS, 0.0)
    meter.begin(Phase.UPLOADING, round_id=1, now=100.0)
    meter.sample(10.0, interval_s=1.0, now=107.0)
    energy = meter.round(1)
    assert energy.total.energy_j == 10.0 * (1 + GAP_INTERVALS)
    assert (energy.training.uncovered_s, energy.uploading.uncovered_s) == (93.0, 7.0)


def test_a_gap_is_judged_by_the_interval_that_was_meant() -> None:
    meter = EnergyMeter()
    meter.sample(5.0, interval_s=10.0, now=0.0)
    meter.begin(Phase.TRAINING, round_id=1, now=9.0)
    meter.sample(5.0, interval_s=1.0, now=10.0)
    assert meter.round(1).total == Measured(5.0, 1.0)


def test_what_idling_takes_is_a_low_quantile_and_is_left_out() -> None:
    meter = EnergyMeter()
    for second in range(LEAST_IDLE_SAMPLES):
        assert meter.idle_w is None
        meter.sample(4.0, interval_s=10.0, now=10.0 * second)
    meter.sample(30.0, interval_s=10.0, now=60.0)
    assert meter.idle_w == 4.0
    meter.begin(Phase.TRAINING, round_id=1, now=60.0)
    for second in range(61, 71):
        meter.sample(30.0, interval_s=1.0, now=float(second))
    assert meter.idle_w == 4.0  # work is no idling
    energy = meter.round(1)
    assert energy.total.energy_j == 300.0
    assert energy.above_idle_j(4.0) == 260.0
    assert energy.above_idle_j(99.0) == 0.0


@pytest.mark.parametrize(
    ("values", "low"), [([7.0], 7.0), ([3.0, 1.0, 2.0], 1.0), ([*map(float, range(20))], 2.0)]
)
def test_a_tenth_of_the_samples_is_below(values: list[float], low: float) -> None:
    assert low_quantile(values, share=0.1) == low


def test_what_is_kept_is_bounded() -> None:
    meter = EnergyMeter()
    for moment in range(2 * IDLE_SAMPLES):
        meter.sample(4.0, interval_s=1.0, now=float(moment))
    assert len(meter._idle) == IDLE_SAMPLES
    for round_id in range(1, 2 * KEPT_ROUNDS):
        meter.begin(Phase.TRAINING, round_id=round_id, now=1000.0 + round_id)
        meter.sample(4.0, interval_s=1.0, now=1000.5 + round_id)
    assert len(meter._rounds) == KEPT_ROUNDS
    newest = meter.round(2 * KEPT_ROUNDS - 1)
    assert newest.total.energy_j == 2.0
    for change in range(2 * MAX_PENDING):
        meter.begin(Phase.TRAINING, round_id=change, now=2000.0)
    assert len(meter._activities) <= MAX_PENDING
    meter.forget_rounds()
    assert meter.round(2 * KEPT_ROUNDS - 1) == RoundEnergy()


def test_work_for_no_round_is_no_round_s_and_no_idling() -> None:
    """An evaluation alone."""
    meter = EnergyMeter()
    meter.begin(Phase.TRAINING, round_id=0, now=0.0)
    course(meter, [(1.0, 10.0)] * 3)
    assert meter.total.energy_j == 20.0
    assert (meter.round(0), meter.idle_w) == (RoundEnergy(), None)
    assert not meter._idle


def test_a_clock_that_stands_still_gives_no_energy() -> None:
    meter = training([(1.0, 10.0), (0.0, 1000.0)])
    assert meter.round(1).total == Measured()
