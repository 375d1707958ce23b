"""Scripts of faults: what goes wrong, and that nothing is lost by it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tools.simulate.campaign import Campaign, quiet, run
from tools.simulate.faults import AGENT_POINTS, AGGREGATOR_POINTS, ALL, SAME_NAME, Fault, Kind
from tools.simulate.line import Network
from tools.simulate.scenario import COORD, random_scenario
from tools.simulate.world import World, simulate

# `make test` plays some; continuous integration says how many more.
SEEDS = int(os.environ.get("FEDFSTQ_SIMULATED_SEEDS", "60"))
ROUNDS = 25


def test_random_seeds_keep_every_promise() -> None:
    findings = run(Campaign(SEEDS, 1, None, ROUNDS, ALL), jobs=1)
    assert findings.failure is None, findings.failure
    assert findings.rounds > SEEDS * ROUNDS * 0.9
    assert findings.tally()["crash d"] > SEEDS / 10


def test_a_healthy_fleet_sends_everything_once(script: Any, play: Any) -> None:
    outcome = play(script())
    assert outcome.tally["resent"] == 0
    assert outcome.tally["cuts"] == 0


@pytest.mark.parametrize("point", AGENT_POINTS)
@pytest.mark.parametrize("codec", ["fstq", "fstq-r"])
def test_an_agent_dies_at_a_point(script: Any, play: Any, point: str, codec: str) -> None:
    fault = Fault(20.0, Kind.AGENT_CRASH, "d0", 10.0, point)
    late = Fault(300.0, Kind.AGENT_CRASH, "d1", 1.0)  # until here, the point may be reached
    outcome = play(script(fault, late, codec=codec, goal=3))
    assert outcome.tally[f"died at {point}"] == 1


@pytest.mark.parametrize("point", AGGREGATOR_POINTS)
@pytest.mark.parametrize("downlink", [None, "fstq+"])
def test_the_aggregator_dies_at_a_point(
    script: Any, play: Any, point: str, downlink: str | None
) -> None:
    fault = Fault(20.0, Kind.AGGREGATOR_CRASH, COORD, 10.0, point)
    late = Fault(300.0, Kind.AGENT_CRASH, "d1", 1.0)
    outcome = play(script(fault, late, downlink_codec=downlink))
    assert outcome.tally[f"died at {point}"] == 1


@pytest.mark.parametrize("kind", [Kind.BROKER_KILL, Kind.BROKER_WIPE, Kind.BROKER_RESTORE])
def test_the_broker_forgets_again_and_again(script: Any, play: Any, kind: Kind) -> None:
    faults = [Fault(at, kind, duration_s=5.0) for at in range(15, 200, 20)]
    outcome = play(script(*faults, rounds=10))
    assert outcome.tally[f"fault {kind.value}"] == len(faults)


@pytest.mark.parametrize("at", [10.5, 10.75, 11.0])
def test_a_broker_that_forgets_while_the_lead_is_claimed_costs_no_round(
    script: Any, play: Any, at: float
) -> None:
    """Whom the connection before showed may be away when the aggregator leads again."""
    wipes = [Fault(moment, Kind.BROKER_WIPE, duration_s=0.2) for moment in (at, at + 0.8)]
    outcome = play(script(*wipes, devices=2, goal=2, quorum=2, rounds=3, deadline_s=600.0, seed=2))
    assert outcome.virtual_s < 90.0, "nobody waited for an answer, let alone for the deadline"


def test_a_long_blackout_makes_an_update_late_and_not_lost(script: Any, play: Any) -> None:
    """The device comes back after its round; what it trained counts in a later one."""
    dark = Fault(14.0, Kind.BLACKOUT, "d0", 40.0)
    outcome = play(script(dark, goal=3, quorum=2, rounds=10, deadline_s=40.0))
    assert outcome.tally["stale"] >= 1


@pytest.mark.parametrize("late", ["merge", "drop"])
def test_a_late_update_goes_where_the_policy_says(script: Any, play: Any, late: str) -> None:
    dark = Fault(14.0, Kind.BLACKOUT, "d0", 40.0)
    settings = {"goal": 3, "quorum": 2, "rounds": 10, "deadline_s": 40.0, "late": late}
    outcome = play(script(dark, **settings))
    assert outcome.tally["stale"] == 0
    reason = "late" if late == "merge" else "dropped"
    assert outcome.tally[f"receipt late {reason}"] >= 1


def test_a_slow_uplink_brings_a_part_of_an_update(script: Any, play: Any) -> None:
    """At the deadline an update counts with what has come of it."""
    outcome = play(
        script(
            traits={"d0": {"segments": 40}},
            networks={"d0": Network(bytes_per_s=350.0)},
            goal=3,
            quorum=2,
            deadline_s=30.0,
            rounds=6,
        )
    )
    assert outcome.tally["partial"] >= 1


def test_devices_that_never_return_and_slow_ones(script: Any, play: Any) -> None:
    traits: dict[str, dict[str, Any]] = {f"d{number}": {"stays_away": True} for number in range(3)}
    traits |= {f"d{number}": {"train_s": 100.0} for number in (3, 4)}
    outcome = play(script(devices=10, goal=7, quorum=3, rounds=5, deadline_s=60.0, traits=traits))
    assert outcome.virtual_s < 5 * 65.0 + 600.0


def test_a_cut_sends_at_most_two_windows_again(script: Any, play: Any) -> None:
    cuts = [Fault(at, Kind.CUT, "d0") for at in range(12, 120, 3)]
    traits = {"d0": {"segments": 400}}
    outcome = play(script(*cuts, traits=traits, goal=3, deadline_s=300.0))
    assert outcome.tally["cuts"] > 5


def test_a_hostile_device_changes_nothing(script: Any, play: Any) -> None:
    outcome = play(script(devices=4, hostile=frozenset({"d3"}), rounds=20, goal=2))
    assert sum(name.startswith("attack") for name in outcome.tally) > 5


def test_an_operator_pauses_a_device_in_the_middle_of_its_training(script: Any, play: Any) -> None:
    """It finishes that and uploads it in the pause, and is asked again after the resume."""
    pauses = Fault(14.0, Kind.PAUSE, "d0", 30.0), Fault(14.0, Kind.PAUSE, "d1", 30.0)
    outcome = play(script(*pauses, devices=2, goal=2, quorum=2, rounds=3))
    assert outcome.tally["fault pause"] == 2
    assert outcome.tally["updates"] == 6
    assert outcome.tally["receipt accepted"] == 6


def test_a_pause_that_never_seems_to_end_outlives_a_crash(script: Any, play: Any) -> None:
    faults = Fault(14.0, Kind.PAUSE, "d0", 900.0), Fault(60.0, Kind.AGENT_CRASH, "d0", 20.0)
    outcome = play(script(*faults, devices=2, goal=2, quorum=2, rounds=3, deadline_s=60.0))
    assert outcome.virtual_s > 900.0


def test_a_device_that_grows_hot_trains_its_round_again(script: Any, play: Any) -> None:
    heat = Fault(14.0, Kind.HEAT, "d0", 30.0)
    traits = {"d0": {"train_s": 20.0}}
    outcome = play(script(heat, devices=2, goal=2, quorum=2, rounds=3, traits=traits))
    assert outcome.tally["fault heat"] == 1
    assert outcome.tally["updates"] == 6


def test_a_lid_that_is_closed_for_long(script: Any, play: Any) -> None:
    outcome = play(script(Fault(15.0, Kind.CLOCK, "d0", 3600.0), rounds=6))
    assert outcome.tally["fault clock"] == 1


@pytest.mark.parametrize("at", [8.0, 16.0, 22.0, 31.0])
@pytest.mark.parametrize("name", ["", SAME_NAME])
def test_a_copied_state_folder_makes_no_second_lineage(script: Any, at: float, name: str) -> None:
    with quiet():
        outcome = World(script(Fault(at, Kind.TWO_AGGREGATORS, point=name), rounds=10)).run()
    assert outcome.violation == "", outcome.text
    assert outcome.tally.get("fenced off", 0) + outcome.tally.get("aggregator gave way", 0) >= 1


@pytest.mark.parametrize("at", [16.0, 22.0])
def test_a_copy_that_led_while_the_first_one_was_away_and_a_wipe_leave_one(
    script: Any, play: Any, at: float
) -> None:
    """Nothing that is retained tells any more with which epoch devices were asked."""
    faults = (
        Fault(at, Kind.BLACKOUT, "coord", 45.0),
        Fault(at + 1.0, Kind.TWO_AGGREGATORS),
        Fault(at + 40.0, Kind.BROKER_WIPE, duration_s=2.0),
    )
    outcome = play(script(*faults, rounds=10))
    assert outcome.rounds == 10
    assert outcome.tally["fenced off"] == 1


def test_a_copied_device_counts_once(script: Any) -> None:
    with quiet():
        outcome = World(script(Fault(20.0, Kind.CLONE, "d0"), rounds=10)).run()
    assert outcome.violation == "", outcome.text


def test_real_bytes_change_nothing(script: Any, play: Any) -> None:
    """Messages that pass through frames and JSON give the same run to the last delivery."""
    faults = (Fault(20.0, Kind.CUT, "d0"), Fault(30.0, Kind.AGENT_CRASH, "d1", 5.0))
    plain = script(*faults, downlink_codec="fstq+")
    assert play(plain).trace == play(replace(plain, wire=True)).trace


def test_the_same_seed_gives_the_same_run() -> None:
    with quiet():
        first, second = (simulate(random_scenario(11)) for _ in range(2))
        other = simulate(random_scenario(12))
    assert first == second
    assert first.trace != other.trace


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    """Nothing depends on the order of hashes."""
    code = (
        "from tools.simulate.campaign import quiet; from tools.simulate.world import simulate;"
        "from tools.simulate.scenario import random_scenario\n"
        "with quiet(): print(simulate(random_scenario(7)).trace)"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(traces) == 1
