"""`fedfstq report RUN` and `fedfstq report experiment DIR` beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.cli import app
from transport.exit_codes import ExitCode

RUNNER = CliRunner()


@pytest.mark.parametrize("words", [["{}"], ["--json", "{}"], ["{}", "--json"]])
def test_what_names_no_subcommand_is_a_runs_folder(words: list[str], tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["report", *(word.format(tmp_path) for word in words)])
    assert result.exit_code == ExitCode.CONFIG
    assert f"{tmp_path} has no journal.sqlite3" in result.stderr


@pytest.mark.parametrize("name", ["./experiment", "RUN"])
def test_folders_of_such_names_can_be_reached(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    result = RUNNER.invoke(app, ["report", name])
    assert "has no journal.sqlite3" in result.stderr


def test_experiments_have_a_report_of_their_own(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["report", "experiment", str(tmp_path)])
    assert result.exit_code == ExitCode.CONFIG
    assert "holds no trial that has ended" in result.stderr


def test_help_is_that_of_a_run_and_names_the_other() -> None:
    result = RUNNER.invoke(app, ["report", "--help"])
    assert result.exit_code == 0
    assert "state_dir" in result.output
    assert "fedfstq report experiment" in result.output
    assert "DIR" in RUNNER.invoke(app, ["report", "experiment", "--help"]).output
    assert RUNNER.invoke(app, ["report"]).exit_code == ExitCode.USAGE
