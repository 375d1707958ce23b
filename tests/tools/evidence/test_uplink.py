from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.contest import Contest, contest_of
from tools.evidence.reading import read_folder
from tools.evidence.targets import compare_all
from tools.evidence.uplink import (
    configurations_sheet,
    other_configurations_sheet,
    quality_sheet,
    together_sheet,
    uplink_sheet,
)

KEYS = ["workload"]


def contests(folder: Path) -> list[Contest]:
    return [contest_of(each) for each in compare_all(read_folder(folder).trials)]


def test_every_method_has_a_row_with_bytes_ratios_tests_and_a_command(contest: Contest) -> None:
    sheet = uplink_sheet(contest, keys=KEYS)
    rows = {row["configuration"]: row for row in sheet.rows}
    fp32, fp16 = rows["fp32"], rows["fp16"]
    assert fp32["wire_up"] == pytest.approx(10 * 3 * 400_000, rel=1e-6)
    assert fp32["saving"] == pytest.approx(1.0)
    assert fp16["over_own"] > 1
    assert 0 <= fp16["t_p"] < 0.05
    assert rows["fstq@2,mask=hard"]["tried"] == 2
    assert fp16["command"] == "fedfstq simulate experiment uplink.yaml --only method=fp16"
    assert "never below 0.062" in sheet.about
    assert "fp32 reaches after 50% of its rounds" in sheet.about
    keys = {column.key for column in sheet.columns}
    assert all(set(row) <= keys for row in sheet.rows)


def test_whole_messages_decide_and_segments_stand_beside_them(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    """Small updates gain less than their segments do: each has its frame and manifest as well."""
    trial_file(tmp_path, bytes_up=4000, frames=400)
    trial_file(tmp_path, method="fstq-r@1", bytes_up=40, frames=400, speed=1.0)
    (contest,) = contests(tmp_path)
    own = {row["configuration"]: row for row in uplink_sheet(contest, keys=KEYS).rows}["fstq-r@1"]
    assert own["bytes_saving"] == pytest.approx(own["saving"] * 100 / 10)
    assert own["wire_up"] == pytest.approx(own["bytes_up"] * 440 / 40)


def test_a_method_with_more_seeds_is_compared_over_those_that_both_have(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    matrix(tmp_path, seeds=8, methods=("fp32", "eden@1", "fstq-r@0.15:0.8"))
    matrix(tmp_path, seeds=5, methods=("fp16",))
    (contest,) = contests(tmp_path)
    sheet = uplink_sheet(contest, keys=KEYS)
    rows = {row["configuration"]: row for row in sheet.rows}
    assert {text: row["reached"] for text, row in rows.items()} == {
        "fp32": "8 of 8",
        "eden@1": "8 of 8",
        "fstq-r@0.15:0.8": "8 of 8",
        "fp16": "5 of 5",
    }
    assert rows["eden@1"]["wilcoxon_p"] < 0.05 < rows["fp16"]["wilcoxon_p"]
    assert "never below 0.062 over 5 seeds and 0.008 over 8 seeds" in sheet.about


def test_every_configuration_is_there_also_what_failed(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path)
    trial_file(tmp_path, method="stc@0.1", failure="diverged")
    trial_file(tmp_path, method="qsgd", speed=0.1)
    (contest,) = contests(tmp_path)
    rows = {row["configuration"]: row for row in configurations_sheet(contest, keys=KEYS).rows}
    assert (rows["stc@0.1"]["reached"], rows["stc@0.1"]["failed"]) == ("0 of 1", 1)
    assert rows["stc@0.1"]["wire_up"] is None
    assert (rows["qsgd"]["reached"], rows["qsgd"]["saving"]) == ("0 of 1", None)
    assert rows["qsgd"]["all_wire_up"] == 20 * 3 * 10_000


def test_beside_each_methods_best_stand_the_other_configurations(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    found = contests(matrix(tmp_path, seeds=2, methods=("fp32", "eden@1", "fstq-r@0.15:0.8")))
    assert other_configurations_sheet(found[0], keys=KEYS) is None
    (contest,) = contests(matrix(tmp_path, seeds=2, methods=("eden@0.5",)))
    sheet = other_configurations_sheet(contest, keys=KEYS)
    assert sheet is not None
    best = {best.tried.text for best in contest.bests}
    assert {row["configuration"] for row in sheet.rows} == {"eden@1", "eden@0.5"} - best


def test_all_workloads_together_are_a_table_where_there_are_several(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    methods = ("fp32", "eden@1", "fstq-r@0.15:0.8")
    found = contests(matrix(tmp_path, workloads=("code", "med"), methods=methods))
    sheet = together_sheet(found, workloads=["code", "med"])
    assert sheet is not None
    assert [row["pairs"] for row in sheet.rows] == [10, 10]
    assert sheet.rows[0]["over_own"] < sheet.rows[1]["over_own"]
    assert together_sheet(found[:1], workloads=["code"]) is None


def test_quality_is_a_mean_over_the_trials_that_have_it(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path, seed=0, quality={"rouge_l": 0.4})
    trial_file(tmp_path, seed=1, quality={"rouge_l": 0.6})
    trial_file(tmp_path, seed=2)
    trial_file(tmp_path, seed=0, method="fp16")
    found = contests(tmp_path)
    sheet = quality_sheet(found)
    assert sheet is not None
    assert [row["rouge_l"] for row in sheet.rows] == [pytest.approx(0.5)]
    assert sheet.columns[2].words(0.5) == "0.500"
    assert quality_sheet([]) is None


def test_token_recall_is_against_the_baseline_of_the_same_seed(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    ids = list(range(8))
    for seed, order in ((0, ids), (1, ids[::-1])):
        trial_file(tmp_path, seed=seed, quality={"exact": 0.5, "token_order": ids})
        trial_file(tmp_path, method="fp16", seed=seed, quality={"token_order": order})
    trial_file(tmp_path, method="qsgd", seed=2, quality={"token_order": ids})
    sheet = quality_sheet(contests(tmp_path))
    assert sheet is not None
    found = {row["configuration"]: row.get("token_recall") for row in sheet.rows}
    assert found == {"fp32": 1.0, "fp16": 0.5}
