from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.contest import Contest, contest_of
from tools.evidence.deciding import decided, deciding_findings, deciding_sheet, stands_in_for
from tools.evidence.families import configuration
from tools.evidence.reading import read_folder
from tools.evidence.targets import compare_all

METHODS = (
    "fp32",
    "fstq+@0.25,ef",
    "fstq-random@0.25,ef",
    "fstq+@0.25,ef,importance=random",
    "fstq+@0.25,ef,importance=uniform",
)


@pytest.mark.parametrize(
    ("control", "whole"),
    [
        ("fstq-r@0.02:0.1,momentum=0.5,importance=uniform", "fstq-r@0.02:0.1,momentum=0.5"),
        ("fstq-r@1,mask=random,ratio=0.3", "fstq-r@1,mask=hard,ratio=0.3"),
        ("fstq-paper@2,momentum=0.5,mask=attention", "fstq-paper@2,momentum=0.5,mask=hard"),
        ("fstq-paper@2,mask=hard,importance=oracle", "fstq-paper@2,mask=hard"),
        ("fstq-r@1,mask=hard,ratio=0.3,interval=5,prox=0.1", "fstq-r@1,prox=0.1"),
        ("fstq-r@1,mask=soft", "fstq-r@1"),
        ("fstq-random@0.25,ef", "fstq+@0.25,ef"),
        ("fstq-plus-plain@0.25,ef,momentum=0.5", "fstq+@0.25,ef,momentum=0.5"),
        ("fstq-r-plain@0.25", "fstq-r@0.25"),
        ("fstq-r@0.25", None),
        ("fp32", None),
        ("eden@1", None),
    ],
)
def test_a_control_stands_in_for_the_same_with_fisher(control: str, whole: str | None) -> None:
    assert stands_in_for(configuration(control)) == whole


def contests(
    tmp_path: Path, matrix: Callable[..., Path], *, seeds: int, workloads: tuple[str, ...]
) -> list[Contest]:
    matrix(tmp_path, seeds=seeds, methods=METHODS, workloads=workloads)
    return [contest_of(each) for each in compare_all(read_folder(tmp_path).trials)]


def test_pairs_of_all_workloads_are_tested_together(
    tmp_path: Path, matrix: Callable[..., Any]
) -> None:
    group = contests(tmp_path, matrix, seeds=4, workloads=("med", "code"))
    found = {each.control: each for each in decided(group)}
    assert found.keys() == set(METHODS[2:])
    assert {each.whole for each in found.values()} == {"fstq+@0.25,ef"}
    support = found["fstq-random@0.25,ef"]
    assert support.pairs == 8
    assert support.worse.mean > found["fstq+@0.25,ef,importance=uniform"].worse.mean > 0
    assert support.t_p is not None
    assert support.t_p < 0.05
    assert support.over.ratio is not None
    assert support.over.ratio.mean > 1.5

    sheet = deciding_sheet(group)
    assert sheet is not None
    assert sheet.title == "What earns the saving: uplink, all of code, med"
    assert {row["control"]: row["worse"] for row in sheet.rows} == {
        text: each.worse.mean for text, each in found.items()
    }
    first, *_ = deciding_findings(group)
    assert first.startswith("`fstq-random@0.25,ef` in the place of `fstq+@0.25,ef`, 8 pairs: +")
    assert first.endswith(": worse.")


def test_a_single_pair_is_said_to_tell_nothing(tmp_path: Path, matrix: Callable[..., Any]) -> None:
    group = contests(tmp_path, matrix, seeds=1, workloads=("med",))
    assert all("so few pairs tell nothing" in text for text in deciding_findings(group))


def test_what_one_workload_lacks_is_not_compared(
    tmp_path: Path, matrix: Callable[..., Any]
) -> None:
    matrix(tmp_path, seeds=2, methods=METHODS, workloads=("med",))
    matrix(tmp_path, seeds=2, methods=METHODS[:3], workloads=("code",))
    group = [contest_of(each) for each in compare_all(read_folder(tmp_path).trials)]
    assert [each.control for each in decided(group)] == ["fstq-random@0.25,ef"]
    assert deciding_sheet([]) is None
