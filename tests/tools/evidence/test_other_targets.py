from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.contest import Contest, contest_of
from tools.evidence.other_targets import SHARES, at_share, other_targets_sheet
from tools.evidence.reading import read_folder
from tools.evidence.targets import compare_all, target_of

KEYS = ["workload"]


def contest_in(folder: Path) -> Contest:
    (comparison,) = compare_all(read_folder(folder).trials)
    return contest_of(comparison)


def test_the_fixed_target_is_one_of_them_and_gives_the_same_factor(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    contest = contest_in(matrix(tmp_path, seeds=3, methods=("fp32", "eden@1", "fstq-r@0.15:0.8")))
    half = at_share(contest.comparison, 0.5)
    assert half == contest.comparison
    sheet = other_targets_sheet(contest, keys=KEYS)
    assert sheet is not None
    rows = {row["configuration"]: row for row in sheet.rows}
    assert [rows["fp32"][f"less{at}"] for at in range(len(SHARES))] == ["1.00×"] * len(SHARES)  # noqa: RUF001  # the sign that is meant
    assert "at 25%" in sheet.about


def test_a_method_that_stops_short_has_the_early_targets_alone(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    for seed, speed in ((0, 0.95), (1, 0.4)):
        trial_file(tmp_path, seed=seed, speed=1.0)
        trial_file(tmp_path, seed=seed, method="stc@0.1", speed=speed, bytes_up=1000)
    contest = contest_in(tmp_path)
    sheet = other_targets_sheet(contest, keys=KEYS)
    assert sheet is not None
    (row,) = (row for row in sheet.rows if row["configuration"] == "stc@0.1")
    assert row["less0"].endswith("×")  # noqa: RUF001  # the sign that is meant
    assert row["less1"].endswith("(1 of 2)")
    assert row["less4"] is None


def test_targets_are_the_baselines_own(tmp_path: Path, matrix: Callable[..., Path]) -> None:
    contest = contest_in(matrix(tmp_path, seeds=2, methods=("fp32", "qsgd")))
    reference = contest.comparison.reference
    assert reference is not None
    late = at_share(contest.comparison, 0.9)
    for seed, outcome in reference.outcomes.items():
        assert late.targets[seed] == target_of(outcome.trial, share=0.9)
        assert late.targets[seed] < contest.comparison.targets[seed]


def test_without_a_target_there_is_nothing_to_say(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path, method="qsgd")
    assert other_targets_sheet(contest_in(tmp_path), keys=KEYS) is None


@pytest.mark.parametrize("share", SHARES)
def test_a_further_target_never_takes_fewer_bytes(
    tmp_path: Path, matrix: Callable[..., Path], share: float
) -> None:
    contest = contest_in(matrix(tmp_path, seeds=2, methods=("fp32", "fp16")))
    near, far = at_share(contest.comparison, share / 2), at_share(contest.comparison, share)
    for seed, sent in far.by_text["fp16"].reached.items():
        assert near.by_text["fp16"].reached[seed] <= sent
