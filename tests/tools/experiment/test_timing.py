"""tools.experiment.timing: the straggler formula, links and slowdowns by seed, loss, energy."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.experiment.timing import (
    MEASURED_GOODPUT,
    ClientLink,
    ClientRound,
    LinkProfile,
    Power,
    RoundTime,
    Slowdown,
    Tcp,
    TimeModel,
    draw_link,
    draw_slowdown,
    goodput_bps,
    transfer_seconds,
)

FLEET = [f"c{number:02}" for number in range(2000)]

clients = st.lists(
    st.builds(
        ClientRound,
        client_id=st.sampled_from(FLEET[:40]),
        bytes_up=st.integers(0, 10**9),
        train_s=st.floats(0, 1000),
        encode_s=st.floats(0, 10),
        arrived=st.booleans(),
        bytes_down=st.integers(0, 10**8),
    ),
    max_size=8,
)
models = st.builds(
    TimeModel,
    profile=st.sampled_from(LinkProfile),
    seed=st.integers(0, 10**6),
    slowdown=st.builds(Slowdown, share=st.floats(0, 1), low=st.floats(1, 2), high=st.floats(2, 4)),
    loss=st.floats(0, 0.2),
    tcp=st.sampled_from(Tcp),
)


def test_a_round_takes_what_the_formula_says() -> None:
    """20 Mbit/s: 2.5 MB are one second; three round trips of 50 ms; 4 s of training."""
    time = TimeModel().round_time([ClientRound("a", 2_500_000, 4.0, 0.5)])
    assert time.seconds == pytest.approx(4.0 + 0.5 + 1.0 + 0.15)
    assert (time.compute_s, time.encode_s, time.transfer_s) == (4.0, 0.5, 1.0)
    assert time.straggler == "a"


def test_the_slowest_arrived_client_ends_the_round() -> None:
    """Who did not arrive is not waited for."""
    quick, slow, lost = (
        ClientRound("quick", 0, 1.0),
        ClientRound("slow", 0, 2.0),
        ClientRound("lost", 0, 9.0, arrived=False),
    )
    assert TimeModel().round_time([quick, slow, lost]).straggler == "slow"
    assert TimeModel().round_time([lost]) == RoundTime(0.0)


def test_the_parts_of_a_round_add_up_to_it() -> None:
    """Also with a slow client on a mixed link."""
    model = TimeModel(LinkProfile.LTE_MIXED, seed=3, slowdown=Slowdown(1.0, 3.0, 3.0))
    time = model.round_time([ClientRound("a", 10**6, 2.0, 0.1, bytes_down=10**5)])
    assert time.compute_s == 6.0
    parts = time.compute_s + time.encode_s + time.transfer_s + time.latency_s
    assert time.seconds == pytest.approx(parts)


@settings(deadline=None, max_examples=60)
@given(models, clients, st.integers(0, 7), st.integers(1, 10**8))
def test_more_bytes_never_make_a_round_shorter(
    model: TimeModel, cohort: list[ClientRound], place: int, more: int
) -> None:
    """Of any client, in either direction."""
    before = model.round_time(cohort).seconds
    for name in ("bytes_up", "bytes_down"):
        longer = [
            replace(client, **{name: getattr(client, name) + more}) if index == place else client
            for index, client in enumerate(cohort)
        ]
        assert model.round_time(longer).seconds >= before


@settings(deadline=None, max_examples=60)
@given(models, clients)
def test_fewer_arrivals_never_make_a_round_longer_and_order_does_not_matter(
    model: TimeModel, cohort: list[ClientRound]
) -> None:
    """The maximum over a part is at most that over all."""
    whole = model.round_time(cohort).seconds
    assert model.round_time(cohort[1:]).seconds <= whole
    assert model.round_time(cohort[::-1]).seconds == whole


@settings(deadline=None, max_examples=60)
@given(st.floats(1e4, 1e9), st.floats(1.01, 10), st.floats(0, 0.2), st.sampled_from(Tcp))
def test_goodput_grows_with_the_rate_and_falls_with_loss(
    rate_bps: float, factor: float, loss: float, tcp: Tcp
) -> None:
    """And never exceeds the rate."""
    slow, fast = ClientLink(rate_bps, 0.05), ClientLink(rate_bps * factor, 0.05)
    here = goodput_bps(slow, loss=loss, tcp=tcp)
    assert 0 < here <= rate_bps
    assert goodput_bps(fast, loss=loss, tcp=tcp) >= here
    assert goodput_bps(slow, loss=loss / 2, tcp=tcp) >= here


def test_without_loss_the_formula_has_the_links_own_rate() -> None:
    """The paper's formula is the model's at no loss."""
    assert TimeModel().rate_bps("a") == 20e6
    assert transfer_seconds(0, rate_bps=1.0) == 0


def test_mathis_is_as_published() -> None:
    """1.22 · MSS / (RTT · √p): at 1 % and 50 ms, 2.84 Mbit/s."""
    link = ClientLink(1e9, 0.05)
    assert goodput_bps(link, loss=0.01, tcp=Tcp.MATHIS) == pytest.approx(2.8375e6, rel=1e-3)
    slow = ClientLink(1e6, 0.05)
    assert goodput_bps(slow, loss=0.01, tcp=Tcp.MATHIS) == pytest.approx(0.99e6)


@pytest.mark.parametrize(("loss", "share"), MEASURED_GOODPUT)
def test_measured_goodput_goes_through_the_measured_points(loss: float, share: float) -> None:
    """Linear between them."""
    assert goodput_bps(ClientLink(1e6, 0.2), loss=loss, tcp=Tcp.MEASURED) == pytest.approx(
        1e6 * share
    )


@pytest.mark.parametrize(
    ("loss", "tcp"),
    [(-0.1, Tcp.MATHIS), (1.0, Tcp.MATHIS), (0.21, Tcp.MEASURED), (math.nan, Tcp.MATHIS)],
)
def test_a_loss_that_no_model_knows_is_refused(loss: float, tcp: Tcp) -> None:
    """Rather than guessed at."""
    with pytest.raises(ValueError, match="packet loss"):
        goodput_bps(ClientLink(1e6, 0.2), loss=loss, tcp=tcp)


def test_controlled_lte_is_the_same_for_all() -> None:
    """20 Mbit/s."""
    assert {draw_link(LinkProfile.LTE_20, name, seed=1).rate_bps for name in FLEET} == {20e6}


def test_mixed_lte_is_as_described() -> None:
    """A fifth straggles at 0.5 to 2 Mbit/s, the others' median is 10."""
    links = [draw_link(LinkProfile.LTE_MIXED, name, seed=1) for name in FLEET]
    tail = [link for link in links if link.is_straggler]
    others = [link for link in links if not link.is_straggler]
    assert len(tail) / len(links) == pytest.approx(0.2, abs=0.03)
    assert all(0.5e6 <= link.rate_bps <= 2e6 for link in tail)
    assert all(2e6 <= link.rate_bps <= 50e6 for link in others)
    assert median(link.rate_bps for link in others) == pytest.approx(10e6, rel=0.05)
    assert min(link.round_trip_s for link in tail) > max(link.round_trip_s for link in others)


