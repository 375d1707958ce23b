"""The report's tables, as HTML and as CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.report.markup import text

Row = Mapping[str, Any]

# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        key: Its key in the rows.
        head: What stands over it.
        words: How its values read.
        about: What it means, for who asks.
        is_text: It holds words, not numbers.
        optional: It is left out where it says nothing: None, or 0 in each row.
    """

    key: str
    head: str
    words: Callable[[Any], str] = str
    about: str = ""
    is_text: bool = False
    optional: bool = False


def html_table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    caption: str,
    total: Row | None = None,
) -> str:
    """Return a table whose first column names its rows; what is None is left empty.

    Args:
        rows: Key → value.
        columns: What is shown of them, in order.
        caption: What the table is.
        total: Its last row, where there is one.
    """
    columns = [
        column
        for column in columns
        if not column.optional or any(row.get(column.key) for row in rows)
    ]
    heads = "".join(_head(column, first=not at) for at, column in enumerate(columns))
    body = "".join(_row(row, columns) for row in rows)
    foot = f"<tfoot>{_row(total, columns)}</tfoot>" if total is not None else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table><caption>{text(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody>{foot}</table></div>"
    )


def csv_table(rows: Sequence[Row], *, keys: Sequence[str]) -> str:
    """Return rows as CSV with a line of keys, numbers as they are, None as nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(keys)
    writer.writerows([_cell(row[key]) for key in keys] for row in rows)
    return out.getvalue()


def _head(column: Column, *, first: bool) -> str:
    kind = ' class="name"' if first or column.is_text else ""
    about = f' title="{text(column.about)}"' if column.about else ""
    return f'<th scope="col"{kind}{about}>{text(column.head)}</th>'


def _row(row: Row, columns: Sequence[Column]) -> str:
    cells = []
    for at, column in enumerate(columns):
        value = row.get(column.key)
        shown = "" if value is None else text(column.words(value))
        sorted_by = "" if value is None else text(str(value))
        if at == 0:
            cells.append(f'<th scope="row" class="name" data-value="{sorted_by}">{shown}</th>')
        else:
            kind = ' class="name"' if column.is_text else ""
            cells.append(f'<td{kind} data-value="{sorted_by}">{shown}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value
