"""The evidence as one HTML file that needs nothing else. Pure, but for its style and script."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from tools.evidence.sheets import Figure, Section, Sheet
from tools.report.markup import text
from tools.report.plot import line_plot
from tools.report.tables import html_table

_VERDICT = re.compile(r"Goal (\*\*not reached\*\*|reached|not measured)")


def page_of(sections: Sequence[Section], *, title: str, facts: Sequence[str]) -> str:
    """Return the page.

    Args:
        sections: In order.
        title: Its heading.
        facts: What stands under the heading, a line each.
    """
    style = "".join(
        (files(package) / name).read_text(encoding="utf-8")
        for package, name in (("tools.report", "report.css"), ("tools.evidence", "evidence.css"))
    )
    script = (files("tools.report") / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = "".join(
        f'<li><a href="#{text(each.identity)}">{text(each.title)}</a></li>' for each in sections
    )
    lines = "".join(f'<p class="quiet">{text(fact)}</p>' for fact in facts)
    body = f"<header><h1>{text(title)}</h1>{lines}<nav><ul>{links}</ul></nav></header>"
    body += "".join(_section(each) for each in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)} - fedfstq</title><style>{style}</style></head>"
        f"<body>{body}<script>{script}</script></body></html>\n"
    )


def _section(section: Section) -> str:
    parts = [f'<section id="{text(section.identity)}"><h2>{text(section.title)}</h2>']
    if section.is_empty:
        parts.append('<p class="quiet">Not measured in these files.</p>')
    if section.findings:
        items = "".join(f"<li>{_finding(each)}</li>" for each in section.findings)
        parts.append(f'<ul class="findings">{items}</ul>')
    if section.figures:
        figures = "".join(
            _figure(each, identity=f"{section.identity}-{number}")
            for number, each in enumerate(section.figures)
        )
        parts.append(f'<div class="plots">{figures}</div>')
    parts += [f'<p class="quiet">{_coded(each)}</p>' for each in section.about]
    parts += [_sheet(each) for each in section.sheets]
    return "".join([*parts, "</section>"])


def _sheet(sheet: Sheet) -> str:
    about = f'<p class="quiet">{_coded(sheet.about)}</p>' if sheet.about else ""
    if not sheet.rows:
        return f'<div class="sheet"><p>{text(sheet.title)}: nothing to show.</p></div>'
    table = html_table(sheet.rows, sheet.columns, caption=sheet.title)
    return f'<div class="sheet">{about}{table}</div>'


def _figure(figure: Figure, *, identity: str) -> str:
    plot = line_plot(figure.series, figure.labels, identity=identity, logarithmic=True)
    legend = "".join(
        f'<li><span class="key rule {each.style}" aria-hidden="true"></span>{text(each.name)}</li>'
        for each in figure.series
    )
    return (
        f'<figure><h3>{text(figure.labels.title)}</h3><ul class="legend">{legend}</ul>{plot}'
        f"<figcaption>{text(figure.caption)}</figcaption></figure>"
    )


def _finding(sentence: str) -> str:
    """Return a sentence whose verdict can be seen from afar."""
    found = _VERDICT.match(sentence)
    if not found:
        return _coded(sentence)
    verdict = found[0].replace("*", "")
    style = "met" if verdict.startswith("Goal reached") else "missed"
    return f'<span class="{style}">{verdict}</span>{_coded(sentence[found.end() :])}'


def _coded(sentence: str) -> str:
    """Return a text in which what stands in backticks is code, and in asterisks emphasis."""
    parts = text(sentence).split("`")
    marked = [
        f"<code>{part}</code>" if at % 2 else re.sub(r"\*([^*\s][^*]*)\*", r"<em>\1</em>", part)
        for at, part in enumerate(parts)
    ]
    return "".join(marked)
