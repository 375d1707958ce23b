from __future__ import annotations

import csv
import io
from xml.etree import ElementTree as ET

from tools.report.markup import embedded, text
from tools.report.tables import Column, csv_table, html_table

HOSTILE = '<img src=x onerror=alert(1)> "quoted" & \x1b[31m\u202eevil'


def test_a_table_has_scopes_and_a_caption_and_leaves_empty_what_is_not_known() -> None:
    columns = [
        Column("name", "Device"),
        Column("bytes", "Bytes", lambda value: f"{value:,}"),
        Column("about", "About", is_text=True),
        Column("nothing", "Nothing", optional=True),
    ]
    rows = [
        {"name": HOSTILE, "bytes": 12345, "about": HOSTILE, "nothing": 0},
        {"name": "b", "bytes": None, "about": "", "nothing": None},
    ]
    total = {"name": "All", "bytes": 12345}
    made = html_table(rows, columns, caption=HOSTILE, total=total)
    root = ET.fromstring(made)
    heads = [each for each in root.iter("th") if each.attrib["scope"] == "col"]
    assert ["".join(head.itertext()) for head in heads] == ["Device", "Bytes", "About"]
    cells = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert cells[1][1] == "12,345"
    assert cells[2][1] == ""
    assert cells[3][:2] == ["All", "12,345"]
    assert not list(root.iter("img"))
    assert "\x1b" not in made
    assert "\u202e" not in made


def test_a_csv_holds_numbers_as_they_are_and_no_formulas() -> None:
    rows = [{"device": "=1+1", "bytes": 3, "loss": 0.1, "none": None, "asked": True}]
    lines = list(csv.reader(io.StringIO(csv_table(rows, keys=list(rows[0])))))
    assert lines == [["device", "bytes", "loss", "none", "asked"], ["'=1+1", "3", "0.1", "", "1"]]


def test_markup_in_text_and_in_json_stays_text() -> None:
    assert text("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert "</script" not in embedded({"a": "</script><!--"})
    assert "<!--" not in embedded({"a": "</script><!--"})
