from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.evidence.commands import axes_of, command_of
from tools.evidence.reading import Trial, read_folder


def trials_of(folder: Path) -> tuple[Trial, ...]:
    return read_folder(folder).trials


def test_a_row_of_several_seeds_has_one_command_without_the_seed(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    trials = trials_of(
        matrix(tmp_path, seeds=2, workloads=("med", "code"), methods=("fp32", "a,b"))
    )
    row = [trial for trial in trials if trial.method == "a,b" and trial.workload == "med"]
    assert command_of(row, axes_of(trials)) == (
        "fedfstq simulate experiment uplink.yaml --only workload=med --only method=a,b"
    )


def test_a_single_trial_has_its_own_command(tmp_path: Path, trial_file: Callable[..., Any]) -> None:
    trial_file(tmp_path)
    (trial,) = trials_of(tmp_path)
    assert command_of([trial], {}) == trial.command


def test_trials_that_begin_otherwise_have_no_common_command(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path, seed=0)
    other = trial_file(tmp_path, seed=1)
    other.write_text(other.read_text().replace("uplink.yaml", "other.yaml"))
    trials = trials_of(tmp_path)
    assert command_of(trials, axes_of(trials)) == ""
    other.write_text(other.read_text().replace("other.yaml", "'"))
    assert command_of(trials_of(tmp_path), {}) == ""


def test_other_options_stay(tmp_path: Path, trial_file: Callable[..., Any]) -> None:
    for seed in (0, 1):
        path = trial_file(tmp_path, seed=seed)
        text = path.read_text().replace("--only trial", "--data d --only seed=1 method=x --only t")
        path.write_text(text)
    trials = trials_of(tmp_path)
    assert command_of(trials, axes_of(trials)).split() == [
        "fedfstq", "simulate", "experiment", "uplink.yaml", "--data", "d",
    ]  # fmt: skip
