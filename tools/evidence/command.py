"""`fedfstq report experiment`: tables, curves and statistics of a folder of trials."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no numpy

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.exits import fail, write_bytes, write_text
from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.evidence.reading import Folder
    from tools.evidence.sheets import Section

PAGE = "evidence.html"
MARKDOWN = "evidence.md"
FIGURES = "evidence.json"


def experiment(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="What `fedfstq simulate experiment` wrote; all below it is read."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help=f"Folder for {PAGE}, {MARKDOWN} and {FIGURES}; DIR by default."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.md",
            help="A page whose sections between markers are written anew; its plots lie in a folder"
            " of its name.",
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for one small file per experiment that holds all trials which count.",
        ),
    ] = None,
) -> None:
    """Report experiments: uplink, time and statistics against every baseline, with curves.

    Files are written where --out or --write names them, or where nothing is printed.
    """
    try:
        from tools.evidence.reading import NoEvidence, read_folder
        from tools.evidence.tables import sections_of
    except ModuleNotFoundError as error:
        if error.name != "scipy":
            raise
        fail(ExitCode.CONFIG, "this command needs scipy: pip install 'fedfstq[evidence]'")
    if as_json and as_markdown:
        fail(ExitCode.USAGE, "--json and --markdown: print one of them")
    try:
        found = read_folder(folder)
    except NoEvidence as error:
        fail(ExitCode.CONFIG, str(error))
    sections = sections_of(found)
    if archive is not None:
        _write_archives(archive, folder, found)
    if out is not None or not (as_json or as_markdown or write or archive):
        for path in _write_files(out or folder, found, sections):
            print(path, file=sys.stderr if as_json or as_markdown else sys.stdout)  # what was made
    if write is not None:
        _write_page(write, sections, folder)
    if as_json:
        print(json.dumps(_values(found, sections), indent=1, ensure_ascii=False))  # noqa: T201  # what was asked for
    if as_markdown:
        from tools.evidence.document import markdown_of

        print(markdown_of(sections), end="")  # noqa: T201  # what was asked for
    for name, why in found.damaged:
        print(f"fedfstq: {name}: {why}; left out", file=sys.stderr)  # noqa: T201  # not fatal


def _write_files(out: Path, found: Folder, sections: Sequence[Section]) -> list[Path]:
    from tools.evidence.document import markdown_of
    from tools.evidence.page import page_of

    facts = [
        (
            f"{len(found.trials)} runs that have ended; {len(found.unfinished)} unfinished,"
            f" {len(found.damaged)} files that cannot be read."
        )
    ]
    contents = {
        out / PAGE: page_of(sections, title="Evidence", facts=facts),
        out / MARKDOWN: markdown_of(sections),
        out / FIGURES: json.dumps(_values(found, sections), indent=1, ensure_ascii=False) + "\n",
    }
    for path, content in contents.items():
        write_text(path, content)
    return list(contents)


def _write_archives(archive: Path, folder: Path, found: Folder) -> None:
    from tools.evidence.reading import trial_lines
    from tools.experiment.archive import SUFFIX, pack

    experiments: dict[str, list[Path]] = {}
    for trial in found.trials:
        experiments.setdefault(trial.experiment, []).append(trial.path)
    lines = dict(trial_lines(folder, []))
    for name, paths in experiments.items():
        path = archive / f"{name}{SUFFIX}"
        write_bytes(path, pack(lines[each] for each in paths))
        print(path)  # noqa: T201  # what was made


def _write_page(page: Path, sections: Sequence[Section], folder: Path) -> None:
    from tools.evidence.document import NoMarkers, new_page, written_into
    from tools.evidence.picture import picture_name, picture_of

    pictures = page.with_suffix("")
    for figure in (figure for section in sections for figure in section.figures):
        write_text(pictures / picture_name(figure), picture_of(figure))
    command = shlex.join(["fedfstq", "report", "experiment", str(folder), "--write", str(page)])
    try:
        before = page.read_text(encoding="utf-8")
    except FileNotFoundError:
        write_text(page, new_page(sections, command=command, pictures=pictures.name))
        return
    except (OSError, UnicodeDecodeError) as error:
        fail(ExitCode.CONFIG, f"{page} cannot be read: {error}")
    try:
        content, missing = written_into(before, sections, command=command, pictures=pictures.name)
    except NoMarkers as error:
        fail(ExitCode.CONFIG, f"{page}: {error}; name a page that is not there to get them all")
    write_text(page, content)
    if missing:
        print(f"fedfstq: {page} has no place for: {', '.join(missing)}", file=sys.stderr)  # noqa: T201  # worth knowing


def _values(found: Folder, sections: Sequence[Section]) -> dict[str, Any]:
    from tools.evidence.sheets import section_values

    return {
        "trials": len(found.trials),
        "unfinished": list(found.unfinished),
        "damaged": [{"file": name, "why": why} for name, why in found.damaged],
        "sections": [section_values(section) for section in sections],
    }
