"""A plot as a picture of its own, for pages of Markdown. Pure, but for its style."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from tools.evidence.sheets import Figure
from tools.report.markup import text
from tools.report.plot import HEIGHT, WIDTH, line_plot

_COLUMNS: Final = 2
_ROW: Final = 18
_TOP: Final = 8
_KEY: Final = 16


def picture_name(figure: Figure) -> str:
    """Return the name of a plot's file: its title in small letters."""
    return re.sub(r"[^a-z0-9.]+", "-", figure.labels.title.lower()).strip("-") + ".svg"


def picture_of(figure: Figure) -> str:
    """Return an SVG file with a plot and its legend, in light or dark as the reader has it."""
    style = "".join(
        (files(package) / name).read_text(encoding="utf-8")
        for package, name in (("tools.report", "report.css"), ("tools.evidence", "evidence.css"))
    )
    rows = -(-len(figure.series) // _COLUMNS)
    above = 2 * _TOP + rows * _ROW
    plot = line_plot(figure.series, figure.labels, identity="plot", logarithmic=True)
    inner = plot.replace("<svg ", f'<svg y="{above}" width="{WIDTH}" height="{HEIGHT}" ', 1)
    height = above + HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif">'
        f"<style>{style}</style>"
        f'<rect width="{WIDTH}" height="{height}" style="fill: var(--paper)"/>'
        f"{''.join(_keys(figure))}{inner}</svg>\n"
    )


def _keys(figure: Figure) -> list[str]:
    keys = []
    for number, series in enumerate(figure.series):
        row, column = divmod(number, _COLUMNS)
        x, y = 12 + column * WIDTH // _COLUMNS, _TOP + row * _ROW + _ROW // 2
        keys.append(
            f'<line class="line {series.style}" x1="{x}" x2="{x + _KEY}" y1="{y}" y2="{y}"/>'
            f'<text x="{x + _KEY + 6}" y="{y}" dy="0.32em">{text(series.name)}</text>'
        )
    return keys
