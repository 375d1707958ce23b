from __future__ import annotations

from html.parser import HTMLParser

import pytest

from tools.evidence.page import page_of
from tools.evidence.sheets import Figure, Section, Sheet
from tools.report.plot import Labels, Series
from tools.report.tables import Column

HOSTILE = '<script>alert(1)</script>"&'


class _Balanced(HTMLParser):
    """Counts what is opened and closed, and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        self.loaded += [str(value) for name, value in attrs if name == "src"]
        self.loaded += [
            str(value) for name, value in attrs if name == "href" and value and value[0] != "#"
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Is closed at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(*sections: Section) -> str:
    return page_of(sections, title="Evidence", facts=["3 runs"])


@pytest.fixture
def section() -> Section:
    sheet = Sheet(HOSTILE, (Column("a", HOSTILE),), ({"a": HOSTILE},), HOSTILE)
    series = Series(HOSTILE, "curve-1", ((1.0, 2.0), (10.0, 1.0)), ((1.0, 1.5, 2.5), (10.0, 1, 1)))
    figure = Figure(Labels(HOSTILE, HOSTILE, "x", "y"), (series,), HOSTILE)
    empty = Sheet("Failures", (), ())
    return Section("one", HOSTILE, (HOSTILE,), (HOSTILE,), (sheet, empty), (figure,))


def test_a_page_is_whole_loads_nothing_and_takes_names_for_text(section: Section) -> None:
    parser = _Balanced()
    made = page(section, Section("two", "Empty"))
    parser.feed(made)
    assert parser.open == []
    assert parser.loaded == []
    assert "<script>alert" not in made
    assert "default-src 'none'" in made
    assert "Not measured in these files." in made
    assert "nothing to show" in made
    assert 'class="shade curve-1"' in made


def test_verdicts_can_be_seen_and_code_is_code() -> None:
    findings = ("Goal reached: `a*b*`.", "Goal **not reached** everywhere.", "Goal not measured: c")
    made = page(Section("one", "One", ("*tried* x",), findings))
    assert '<span class="met">Goal reached</span>: <code>a*b*</code>.' in made
    assert '<span class="missed">Goal not reached</span> everywhere.' in made
    assert '<span class="missed">Goal not measured</span>' in made
    assert "<em>tried</em> x" in made
