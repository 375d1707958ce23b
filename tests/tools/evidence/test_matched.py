from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.evidence.contest import Contest
from tools.evidence.matched import (
    common_bytes,
    matched_groups,
    matched_sheets,
    worse_than,
)
from tools.evidence.reading import read_folder
from tools.evidence.targets import Comparison, compare_all


def test_a_group_has_equal_budgets_fisher_first_and_a_control(comparison: Comparison) -> None:
    (group,) = matched_groups(comparison)
    assert [tried.text for tried in group] == [
        "fstq+@0.25,ef",
        "fstq-random@0.25,ef",
        "fstq+@0.25,ef,importance=random",
        "fstq+@0.25,ef,importance=uniform",
    ]
    assert common_bytes(group) == 20 * 3 * 3_000


def test_a_control_that_learns_slower_is_worse_at_the_same_bytes(contest: Contest) -> None:
    (sheet,) = matched_sheets(contest, keys=["workload"])
    first, *controls = sheet.rows
    assert "worse" not in first
    random = next(row for row in controls if row["configuration"] == "fstq-random@0.25,ef")
    assert random["worse"] > 0
    assert random["t_p"] < 0.05
    assert first["loss0"] > first["loss1"] > first["loss2"] > first["loss3"]


def test_differences_pair_seeds_and_leave_out_what_was_not_sent(comparison: Comparison) -> None:
    one, other = (comparison.by_text[text] for text in ("fstq+@0.25,ef", "fstq-random@0.25,ef"))
    assert len(worse_than(one, other, 1000.0)) == 5
    assert worse_than(one, other, 1e12) == []
    assert worse_than(one, one, 1000.0) == pytest.approx([0.0] * 5)


@pytest.mark.parametrize(
    "methods", [("fp32", "eden@1"), ("fp32", "fstq+@0.25,ef"), ("fstq-random@0.25,ef",)]
)
def test_without_a_control_or_fisher_there_is_no_group(
    tmp_path: Path, methods: tuple[str, ...], matrix: Callable[..., Path]
) -> None:
    (found,) = compare_all(read_folder(matrix(tmp_path, seeds=1, methods=methods)).trials)
    assert matched_groups(found) == []
