from __future__ import annotations

import json
import math
from typing import Any

from tools.evidence.sheets import (
    Figure,
    Section,
    Sheet,
    escaped,
    json_value,
    markdown_section,
    markdown_sheet,
    section_values,
    varying,
)
from tools.report.plot import Labels, Series
from tools.report.tables import Column

COLUMNS = (
    Column("name", "Name"),
    Column("value", "Value", lambda value: f"{value:.1f}"),
    Column("command", "Run", is_text=True, optional=True),
)
SHEET = Sheet("A | table", COLUMNS, ({"name": "a<b", "value": 1.25}, {"name": "c", "value": None}))


def test_a_table_reads_as_markdown() -> None:
    assert markdown_sheet(SHEET).splitlines() == [
        r"**A \| table**",
        "",
        "| Name | Value |",
        "| --- | ---: |",
        "| a&lt;b | 1.2 |",
        "| c |  |",
    ]
    with_command = Sheet("t", COLUMNS, ({"name": "a", "value": 1.0, "command": "x --y"},), "About.")
    assert "| a | 1.0 | `x --y` |" in markdown_sheet(with_command)
    assert "About." in markdown_sheet(with_command)
    assert "Nothing to show." in markdown_sheet(Sheet("t", COLUMNS, ()))


def test_text_stays_text_and_code_stays_code() -> None:
    assert escaped("a  <b>\n`<c>` p < 0.05") == "a &lt;b> `<c>` p < 0.05"


def test_a_section_begins_with_what_was_found() -> None:
    section = Section("s", "S", ("How.",), ("Found.",), (SHEET,))
    lines = markdown_section(section).splitlines()
    assert lines[:3] == ["- Found.", "", "How."]
    assert not section.is_empty
    assert markdown_section(Section("s", "S")) == "Not measured in these files.\n"


def test_a_section_is_json_without_infinities() -> None:
    labels = Labels("t", "a", "x", "y")
    figure = Figure(labels, (Series("n", "s", ((1.0, math.inf),), ((1.0, 2.0, 3.0),)),), "c")
    values = section_values(Section("s", "S", (), (), (SHEET,), (figure,)))
    assert values["curves"][0]["series"][0]["points"] == [[1.0, None]]
    assert values["tables"][0]["rows"][0] == {"name": "a<b", "value": 1.25}
    json.dumps(values, allow_nan=False)
    assert json_value({"a": (1, math.nan, {2})}) == {"a": [1, None, "{2}"]}


def test_keys_vary_where_rows_differ() -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": [1]}, {"a": 1, "b": [2]}, {"a": 1}]
    assert varying(rows, ["a", "b"]) == ["b"]