def test_draws_depend_on_seed_and_name_alone() -> None:
    """The same again, others under another seed; the links' draws are not the slowdowns'."""
    mixed, slow = LinkProfile.LTE_MIXED, Slowdown(0.3, 2.0, 4.0)
    assert draw_link(mixed, "a", seed=1) == draw_link(mixed, "a", seed=1)
    assert draw_link(mixed, "a", seed=1) != draw_link(mixed, "a", seed=2)
    assert draw_link(mixed, "a", seed=1) != draw_link(mixed, "b", seed=1)
    straggling = {n for n in FLEET if draw_link(mixed, n, seed=1).is_straggler}
    slowed = {n for n in FLEET if draw_slowdown(slow, n, seed=1) > 1}
    assert len(straggling & slowed) / len(FLEET) == pytest.approx(0.06, abs=0.02)


def test_slowdowns_have_their_share_and_range() -> None:
    """30 % of the clients, 2 to 4 times."""
    factors = [draw_slowdown(Slowdown(0.3, 2.0, 4.0), name, seed=5) for name in FLEET]
    slow = [factor for factor in factors if factor != 1.0]
    assert len(slow) / len(factors) == pytest.approx(0.3, abs=0.03)
    assert min(slow) >= 2.0
    assert max(slow) <= 4.0


@pytest.mark.parametrize(
    "wrong", [(1.1, 2.0, 4.0), (0.3, 0.5, 4.0), (0.3, 4.0, 2.0), (0.3, 2.0, math.inf)]
)
def test_a_slowdown_that_is_none_is_refused(wrong: tuple[float, float, float]) -> None:
    """Factors below one, falling ranges, shares above one."""
    with pytest.raises(ValueError, match="slowdown"):
        Slowdown(*wrong)


def test_energy_is_compute_and_radio() -> None:
    """10 W for 4.5 s, 2 W for one second; the mean is over the cohort, dropped clients too."""
    cohort = [ClientRound("a", 2_500_000, 4.0, 0.5), ClientRound("b", 0, 1.0, arrived=False)]
    energy = TimeModel().round_energy(cohort, Power(10.0, 2.0))
    assert energy.straggler_j == pytest.approx(47.0)
    assert energy.mean_j == pytest.approx((47.0 + 10.0) / 2)
    assert energy.transmit_mean_j == pytest.approx(1.0)
    assert TimeModel().round_energy([], Power()).mean_j == 0


@settings(deadline=None, max_examples=60)
@given(models, clients, st.floats(0, 5), st.floats(0, 5))
def test_more_radio_power_never_costs_less(
    model: TimeModel, cohort: list[ClientRound], lower: float, higher: float
) -> None:
    """And the mean is never above the maximum."""
    low, high = sorted((lower, higher))
    less = model.round_energy(cohort, Power(10.0, low))
    more = model.round_energy(cohort, Power(10.0, high))
    assert more.mean_j >= less.mean_j
    assert more.straggler_j >= less.straggler_j
    assert less.mean_j <= less.straggler_j * (1 + 1e-9)


def test_a_line_of_a_trials_file_is_read() -> None:
    """Unknown keys are other rooms'."""
    line = {
        "id": "c03",
        "bytes": 100,
        "train_s": 1.5,
        "encode_s": 0.1,
        "arrived": False,
        "examples": 9,
    }
    assert ClientRound.from_record(line) == ClientRound("c03", 100, 1.5, 0.1, arrived=False)
    assert ClientRound.from_record({**line, "wire": 120}).bytes_up == 120
