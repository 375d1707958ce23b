from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.contest import Contest, contest_of
from tools.evidence.reading import read_folder
from tools.evidence.targets import compare_all
from tools.evidence.time_tables import (
    LOSSES,
    Link,
    Stopwatch,
    chosen,
    downlink_sheet,
    energy_sheet,
    has_deltas,
    loss_sheet,
    slowdown_of,
    slowdown_sheet,
    time_sheet,
)
from tools.experiment.timing import LinkProfile, Slowdown

KEYS = ["workload"]


def test_the_fastest_comes_first_and_the_baseline_is_as_fast_as_itself(contest: Contest) -> None:
    sheet = time_sheet(contest, LinkProfile.LTE_MIXED, keys=KEYS)
    rows = {row["configuration"]: row for row in sheet.rows}
    assert rows["fp32"]["faster"] == pytest.approx(1.0)
    whole = [row["seconds"] for row in sheet.rows if row["reached"] == "5 of 5"]
    assert len(whole) > 3
    assert sheet.rows[0]["seconds"] == min(whole)
    assert "med" in sheet.title


def test_the_downlink_makes_small_updates_gain_less(contest: Contest) -> None:
    link = Link(LinkProfile.LTE_MIXED)
    watch = Stopwatch(contest)
    own = contest.own
    assert own is not None
    alone = watch.faster(own.tried, link).ratio
    both = watch.faster(own.tried, link, downlink=True).ratio
    assert alone is not None
    assert both is not None
    assert 1 < both.mean < alone.mean


def test_versions_that_go_down_as_deltas_are_told_from_wholes(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    matrix(tmp_path, seeds=3, methods=("fp32", "fstq-r@1"))
    matrix(tmp_path, seeds=3, methods=("fstq-r@1,down=fstq+@1",), speed=1.0, bytes_down=20_000)
    (comparison,) = compare_all(read_folder(tmp_path).trials)
    found = contest_of(comparison)
    assert has_deltas(found)
    sheet = downlink_sheet(found, LinkProfile.LTE_MIXED, keys=KEYS)
    rows = {row["configuration"]: row for row in sheet.rows}
    assert [row["versions"] for row in sheet.rows] == ["deltas, `fstq+@1`", "whole", "whole"]
    few, whole = rows["fstq-r@1,down=fstq+@1"], rows["fstq-r@1"]
    assert few["faster"] > whole["faster"] > rows["fp32"]["faster"] == pytest.approx(1.0)
    assert few["uplink_alone"] == pytest.approx(whole["uplink_alone"], rel=0.2)
    assert few["down_mb"] == pytest.approx(whole["down_mb"] / 20, rel=0.2)


def test_where_all_fetch_wholes_there_are_no_deltas(contest: Contest) -> None:
    assert not has_deltas(contest)


def test_a_setting_says_who_is_slow() -> None:
    setting = {"slowdown": {"share": 0.3, "factor": [2, 4]}}
    assert slowdown_of(setting) == Slowdown(0.3, 2, 4)
    assert slowdown_of({}) == Slowdown(0.0, 1, 1)


def test_few_are_chosen_each_once(contest: Contest) -> None:
    texts = [best.tried.text for best in chosen(contest)]
    assert contest.own is not None
    assert texts == [contest.own.tried.text, "fstq@2,mask=hard", "eden@1", "fp32"]


def test_losses_slow_slowdowns_and_radios_cost(contest: Contest) -> None:
    losses = loss_sheet(contest, keys=KEYS)
    assert [row["at"] for row in losses.rows if "mathis" in row["at"]] == [
        f"{100 * loss:.0f} %, mathis" for loss in LOSSES
    ]
    seconds = [row["seconds3"] for row in losses.rows if "mathis" in row["at"]]
    assert seconds == sorted(seconds)
    slow = [row["seconds0"] for row in slowdown_sheet(contest, keys=KEYS).rows]
    assert slow[0] == min(slow) < max(slow) == slow[-1]
    energy = [row["mean3"] for row in energy_sheet(contest, keys=KEYS).rows]
    assert energy == sorted(energy)


def test_without_a_baseline_nothing_is_faster(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path, method="eden@1")
    (comparison,) = compare_all(read_folder(tmp_path).trials)
    contest = contest_of(comparison)
    assert Stopwatch(contest).faster(comparison.tried[0], Link(LinkProfile.LTE_20)).ratio is None
    assert time_sheet(contest, LinkProfile.LTE_20, keys=KEYS).rows[0]["seconds"] is None
