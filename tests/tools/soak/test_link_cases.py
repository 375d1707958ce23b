"""What the link cases conclude from what they measured; the measuring itself is the soak's."""

from __future__ import annotations

import pytest

from tools.netem.profile import load_profile
from tools.soak import flapping, goodput, slow
from tools.soak.cases import case_named
from tools.soak.goodput import Comparison, harmonic_mean
from tools.soak.link_update import UpdateRun


def took(seconds: float, *, disconnects: int = 0, complaints: tuple[str, ...] = ()) -> UpdateRun:
    return UpdateRun(1_000_000, seconds, 1_200_000, disconnects, complaints)


@pytest.mark.parametrize("name", ["goodput", "flapping", "slow"])
def test_the_link_cases_have_both_forms(name: str) -> None:
    entry = case_named(name)
    assert callable(entry.load(quick=False))
    assert callable(entry.load(quick=True))


def test_goodput_is_bits_over_seconds_and_means_are_of_equal_amounts() -> None:
    assert took(10.0).goodput_kbps == 800.0
    assert harmonic_mean([100.0, 300.0]) == pytest.approx(150.0)


def test_goodput_is_reached_where_every_loss_gets_nine_tenths() -> None:
    good = Comparison(5, "bbr", (took(10.0), took(10.0)), (880.0, 880.0))
    bad = Comparison(20, "bbr", (took(20.0),), (500.0,))
    assert goodput.outcome([good]).reached
    result = goodput.outcome([good, bad])
    assert not result.reached
    assert "20 %: 400 kbit/s, 80% of 500 (bbr)" in result.measured
    assert result.details["5"]["share"] == 0.909


def test_goodputs_link_is_the_figures() -> None:
    link = goodput.link(20)
    assert link.up == link.down
    assert (link.up.rate_kbit, link.up.delay_ms, link.up.loss_percent) == (1000, 100, 20)


@pytest.mark.parametrize(
    ("elapsed_s", "phases"),
    [
        (0, [(20, False), (20, True)]),
        (5, [(15, False), (20, True), (5, False)]),
        (20, [(20, True), (20, False)]),
        (35, [(5, True), (20, False), (15, True)]),
        (45, [(15, False), (20, True), (5, False)]),
    ],
)
def test_a_cycle_can_begin_anywhere(elapsed_s: float, phases: list[tuple[float, bool]]) -> None:
    begun = flapping.begun_at(load_profile("flapping"), elapsed_s)
    assert [(phase.for_s, phase.cut) for phase in begun.phases] == phases
    assert begun.cycle_s == 40


def test_flapping_is_reached_where_the_slowest_is_in_time() -> None:
    assert flapping.outcome([(0.0, took(20.0)), (25.0, took(60.0))]).reached
    result = flapping.outcome([(0.0, took(20.0)), (25.0, took(61.0))])
    assert not result.reached
    assert result.measured == "20 to 61 s (2 begun at different moments)"


def test_slow_is_reached_without_disconnects_and_complaints() -> None:
    assert slow.outcome(took(80.0)).reached
    assert slow.outcome(took(80.0)).measured == "80 s, 100.0 kbit/s, 0 disconnects"
    assert not slow.outcome(took(80.0, disconnects=1)).reached
    assert not slow.outcome(took(80.0, complaints=("exceeded timeout",))).reached
