from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.contest import (
    Contest,
    against,
    best_of,
    bests_of,
    contest_of,
    pooled,
    together,
)
from tools.evidence.families import Role
from tools.evidence.reading import read_folder
from tools.evidence.statistics import holm
from tools.evidence.targets import Comparison, compare_all


def contests(folder: Path) -> list[Contest]:
    return [contest_of(each) for each in compare_all(read_folder(folder).trials)]


def test_a_family_stands_at_its_best_and_says_how_many_were_tried(contest: Contest) -> None:
    paper = next(best for best in contest.bests if best.role is Role.PAPER)
    assert (paper.configurations, paper.tried.text) == (2, "fstq@2,mask=hard")
    assert contest.own is not None
    assert contest.own.role is Role.OWN
    costs = [
        sum(best.tried.reached.values()) for best in contest.bests if best.tried.always_reached
    ]
    assert costs == sorted(costs)


def test_the_baseline_as_it_is_stands_beside_its_tuned_configurations(contest: Contest) -> None:
    found = {best.family: best.tried.text for best in contest.bests}
    assert found["fp32"] == "fp32"
    assert found["fp32,tuned"] == "fp32,momentum=0.9"


def test_more_seeds_at_the_target_come_before_fewer_bytes(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    for seed in (0, 1):
        trial_file(tmp_path, seed=seed)
        trial_file(tmp_path, seed=seed, method="eden@1")
        trial_file(tmp_path, seed=seed, method="eden@0.1", bytes_up=1000, speed=1 - 0.9 * seed)
    (found,) = contests(tmp_path)
    best = best_of(found.comparison, lambda tried: tried.configuration.codec == "eden")
    assert best is not None
    assert best.tried.text == "eden@1"
    assert best_of(found.comparison, lambda tried: tried.text == "none") is None
    assert found.own is None
    assert found.over_own == {}


def test_p_values_are_corrected_over_all_rows(contest: Contest, comparison: Comparison) -> None:
    assert contest.own is not None
    own = contest.own.tried
    texts = {best.family: best.tried.text for best in contest.bests}
    plain = {family: against(comparison.by_text[texts[family]], own) for family in contest.over_own}
    expected = holm([each.t_p for each in plain.values()])
    assert [each.t_p for each in contest.over_own.values()] == expected
    assert contest.own.family not in contest.over_own


def test_bytes_of_all_rounds_stand_in_for_a_target_that_was_not_reached(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    for seed in (0, 1, 2):
        trial_file(tmp_path, seed=seed)
        trial_file(tmp_path, seed=seed, method="fstq-r@1")
        trial_file(tmp_path, seed=seed, method="qsgd", speed=0.1)
    (found,) = contests(tmp_path)
    own, qsgd = (found.comparison.by_text[text] for text in ("fstq-r@1", "qsgd"))
    bound = against(qsgd, own)
    assert bound.at_least
    assert bound.ratio is not None
    assert bound.ratio.mean < 20 * 10_000 / 10_000
    assert against(own, qsgd).ratio is None
    assert against(None, own).ratio is None


def test_over_all_workloads_pairs_are_all_their_seeds(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    methods = ("fp32", "eden@1", "fstq-r@0.15:0.8")
    found = contests(matrix(tmp_path, workloads=("med", "code", "lang"), methods=methods))
    ratios = together(found)
    assert set(ratios) == {"fp32", "eden"}
    assert ratios["fp32"].ratio is not None
    assert ratios["fp32"].ratio.pairs == 15
    assert ratios["fp32"].wilcoxon_p == pytest.approx(2 * 2 / 2**15)
    assert together([]) == {}
    assert pooled([]).ratio is None


def test_the_best_may_be_that_of_another_cost(comparison: Comparison) -> None:
    bests = bests_of(comparison, lambda tried: {0: float(len(tried.text))})
    found = {best.family: best.tried.text for best in bests}
    assert found["fstq,mask=hard"] == "fstq@2,mask=hard"
    assert bests[0].tried.text in {"fp32", "fp16"}
