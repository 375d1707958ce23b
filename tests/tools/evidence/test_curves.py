from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.contest import Contest
from tools.evidence.curves import MOST, matched_figures, series_of, uplink_figure
from tools.evidence.reading import read_folder
from tools.evidence.statistics import interval
from tools.evidence.targets import Comparison, compare_all

KEYS = ["workload"]


def test_a_curve_is_the_mean_over_seeds_in_its_interval(comparison: Comparison) -> None:
    tried = comparison.by_text["fp16"]
    series = series_of(tried, "curve-1")
    assert len(series.points) == len(series.spread) == 21
    losses = [each.trial.rounds[4].loss for each in tried.outcomes.values()]
    found = interval([loss for loss in losses if loss is not None])
    assert series.points[4] == pytest.approx((4 * 3 * 200_000, found.mean))
    assert series.spread[4][1:] == pytest.approx((found.low, found.high))


def test_rounds_that_not_all_seeds_evaluated_or_survived_are_left_out(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    path = trial_file(tmp_path, seed=0)
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace('"loss": ', '"loss": "inf", "was": ')
    path.write_text("\n".join(lines))
    trial_file(tmp_path, seed=1)
    (found,) = compare_all(read_folder(tmp_path).trials)
    assert len(series_of(found.tried[0], "curve-1").points) == 20


def test_a_single_seed_has_no_band_and_none_no_curve(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path)
    trial_file(tmp_path, method="fp16", failure="diverged")
    (found,) = compare_all(read_folder(tmp_path).trials)
    assert series_of(found.by_text["fp32"], "curve-1").spread == ()
    assert series_of(found.by_text["fp16"], "curve-1").points == ()


def test_few_methods_are_drawn_the_baseline_ours_the_papers_and_one_bit_first(
    contest: Contest,
) -> None:
    figure = uplink_figure(contest, keys=KEYS)
    names = [series.name for series in figure.series]
    assert contest.own is not None
    assert names[:4] == ["fp32", contest.own.tried.text, "fstq@2,mask=hard", "eden@1"]
    assert len(names) == len(set(names)) <= MOST
    assert figure.series[0].style == "curve-1"


def test_matched_configurations_share_a_figure_without_the_baselines_style(
    contest: Contest,
) -> None:
    (figure,) = matched_figures(contest, keys=KEYS)
    assert [series.style for series in figure.series] == [f"curve-{at}" for at in (2, 3, 4, 5)]
    assert [series.name for series in figure.series] == [
        "fstq+",
        "fstq-random",
        "fstq+, importance=random",
        "fstq+, importance=uniform",
    ]
