from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tools.cli import app
from transport.exit_codes import ExitCode

RUNNER = CliRunner()
METHODS = ("fp32", "eden@1", "fstq-r@0.15:0.8")


@pytest.fixture
def trials(tmp_path: Path, matrix: Callable[..., Path]) -> Path:
    return matrix(tmp_path / "trials", seeds=2, methods=METHODS)


def run(*words: object) -> Any:
    return RUNNER.invoke(app, ["report", "experiment", *map(str, words)])


def test_page_markdown_and_figures_lie_beside_the_trials_and_are_no_trials(trials: Path) -> None:
    for _ in range(2):
        result = run(trials)
        assert result.exit_code == 0, result.output
        names = ["evidence.html", "evidence.md", "evidence.json"]
        assert result.output.split() == [str(trials / name) for name in names]
    assert "damaged" in json.loads((trials / "evidence.json").read_text())


def test_what_is_printed_is_the_only_thing_on_stdout(trials: Path, tmp_path: Path) -> None:
    result = run(trials, "--json", "--out", tmp_path / "out")
    assert json.loads(result.stdout)["trials"] == 6
    assert (tmp_path / "out" / "evidence.html").exists()
    result = run(trials, "--markdown")
    assert result.stdout.startswith("## Goals")
    assert not (trials / "evidence.html").exists()


def test_a_page_is_made_then_written_anew_around_peoples_words(
    trials: Path, tmp_path: Path
) -> None:
    page = tmp_path / "evidence.md"
    assert run(trials, "--write", page).exit_code == 0
    plot = "evidence/loss-against-uplink-med.svg"
    assert f"]({plot})" in page.read_text()
    assert (tmp_path / plot).read_text().startswith("<svg")
    page.write_text(page.read_text().replace("## 2.", "By hand.\n\n## 2."))
    before = page.read_text()
    assert run(trials, "--write", page).exit_code == 0
    assert page.read_text() == before
    assert not (trials / "evidence.html").exists()


def test_archives_say_what_the_files_of_the_trials_say(trials: Path, tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    result = run(trials, "--archive", archives)
    path = archives / "uplink.jsonl.zst"
    assert result.output.split() == [str(path)]
    first = path.read_bytes()
    assert len(first) < sum(each.stat().st_size for each in trials.rglob("*.jsonl")) / 4
    assert run(archives, "--json").stdout == run(trials, "--json").stdout
    assert run(archives, "--archive", archives).exit_code == 0
    assert path.read_bytes() == first


def test_a_damaged_archive_is_named_and_the_rest_is_reported(trials: Path) -> None:
    (trials / "old.jsonl.zst").write_bytes(b"no archive")
    result = run(trials, "--json")
    assert json.loads(result.stdout)["trials"] == 6
    assert "old.jsonl.zst: it is no archive" in result.stderr


def test_a_section_without_a_place_is_named(trials: Path, tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    page.write_text("<!-- evidence time: -->\n<!-- end of evidence time -->\n")
    result = run(trials, "--write", page)
    assert result.exit_code == 0
    assert "has no place for: goals, uplink" in result.stderr


def test_what_cannot_be_done_is_one_line(
    trials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(tmp_path / "none")
    assert result.exit_code == ExitCode.CONFIG
    assert result.stderr.count("\n") == 1
    assert run(trials, "--json", "--markdown").exit_code == ExitCode.USAGE
    (tmp_path / "plain.md").write_text("# Mine\n")
    result = run(trials, "--write", tmp_path / "plain.md")
    assert (result.exit_code, result.stderr.count("\n")) == (ExitCode.CONFIG, 1)
    result = run(trials, "--write", tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (ExitCode.CONFIG, 1)
    result = run(trials, "--out", tmp_path / "plain.md")
    assert "cannot be written" in result.stderr
    for name in [name for name in sys.modules if name.startswith("tools.evidence.")]:
        if name != "tools.evidence.command":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = run(trials)
    assert result.exit_code == ExitCode.CONFIG
    assert "fedfstq[evidence]" in result.stderr


def test_damaged_files_are_named_and_do_not_matter(trials: Path) -> None:
    (trials / "x.jsonl").write_text("{}\n{}")
    result = run(trials, "--json")
    assert result.exit_code == 0
    assert "x.jsonl: its first line is no trial's header; left out" in result.stderr
