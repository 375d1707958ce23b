"""What devices claim of a round's energy is summed, bounded, and counted for no other round."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.energy import GRACE_S, EnergyClaims, FleetEnergy, unbelievable
from transport.control import EnergyReport
from transport.topics import DeviceTopic

RUN = "a" * 32


def report(energy_j: float = 100.0, above_j: float | None = 60.0, **changes: Any) -> EnergyReport:
    plain = EnergyReport(
        run=RUN,
        round_id=3,
        energy_j=energy_j,
        energy_above_idle_j=above_j,
        idle_w=4.0,
        fetching_j=0.0,
        training_j=energy_j,
        uploading_j=0.0,
        covered_s=10.0,
        uncovered_s=0.0,
        source="ina",
    )
    return replace(plain, **changes)


def claims() -> EnergyClaims:
    return EnergyClaims(RUN, max_device_w=100.0)


def receive(to: EnergyClaims, client_id: str, told: EnergyReport, **where: Any) -> str:
    place = {"round_id": 3, "round_s": 50.0, "now": 1000.0}
    return to.receive(client_id, told, **(place | where))


def test_each_device_s_last_word_counts_once() -> None:
    fleet = claims()
    assert fleet.total(3) == FleetEnergy()
    receive(fleet, "a", report(1.0))
    receive(fleet, "a", report(100.0))
    receive(fleet, "b", report(200.0, 150.0))
    assert fleet.total(3) == FleetEnergy(300.0, 210.0, 2)


def test_energy_beyond_idling_is_of_all_devices_or_of_none() -> None:
    fleet = claims()
    receive(fleet, "a", report())
    receive(fleet, "b", report(above_j=None))
    assert fleet.total(3) == FleetEnergy(200.0, None, 2)


def test_claims_for_other_rounds_and_runs_are_nothing() -> None:
    fleet = claims()
    for other in (report(round_id=2), report(round_id=4), report(run="b" * 32)):
        assert receive(fleet, "a", other) == ""
    assert fleet.total(3) == FleetEnergy()


def test_the_next_round_begins_with_nothing() -> None:
    fleet = claims()
    receive(fleet, "a", report())
    assert fleet.total(4) == FleetEnergy()
    receive(fleet, "b", report(round_id=4), round_id=4)
    assert fleet.total(4).devices == 1
    assert fleet.total(3) == FleetEnergy()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"energy_j": -1.0}, "negative"),
        ({"energy_above_idle_j": -1.0}, "negative"),
        ({"covered_s": -1.0}, "negative"),
        ({"uncovered_s": -1.0}, "negative"),
        ({"covered_s": 111.0}, "111 s of work in a round of 110 s"),
        ({"energy_j": 1002.0}, "1002 J in 10.0 s"),
        ({"energy_j": 1e308}, "J in"),
        ({"covered_s": 0.0}, "100 J in 0.0 s"),
        ({"energy_above_idle_j": 102.0}, "beyond idling"),
    ],
)
def test_a_claim_that_cannot_be_is_told_once_and_changes_nothing(
    change: dict[str, float], fault: str
) -> None:
    fleet = claims()
    receive(fleet, "a", report())
    bad = replace(report(), **change)  # type: ignore[arg-type]  # by name
    assert fault in receive(fleet, "a", bad)
    assert receive(fleet, "a", bad) == ""
    assert fleet.total(3) == FleetEnergy(100.0, 60.0, 1)


def test_a_device_may_go_on_while_no_attempt_is_open() -> None:
    fleet = claims()
    receive(fleet, "b", report())
    long = report(covered_s=500.0)
    assert receive(fleet, "a", long, now=1000.0 + 439.0)
    assert receive(fleet, "b", long, now=1000.0 + 500.0 - GRACE_S) == ""


@settings(deadline=None, max_examples=200)
@given(
    told=st.builds(
        report,
        st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        covered_s=st.floats(allow_nan=False, allow_infinity=False),
        uncovered_s=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_what_is_believed_is_bounded_by_power_and_time(told: EnergyReport) -> None:
    if not unbelievable(told, max_device_w=100.0, most_s=50.0):
        assert 0.0 <= told.energy_j <= 100.0 * 50.0 + 1.0
        assert told.energy_above_idle_j is None or told.energy_above_idle_j <= told.energy_j + 1.0


# On a whole aggregator ---------------------------------------------------------------------------


@pytest.fixture
def telling(update_maker: Any) -> Callable[..., Callable[..., Any]]:
    """A device's script that tells its energy before it sends its update."""

    def telling(rig: Any, **claim: Any) -> Callable[..., Any]:
        def make(**terms: Any) -> Any:
            told = report(run=terms["run"], round_id=terms["round_id"], **claim)
            rig.say(DeviceTopic(terms["client_id"], "energy"), told, retain=True)
            return update_maker(**terms)

        return make

    return telling


