from __future__ import annotations

import pytest

from tools.evidence.document import NoMarkers, begin, end, markdown_of, new_page, written_into
from tools.evidence.sheets import Figure, Section
from tools.report.plot import Labels

ONE = Section("one", "First", findings=("Old.",))
TWO = Section("two", "Second")
NEW = Section("one", "First", findings=(r"New \1.",))


def test_a_new_page_has_every_section_and_the_command_that_makes_it() -> None:
    page = new_page([ONE, TWO], command="make it", pictures="plots")
    assert page.startswith("# Evidence\n")
    assert "## 1. First" in page
    assert "## 2. Second" in page
    assert page.count("Made by `make it`.") == 1
    assert page.endswith(f"{end(TWO)}\n")


def test_words_around_a_section_stay_and_what_is_between_is_written_anew() -> None:
    page = new_page([ONE, TWO], command="c", pictures="plots").replace("## 2.", "By hand.\n\n## 2.")
    after, missing = written_into(page, [NEW, TWO], command="c", pictures="plots")
    assert missing == []
    assert "By hand." in after
    assert r"New \1." in after
    assert "Old." not in after
    assert written_into(after, [NEW, TWO], command="c", pictures="plots")[0] == after


def test_a_section_without_a_place_is_named() -> None:
    page = f"{begin(ONE)}\n{end(ONE)}\n"
    assert written_into(page, [ONE, TWO], command="c", pictures="plots")[1] == ["two"]
    with pytest.raises(NoMarkers, match="evidence one"):
        written_into("# Mine\n", [ONE, TWO], command="c", pictures="plots")


def test_a_sections_plots_stand_before_its_tables() -> None:
    plot = Figure(Labels("Loss: med, α 0.1", "", "x", "y"), (), "What is seen.")  # noqa: RUF001  # Greek is meant
    page = new_page([Section("one", "First", figures=(plot,))], command="c", pictures="plots")
    assert "![Loss: med, α 0.1](plots/loss-med-0.1.svg)\n\nWhat is seen.\n" in page  # noqa: RUF001  # Greek is meant


def test_without_markers_it_can_be_read() -> None:
    assert markdown_of([ONE, TWO]) == (
        "## First\n\n- Old.\n\n## Second\n\nNot measured in these files.\n"
    )
