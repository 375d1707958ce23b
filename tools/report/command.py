"""`fedfstq report`: what a run has cost and given, from the aggregator's state folder alone."""
# ruff: noqa: FBT002, PLC0415  # typer's options; `--help` loads no numpy

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.exits import fail, write_text
from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The aggregator's state_dir; it may be running.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file; report.html by default.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE.csv", help="A folder for all tables; a file for rounds."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures; write what is named besides.")
    ] = False,
) -> None:
    """Write a run's report: one HTML file with plots and tables, and CSV. Needs no broker."""
    from tools.report.figures import document_of
    from tools.report.page import page_of
    from tools.report.reading import NoRun, read_run

    try:
        document = document_of(read_run(run))
    except NoRun as error:
        fail(ExitCode.CONFIG, str(error))
    if out is None and not (as_json or csv):
        out = Path("report.html")
    files: dict[Path, str] = {}
    if out is not None:
        files[out] = page_of(document)
    if csv is not None:
        files.update(_csv_files(document, csv))
    for path, content in files.items():
        write_text(path, content)
    if as_json:
        print(json.dumps(document, indent=2))  # noqa: T201  # what was asked for
        return
    for path in files:
        print(path)  # noqa: T201  # what was made


def _csv_files(document: Mapping[str, Any], target: Path) -> Iterator[tuple[Path, str]]:
    from tools.report.figures import tensor_rows
    from tools.report.tables import csv_table

    rounds = [_flat(row) for row in document["rounds"]]
    if target.suffix == ".csv":
        yield target, csv_table(rounds, keys=_keys(rounds))
        return
    yield target / "rounds.csv", csv_table(rounds, keys=_keys(rounds))
    tables = {name: document[name] for name in ("devices", "device_rounds")}
    for name, rows in {**tables, "tensors": tensor_rows(document)}.items():
        yield target / f"{name}.csv", csv_table(rows, keys=_keys(rows))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a round's row with its bytes as columns of their own, and refusals as one number."""
    wire = {f"wire_{name}_bytes": count for name, count in row["wire"].items()}
    flat = {key: value for key, value in row.items() if key != "wire"}
    return {**flat, "refused": sum(row["refused"].values()), **wire}


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(rows[0]) if rows else []
