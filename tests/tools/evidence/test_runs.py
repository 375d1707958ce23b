from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.evidence.contest import contest_of
from tools.evidence.reading import read_folder
from tools.evidence.runs import failures_sheet, hyperparameters_sheet, shared_sheet
from tools.evidence.targets import compare_all


def test_what_differs_is_a_column_and_what_does_not_stands_once(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    for alpha in (0.1, 1.0):
        matrix(tmp_path, seeds=2, methods=("fp32", "fp16"), alpha=alpha)
    path = next(tmp_path.rglob("*fp16.jsonl"))
    text = path.read_text().replace("2 cores", "2026-11-24, 2 cores, load average 9.1 at the end")
    path.write_text(text)
    trials = read_folder(tmp_path).trials
    shared = {row["key"]: row["value"] for row in shared_sheet(trials).rows}
    assert shared["local: learning rate"] == "0.001"
    assert shared["version of numpy"] == "2.1"
    assert shared["machine"] == "2 cores"
    assert not {"α", "method", "seed"} & shared.keys()  # noqa: RUF001  # Greek is meant
    sheet = hyperparameters_sheet(trials)
    assert [column.key for column in sheet.columns] == [
        "configuration", "alpha", "seeds", "failed", "command",
    ]  # fmt: skip
    rows = {(row["configuration"], row["alpha"]): row for row in sheet.rows}
    assert len(rows) == 4
    assert rows["fp16", 1.0]["seeds"] == "0, 1"
    assert "--only alpha=1.0 --only method=fp16" in rows["fp16", 1.0]["command"]


def test_what_failed_or_does_not_count_is_named_with_the_reason(
    tmp_path: Path, trial_file: Callable[..., Any]
) -> None:
    trial_file(tmp_path, failure="diverged: loss is nan")
    trial_file(tmp_path, method="fp16")
    unfinished = trial_file(tmp_path, method="qsgd")
    unfinished.write_text(unfinished.read_text().splitlines()[0])
    again = trial_file(tmp_path / "again", method="fp16")
    again.write_text(again.read_text().replace("2026-11-23T", "2026-11-24T"))
    (tmp_path / "x.jsonl").write_text("{}\n{}")
    folder = read_folder(tmp_path)
    contests = [contest_of(each) for each in compare_all(folder.trials)]
    found = {row["what"]: row["why"] for row in failures_sheet(folder, contests).rows}
    assert found["med, fp32, seed 0"] == "diverged: loss is nan"
    assert "no target: with this seed fp32" in found["med, fp16, seed 0"]
    assert "no trial's header" in found["x.jsonl"]
    assert max(why.split(":")[0] for why in found.values()) == "unfinished"
    assert any("again later" in why for why in found.values())
