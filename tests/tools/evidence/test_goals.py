from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.evidence.contest import Contest, contest_of
from tools.evidence.goals import own_sentences, time_verdict, uplink_verdicts
from tools.evidence.reading import read_folder
from tools.evidence.targets import compare_all

KEYS = ["workload"]


def contest_in(folder: Path) -> Contest:
    (comparison,) = compare_all(read_folder(folder).trials)
    return contest_of(comparison)


def made(folder: Path, matrix: Callable[..., Path], own_bytes: int, speed: float = 1.0) -> Contest:
    """Return a contest of fp32, a 1-bit codec of 1/32 the bytes, and our codec."""
    for method, sent in (("fp32", 32_000), ("eden@1", 1_000), ("fstq-r@1", own_bytes)):
        fast = speed if method == "fstq-r@1" else 1.0
        matrix(folder, seeds=4, methods=(method,), bytes_up=sent, speed=fast)
    return contest_in(folder)


def test_goals_follow_from_the_figures_alone(tmp_path: Path, matrix: Callable[..., Path]) -> None:
    good = uplink_verdicts(made(tmp_path / "good", matrix, 100), keys=KEYS)
    assert [each.reached for each in good] == [True, True, True, True]
    middle = uplink_verdicts(made(tmp_path / "middle", matrix, 250), keys=KEYS)
    assert [each.reached for each in middle] == [True, True, True, False]
    poor = uplink_verdicts(made(tmp_path / "poor", matrix, 900), keys=KEYS)
    assert [each.reached for each in poor] == [False, False, False, False]
    assert good[1].note == "against `eden@1`"
    assert good[0].span is not None


def test_a_target_that_is_not_reached_is_a_goal_missed(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    verdicts = uplink_verdicts(made(tmp_path, matrix, 10, speed=0.05), keys=KEYS)
    assert [each.reached for each in verdicts] == [False] * 4
    assert "no configuration" in verdicts[0].found


def test_without_a_target_no_goal_is_measured(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path, speed=0.0)
    trial_file(tmp_path, method="fstq-r@1")
    verdicts = uplink_verdicts(contest_in(tmp_path), keys=KEYS)
    assert [each.reached for each in verdicts] == [None] * 4


def test_one_seed_reaches_no_goal_and_no_opponent_measures_none(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path)
    trial_file(tmp_path, method="fstq-r@1", bytes_up=10)
    verdicts = uplink_verdicts(contest_in(tmp_path), keys=KEYS)
    assert [each.reached for each in verdicts] == [False, None, False, False]
    assert "single pair" in verdicts[0].note


def test_a_seed_that_fails_keeps_a_goal_from_being_reached(
    tmp_path: Path, matrix: Callable[..., Path], trial_file: Callable[..., Any]
) -> None:
    made(tmp_path, matrix, 10)
    trial_file(tmp_path, method="fstq-r@1", seed=3, failure="diverged")
    verdict = uplink_verdicts(contest_in(tmp_path), keys=KEYS)[0]
    assert verdict.reached is False
    assert "not every run" in verdict.note


def test_an_opponent_of_two_goals_is_tested_once(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    contest = made(tmp_path, matrix, 100)
    verdicts = uplink_verdicts(contest, keys=KEYS)
    assert verdicts[1].wilcoxon_p == verdicts[2].wilcoxon_p == 2 * 2 / 2**4
    assert verdicts[0].wilcoxon_p == verdicts[3].wilcoxon_p


def test_time_is_judged_by_the_fastest_of_ours(tmp_path: Path, matrix: Callable[..., Path]) -> None:
    matrix(tmp_path, methods=("fp32",), bytes_up=40_000_000)
    matrix(tmp_path, methods=("fstq-r@1",), bytes_up=10)
    matrix(tmp_path, methods=("fstq+@1,ef",), bytes_up=5, speed=0.5)
    verdict = time_verdict(contest_in(tmp_path), keys=KEYS)
    assert verdict.reached
    assert verdict.note == "`fstq-r@1`"


def test_with_fetching_counted_wholes_of_the_same_size_gain_less(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    contest = made(tmp_path, matrix, 100)
    alone, both = (time_verdict(contest, keys=KEYS, fetching=each) for each in (False, True))
    assert float(both.found[:-1]) < float(alone.found[:-1])
    assert both.goal == f"{alone.goal}, fetching counted"


def test_time_without_ours_is_not_measured(tmp_path: Path, matrix: Callable[..., Path]) -> None:
    contest = contest_in(matrix(tmp_path, methods=("fp32", "eden@1")))
    assert time_verdict(contest, keys=KEYS).reached is None
    assert own_sentences([contest], keys=KEYS) == []


def test_the_papers_codec_is_spoken_of_beside_ours(contest: Contest) -> None:
    (sentence,) = own_sentences([contest], keys=KEYS)
    assert "the paper's own codec, best of 2, is `fstq@2,mask=hard`" in sentence
    assert "more than this project's" in sentence
