"""The soak's table keeps what has not run again, and a short form never hides a full one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.soak.outcome import Outcome
from tools.soak.report import BEGIN, END, NoMarkers, Played, document, table, write_into


def played(case: str, measured: str, *, quick: bool = False, reached: bool = True) -> Played:
    return Played(Outcome(case, "as it should be", measured, reached), quick=quick, seconds=61.4)


def test_a_row_says_what_was_reached_and_in_which_form() -> None:
    text = table([played("a", "10 of 10"), played("b", "9 of 10", quick=True, reached=False)])
    assert "| a | as it should be | 10 of 10 | yes | full |" in text
    assert "| b | as it should be | 9 of 10 | **no** | quick |" in text


def test_cells_cannot_break_the_table() -> None:
    (line,) = [line for line in table([played("a", "x|y\nz")]).splitlines() if "x/y" in line]
    assert line.count("|") == 7


def test_rows_of_other_cases_stay() -> None:
    before = table([played("a", "old"), played("b", "old")])
    after = table([played("b", "new")], before=before)
    assert "| a | as it should be | old |" in after
    assert "| b | as it should be | new |" in after
    assert after.count("\n") == before.count("\n")


@pytest.mark.parametrize(
    ("held_quick", "new_quick", "stands"),
    [(False, True, "old"), (False, False, "new"), (True, True, "new"), (True, False, "new")],
)
def test_a_short_form_gives_way_to_a_full_one_only(
    *, held_quick: bool, new_quick: bool, stands: str
) -> None:
    before = table([played("a", "old", quick=held_quick)])
    after = table([played("a", "new", quick=new_quick)], before=before)
    assert f"| {stands} |" in after


def test_a_page_is_changed_between_its_markers_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\n{END}\n\nAfter.\n")
    write_into(page, [played("a", "one")])
    write_into(page, [played("b", "two")])
    once = page.read_text()
    assert once.startswith("# Before\n\n")
    assert once.endswith("\n\nAfter.\n")
    assert once.count("| as it should be |") == 2
    write_into(page, [])
    assert page.read_text() == once


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n")
    with pytest.raises(NoMarkers, match=r"page\.md has no line"):
        write_into(page, [])


def test_the_document_is_json_with_the_machine() -> None:
    content = json.loads(document([played("a", "one")]))
    assert content["machine"]
    assert content["cases"][0]["case"] == "a"
    assert content["cases"][0]["seconds"] == 61.4
