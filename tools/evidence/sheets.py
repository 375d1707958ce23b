"""Sections of tables and figures, and how they read as Markdown and as JSON. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tools.report.plot import Labels, Series
from tools.report.tables import Column, Row

# What Markdown would take for HTML.
_TAG: Final = re.compile(r"<(?=[A-Za-z/!?])")

# Columns that hold a command or a method's text.
_CODE: Final = frozenset({"command", "configuration", "whole", "control"})


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table.

    Attributes:
        title: What it is, one line.
        columns: Of its rows, in order; the first names them.
        rows: Key → value.
        about: How it is to be read; "" where that is plain.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot of curves over a logarithmic axis.

    Attributes:
        labels: What stands at it.
        series: Its curves.
        caption: What stands under it.
    """

    labels: Labels
    series: tuple[Series, ...]
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """One question and what answers it.

    Attributes:
        identity: A short name, lower case.
        title: The question.
        about: How it was measured, a paragraph each.
        findings: Sentences that the figures make.
        sheets: Its tables.
        figures: Its plots.
    """

    identity: str
    title: str
    about: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    figures: tuple[Figure, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured for it."""
        return not (self.sheets or self.figures or self.findings)


def markdown_sheet(sheet: Sheet) -> str:
    """Return a table for a page of Markdown: numbers to the right, commands in code."""
    columns = shown_columns(sheet)
    lines = [f"**{escaped(sheet.title)}**", ""]
    if sheet.about:
        lines += [escaped(sheet.about), ""]
    if not sheet.rows:
        return "\n".join([*lines, "Nothing to show.", ""])
    rule = ["---" if column.is_text or not at else "---:" for at, column in enumerate(columns)]
    lines += [_line([escaped(column.head) for column in columns]), _line(rule)]
    lines += [_line([_cell(row, column) for column in columns]) for row in sheet.rows]
    return "\n".join([*lines, ""])


def markdown_section(section: Section) -> str:
    """Return a section without its heading: findings, then how it was measured, then tables."""
    parts = [f"- {finding}" for finding in map(escaped, section.findings)]
    text = "\n".join(parts) + "\n\n" if parts else ""
    text += "".join(f"{escaped(paragraph)}\n\n" for paragraph in section.about)
    text += "\n".join(markdown_sheet(sheet) for sheet in section.sheets)
    return text.rstrip("\n") + "\n" if text else "Not measured in these files.\n"


def section_values(section: Section) -> dict[str, Any]:
    """Return a section as JSON's types; what is no finite number is null."""
    return {
        "identity": section.identity,
        "title": section.title,
        "about": list(section.about),
        "findings": list(section.findings),
        "tables": [
            {
                "title": sheet.title,
                "about": sheet.about,
                "columns": [{"key": each.key, "head": each.head} for each in sheet.columns],
                "rows": [
                    {key: json_value(value) for key, value in row.items()} for row in sheet.rows
                ],
            }
            for sheet in section.sheets
        ],
        "curves": [
            {
                "title": figure.labels.title,
                "series": [
                    {
                        "name": each.name,
                        "points": [list(map(json_value, point)) for point in each.points],
                        "spread": [list(map(json_value, point)) for point in each.spread],
                    }
                    for each in figure.series
                ],
            }
            for figure in section.figures
        ],
    }


def shown_columns(sheet: Sheet) -> list[Column]:
    """Return the columns that say something: an optional one needs a value in some row."""
    return [
        column
        for column in sheet.columns
        if not column.optional or any(row.get(column.key) for row in sheet.rows)
    ]


def varying(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Return those of some keys whose values differ between rows."""
    return [key for key in keys if len({repr(row.get(key)) for row in rows}) > 1]


def json_value(value: Any) -> Any:
    """Return a value of JSON's types; no infinity, no NaN."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(key): json_value(each) for key, each in value.items()}
        case list() | tuple():
            return [json_value(each) for each in value]
        case _:
            return str(value)


def escaped(text: str) -> str:
    """Return a text that Markdown takes for text; code in backticks stays code."""
    flat = " ".join(text.split()).replace("|", "\\|")
    parts = flat.split("`")
    outside = [_TAG.sub("&lt;", part) if not at % 2 else part for at, part in enumerate(parts)]
    return "`".join(outside)


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    if value is None or value == "":
        return ""
    text = escaped(column.words(value))
    return f"`{text}`" if column.key in _CODE else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
