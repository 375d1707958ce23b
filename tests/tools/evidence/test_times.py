from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.reading import read_folder
from tools.evidence.targets import Comparison, Tried, compare_all
from tools.evidence.times import (
    RememberedModel,
    energy_to_target,
    pace_of,
    seconds_to_target,
)
from tools.experiment.timing import LinkProfile, Power, Slowdown, TimeModel


def models(tried: Tried, profile: LinkProfile = LinkProfile.LTE_20) -> dict[int, TimeModel]:
    return {seed: RememberedModel(profile, seed) for seed in tried.outcomes}


def test_a_remembered_model_says_what_the_model_says() -> None:
    for seed in range(3):
        slowdown = Slowdown(0.5, 2, 4)
        plain = TimeModel(LinkProfile.LTE_MIXED, seed, slowdown)
        remembered = RememberedModel(LinkProfile.LTE_MIXED, seed, slowdown)
        for client in ("c00", "c01", "c02", "c00"):
            assert remembered.link(client) == plain.link(client)
            assert remembered.factor(client) == plain.factor(client)


def test_seconds_are_rounds_until_the_target_times_what_a_round_takes(
    comparison: Comparison,
) -> None:
    tried = comparison.by_text["fp32"]
    found = seconds_to_target(tried, pace_of(comparison), models(tried))
    # 3.2 Mbit at 20 Mbit/s, three round trips of 50 ms, 0.3 s of training, 0.01 s of encoding.
    assert found[0] == pytest.approx(10 * (0.16 + 0.15 + 0.3 + 0.01), rel=1e-6)


def test_the_downlink_takes_its_time_where_it_is_counted(comparison: Comparison) -> None:
    tried = comparison.by_text["fp32"]
    pace = pace_of(comparison)
    alone = seconds_to_target(tried, pace, models(tried))
    both = seconds_to_target(tried, pace, models(tried), downlink=True)
    assert both[0] - alone[0] == pytest.approx(10 * 0.16, rel=1e-6)


def test_energy_is_computing_and_the_radio(comparison: Comparison) -> None:
    tried = comparison.by_text["fp32"]
    power = Power(compute_w=10, transmit_w=2)
    found = energy_to_target(tried, pace_of(comparison), models(tried), power)[0]
    assert found.mean_j == pytest.approx(10 * (10 * 0.31 + 2 * 0.16), rel=1e-6)
    assert found.straggler_j == pytest.approx(found.mean_j)
    assert found.seconds == pytest.approx(6.2, rel=1e-6)


def test_equal_local_work_takes_equally_long_whatever_the_machine_did_meanwhile(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path)
    for method in ("fp16", "fp16,mask=hard"):
        path = trial_file(tmp_path, method=method, bytes_up=200_000)
        path.write_text(path.read_text().replace('"train_s": 0.3', '"train_s": 0.5'))
    (found,) = compare_all(read_folder(tmp_path).trials)
    pace = pace_of(found)
    assert set(pace.train_s) == {"", "mask=hard"}
    assert 0.3 <= pace.train_s[""] <= 0.5
    assert pace.train_s["mask=hard"] == 0.5


def test_what_was_not_reached_has_no_time(tmp_path: Path, trial_file: Callable[..., Any]) -> None:
    trial_file(tmp_path)
    trial_file(tmp_path, method="qsgd", speed=0.1)
    (found,) = compare_all(read_folder(tmp_path).trials)
    tried = found.by_text["qsgd"]
    assert seconds_to_target(tried, pace_of(found), models(tried)) == {}
    assert energy_to_target(tried, pace_of(found), models(tried), Power()) == {}
