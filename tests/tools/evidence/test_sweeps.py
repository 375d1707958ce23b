from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.contest import Contest, contest_of
from tools.evidence.reading import Trial, read_folder
from tools.evidence.sweeps import main_contests, sweep_sheets, varied
from tools.evidence.targets import compare_all

METHODS = ("fp32", "eden@1", "fstq-r@0.15:0.8", "fstq-r@0.15:0.8,momentum=0.5")
Make = Callable[..., Path]


def contests(folder: Path) -> list[Contest]:
    return [contest_of(each) for each in compare_all(read_folder(folder).trials)]


@pytest.fixture
def sweep(tmp_path: Path, matrix: Make) -> Path:
    values: tuple[Any, ...] = ("inf", 10.0, 0.1, 1.0)
    for alpha in values:
        matrix(tmp_path, seeds=2, methods=METHODS, alpha=alpha, experiment="alphas")
    return tmp_path


def test_a_sweep_has_a_row_per_value_and_configuration_in_the_order_of_the_values(
    sweep: Path,
) -> None:
    (sheet,) = sweep_sheets(contests(sweep))
    assert [row["alpha"] for row in sheet.rows[::4]] == [0.1, 1.0, 10.0, "inf"]
    for at in range(0, len(sheet.rows), 4):
        assert {row["configuration"] for row in sheet.rows[at : at + 4]} == set(METHODS)
    baseline = [row["saving"] for row in sheet.rows if row["configuration"] == "fp32"]
    assert baseline == pytest.approx([1.0] * 4)
    assert "α" in sheet.title  # noqa: RUF001  # Greek is meant
    assert [column.head for column in sheet.columns[:2]] == ["Workload", "α"]  # noqa: RUF001
    assert sheet.rows[0]["command"].endswith(f"--only method={sheet.rows[0]['configuration']}")


def test_without_a_plain_experiment_the_usual_value_stands_for_it(sweep: Path) -> None:
    found = contests(sweep)
    assert varied(found) == ["alpha"]
    (main,) = main_contests(found)
    assert main.comparison.setting["alpha"] == 0.1


def test_an_unusual_axis_stands_at_its_commonest_value(tmp_path: Path, matrix: Make) -> None:
    for rank in (8, 16):
        matrix(tmp_path, seeds=1, methods=METHODS, rank=rank, experiment=f"r{rank}")
        for path in tmp_path.rglob("*.jsonl"):
            path.write_text(path.read_text().replace(f'"r{rank}"', '"ranks"'))
    assert len(main_contests(contests(tmp_path))) == 1


def test_whether_answers_are_scored_is_in_no_heading(trial_of: Callable[..., Trial]) -> None:
    trials = [
        trial_of([4.0, 3.0], [0, 10], quality=quality, clients=clients)
        for quality, clients in ((True, 20), (False, 30))
    ]
    settings = [contest_of(each) for each in compare_all(trials)]
    assert len(settings) == 2
    assert varied(settings) == ["clients"]


def test_plain_experiments_come_before_sweeps(sweep: Path, matrix: Make) -> None:
    matrix(sweep, seeds=1, workloads=("med", "code"), methods=METHODS)
    main = main_contests(contests(sweep))
    assert {each.comparison.experiment for each in main} == {"uplink"}
    assert {each.comparison.workload for each in main} == {"med", "code"}