def energies(rig: Any) -> list[tuple[Any, ...]]:
    keys = ("energy_j", "energy_above_idle_j", "energy_devices")
    return [tuple(summary[key] for key in keys) for summary in rig.summaries()]


def test_a_round_s_summary_has_what_its_devices_told(make_rig: Any, telling: Any) -> None:
    rig = make_rig().start()
    (a,) = rig.add("a", make=telling(rig, energy_j=50.0, above_j=20.0))
    (b,) = rig.add("b", make=telling(rig, energy_j=70.5, above_j=30.0))
    for device in (a, b):
        device.join()
    rig.finish()
    assert energies(rig) == [(120.5, 50.0, 2), (120.5, 50.0, 2)]


def test_a_fleet_that_measures_nothing_says_so(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    assert energies(rig) == [(None, None, 0)]


def test_who_was_not_asked_and_who_lies_is_not_counted(
    make_rig: Any, telling: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(rounds=1, max_device_w=15.0).start()
    (a,) = rig.add("a", make=telling(rig, energy_j=150.0))
    (b,) = rig.add("b", make=telling(rig, energy_j=152.0))
    run = rig.state.run.run
    rig.say(DeviceTopic("stranger", "energy"), report(9.0, run=run, round_id=1), retain=True)
    rig.say(DeviceTopic("a", "energy"), b"", retain=True)  # an operator has cleared it
    rig.say(DeviceTopic("a", "energy"), b'{"run": 5}')
    with caplog.at_level(logging.WARNING):
        for device in (a, b):
            device.join()
        rig.finish()
    assert energies(rig) == [(150.0, 60.0, 1)]
    assert "client=b claims 152 J in 10.0 s" in caplog.text
    assert rig.summaries()[0]["refused"] == {"malformed": 1}


def test_a_late_figure_changes_no_committed_round(make_rig: Any, telling: Any) -> None:
    rig = make_rig(rounds=2).start()

    def late(**terms: Any) -> Any:
        """Tell the round before once more, in the middle of the next one."""
        old = report(80.0, 20.0, run=terms["run"], round_id=terms["round_id"] - 1)
        rig.say(DeviceTopic(terms["client_id"], "energy"), old, retain=True)
        return telling(rig, energy_j=50.0, above_j=20.0)(**terms)

    for client_id in ("a", "b"):
        (device,) = rig.add(client_id, make=late)
        device.join()
    rig.finish()
    assert energies(rig) == [(100.0, 40.0, 2), (100.0, 40.0, 2)]


def test_a_restart_hears_what_is_retained(make_rig: Any, telling: Any) -> None:
    rig = make_rig(rounds=1, quorum=2).start()
    (a,) = rig.add("a", make=telling(rig, energy_j=50.0, above_j=20.0))
    (b,) = rig.add("b", silent=True)
    a.join()
    b.join()
    rig.settle()
    rig.restart()
    for topic, payload in rig.retained.items():
        if topic.endswith("/energy"):
            rig.say(DeviceTopic("a", "energy"), payload)
    b.silent = False
    b.reconnect()
    b.join()
    rig.finish()
    assert energies(rig) == [(50.0, 20.0, 1)]
