"""The page of Markdown: sections between markers, so that people's words around them stay. Pure.

A section lies between `<!-- evidence NAME: … -->` and `<!-- end of evidence NAME -->`. What stands
outside of markers is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tools.evidence.picture import picture_name
from tools.evidence.sheets import Section, escaped, markdown_section

_TITLE = "# Evidence\n\n"
_LEAD = (
    "Generated from the files of every run; a sentence between markers follows from the figures"
    " beside it, and is written anew with them.\n\n"
)


class NoMarkers(Exception):
    """A page has none of the sections' markers."""


def begin(section: Section) -> str:
    """Return the line that a section begins with."""
    return f"<!-- evidence {section.identity}: written by `fedfstq report experiment --write` -->"


def end(section: Section) -> str:
    """Return the line that a section ends with."""
    return f"<!-- end of evidence {section.identity} -->"


def new_page(sections: Sequence[Section], *, command: str, pictures: str) -> str:
    """Return a whole page with all sections, each under its heading.

    Args:
        sections: In order.
        command: What makes the page.
        pictures: Folder of the plots' files, as the page names it.
    """
    parts = [_TITLE, _LEAD]
    for number, section in enumerate(sections, start=1):
        block = _block(section, command=command, pictures=pictures)
        parts.append(f"## {number}. {section.title}\n\n{block}\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def written_into(
    page: str, sections: Sequence[Section], *, command: str, pictures: str
) -> tuple[str, list[str]]:
    """Return a page with its sections written anew, and the sections that it has no place for.

    Args:
        page: As it is.
        sections: In order.
        command: What makes the page.
        pictures: Folder of the plots' files, as the page names it.

    Raises:
        NoMarkers: It has a place for none.
    """
    missing = []
    for section in sections:
        pattern = re.compile(
            rf"<!-- evidence {re.escape(section.identity)}:.*?{re.escape(end(section))}", re.DOTALL
        )
        block = _block(section, command=command, pictures=pictures)
        page, count = pattern.subn(lambda _, block=block: block, page)  # type: ignore[misc]
        if not count:
            missing.append(section.identity)
    if len(missing) == len(sections):
        raise NoMarkers(f"it has no line as {begin(sections[0])!r}")
    return page, missing


def markdown_of(sections: Sequence[Section]) -> str:
    """Return all sections for reading, without markers."""
    return "\n".join(f"## {each.title}\n\n{markdown_section(each)}" for each in sections)


def _block(section: Section, *, command: str, pictures: str) -> str:
    made = "" if section.is_empty else f"\nMade by `{command}`.\n"
    plots = "".join(
        f"![{escaped(figure.labels.title)}]({pictures}/{picture_name(figure)})\n\n"
        f"{escaped(figure.caption)}\n\n"
        for figure in section.figures
    )
    return f"{begin(section)}\n\n{plots}{markdown_section(section)}{made}\n{end(section)}"
