from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.evidence.reading import read_folder
from tools.evidence.sheets import Section, section_values
from tools.evidence.tables import sections_of

METHODS = ("fp32", "eden@1", "fstq@2,mask=hard", "fstq+@0.25,ef", "fstq-random@0.25,ef")


def made(folder: Path) -> dict[str, Section]:
    return {each.identity: each for each in sections_of(read_folder(folder))}


def test_every_question_has_its_section_with_what_was_measured(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    matrix(tmp_path, seeds=3, workloads=("med", "code"), methods=METHODS)
    for dropout in (0.0, 0.5):
        matrix(tmp_path, seeds=2, methods=METHODS, dropout=dropout, experiment="drops")
    (tmp_path / "o.json").write_text(
        json.dumps({"kind": "overhead", "rows": [{"time_ratio": 1.0, "memory_ratio": 1.0}]})
    )
    (tmp_path / "r.json").write_text(
        json.dumps({"kind": "replay", "rows": [{"method": "fp32", "measured_s": 36.3}]})
    )
    found = made(tmp_path)
    assert list(found) == [
        "goals", "uplink", "time", "matched", "sweeps", "others", "tuning", "overhead", "inference",
        "quality", "runs",
    ]  # fmt: skip
    titles = [sheet.title for each in found.values() for sheet in each.sheets]
    assert titles.count("Uplink to target: med") == 1
    assert "Uplink to target, all of code, med" in titles
    assert "Sweep of dropout (experiment drops)" in titles
    assert "Matched budget @0.25,ef: code" in titles
    assert "The time model against real links" in titles
    assert len(found["uplink"].figures) == 2
    assert found["inference"].is_empty
    assert not found["overhead"].is_empty
    goals = found["goals"].sheets[0].rows
    assert [row["where"] for row in goals[:2]] == ["code", "med"]
    assert found["runs"].findings == ("50 runs have ended, 0 of them failed.",)
    for each in found.values():
        json.dumps(section_values(each), allow_nan=False)


def test_goals_are_judged_where_several_seeds_play_both_sides(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    """One seed, or this project's codec among its own controls, judges nothing."""
    matrix(tmp_path, seeds=2, methods=METHODS)
    matrix(tmp_path, seeds=1, methods=METHODS, experiment="tuning")
    matrix(tmp_path, seeds=2, methods=("fp32", "fp32,prox=1"), experiment="servers")
    found = made(tmp_path)
    assert {row["where"] for row in found["goals"].sheets[0].rows} == {"med"}
    assert [sheet.title for sheet in found["tuning"].sheets] == [
        "Every configuration: med (experiment tuning)"
    ]
    assert [sheet.title for sheet in found["others"].sheets] == [
        "Every configuration: med (experiment servers)"
    ]
    alone = tmp_path / "tuning"
    assert {row["reached"] for row in made(alone)["goals"].sheets[0].rows} == {"not reached"}


def test_an_experiment_with_fewer_seeds_judges_nothing_but_has_its_times(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    matrix(tmp_path, seeds=3, methods=METHODS)
    matrix(tmp_path, seeds=2, methods=METHODS, experiment="network", clients=20)
    found = made(tmp_path)
    assert {row["where"] for row in found["goals"].sheets[0].rows} == {"med"}
    (sheet,) = found["others"].sheets
    assert sheet.title.endswith("(experiment network)")
    times = [sheet.title for sheet in found["time"].sheets if "experiment network" in sheet.title]
    assert len(times) == 2


def test_fetching_is_judged_wherever_versions_go_down_as_deltas(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    matrix(tmp_path, seeds=3, methods=METHODS)
    deltas = ("fp32", "fp16", "fstq-r@1,down=fstq+@1")
    matrix(tmp_path, seeds=2, methods=deltas, experiment="network", clients=20)
    found = made(tmp_path)
    rows = [row for row in found["goals"].sheets[0].rows if "fetching" in row["goal"]]
    assert [row["where"] for row in rows] == ["med"]
    assert "down=fstq+@1" in rows[0]["note"]
    titles = [sheet.title for sheet in found["time"].sheets if "fetching" in sheet.title]
    assert len(titles) == 2
    assert all(title.endswith("(experiment network)") for title in titles)


def test_tables_and_pictures_of_one_budget_in_two_experiments_have_names_of_their_own(
    tmp_path: Path, matrix: Callable[..., Path]
) -> None:
    matrix(tmp_path, seeds=3, methods=METHODS)
    controls = [text for text in METHODS if "@0.25" in text]
    for experiment in ("parts", "ablation"):
        matrix(tmp_path, seeds=2, methods=("fp32", *controls), experiment=experiment)
    section = made(tmp_path)["matched"]
    titles = [sheet.title for sheet in section.sheets if "budget" in sheet.title]
    assert len(titles) == len(set(titles)) == 3
    assert len({figure.labels.title for figure in section.figures}) == len(section.figures) == 3


def test_measurements_alone_are_a_document_too(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text('{"kind": "overhead", "rows": []}')
    assert all(each.is_empty for each in made(tmp_path).values())


def test_a_baseline_alone_claims_nothing(tmp_path: Path, trial_file: Callable[..., Any]) -> None:
    trial_file(tmp_path)
    found = made(tmp_path)
    assert {row["reached"] for row in found["goals"].sheets[0].rows} == {"not measured"}
    assert found["matched"].is_empty
