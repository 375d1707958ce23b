from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tools.cli import app
from tools.report import reading
from transport.exit_codes import ExitCode

Make = Callable[..., Any]
RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch, run_of: Make, round_of: Make) -> Any:
    made = run_of(round_of(1), round_of(2))
    monkeypatch.setattr(reading, "read_run", lambda _: made)
    return made


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["report", "state", "--out", str(tmp_path / "a" / "r.html")])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(tmp_path / "a" / "r.html")
    assert (tmp_path / "a" / "r.html").read_text().startswith("<!doctype html>")


def test_it_is_report_html_where_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RUNNER.invoke(app, ["report", "state"]).exit_code == 0
    assert (tmp_path / "report.html").exists()


def test_json_goes_to_stdout_and_no_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(app, ["report", "state", "--json"])
    assert json.loads(result.output)["totals"]["bytes_up"] == 2000
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_all_tables_and_a_file_the_rounds(tmp_path: Path) -> None:
    folder, file = tmp_path / "tables", tmp_path / "rounds.csv"
    assert RUNNER.invoke(app, ["report", "state", "--csv", str(folder)]).exit_code == 0
    assert RUNNER.invoke(app, ["report", "state", "--csv", str(file)]).exit_code == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"rounds.csv", "devices.csv", "device_rounds.csv", "tensors.csv"}
    assert (folder / "rounds.csv").read_bytes() == file.read_bytes()
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["wire_payload_bytes"] for row in rows] == ["700", "700"]
    assert rows[0]["refused"] == "1"


def test_what_cannot_be_read_or_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    result = RUNNER.invoke(app, ["report", "state", "--out", str(tmp_path / "file" / "r.html")])
    assert result.exit_code == ExitCode.CONFIG
    assert "cannot be written" in result.stderr
    monkeypatch.undo()
    result = RUNNER.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == ExitCode.CONFIG
    assert result.stderr == (
        f"fedfstq: {tmp_path} has no journal.sqlite3: name the state_dir of an aggregator\n"
    )
