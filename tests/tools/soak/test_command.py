"""The soak command: what it refuses, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.soak import command
from tools.soak.cases import CaseEntry
from tools.soak.command import SoakOptions, SoakRefused, run_soak
from tools.soak.outcome import Outcome, SoakCase, Tell
from tools.soak.report import BEGIN, END
from transport.exit_codes import ExitCode


def case_that(
    *, name: str = "made-up", reached: bool = True, error: Exception | None = None
) -> CaseEntry:
    def play(folder: Path, *, tell: Tell) -> Outcome:
        tell("playing")
        (folder / "log").touch()
        if error is not None:
            raise error
        return Outcome("made-up", "a figure", "a measure", reached)

    class Entry(CaseEntry):
        def load(self, *, quick: bool) -> SoakCase:
            assert not quick or self.has_quick
            return play

    return Entry(name, "nowhere", "a promise")


def options(
    tmp_path: Path, *names: str, quick: bool = False, write: Path | None = None
) -> SoakOptions:
    return SoakOptions(names, quick, as_json=True, out=tmp_path / "out", write=write)


@pytest.mark.parametrize(("reached", "code"), [(True, ExitCode.OK), (False, ExitCode.FAILED)])
def test_the_exit_code_says_whether_every_figure_is_reached(
    *,
    reached: bool,
    code: ExitCode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "CASES", (case_that(reached=reached),))
    assert run_soak(options(tmp_path)) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "soak.json").read_text())
    assert printed["cases"][0]["reached"] is reached
    assert "| made-up |" in (tmp_path / "out" / "soak.md").read_text()


def test_a_case_that_breaks_off_is_a_figure_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        command, "CASES", (case_that(error=OSError("no space")), case_that(name="other"))
    )
    assert run_soak(options(tmp_path)) == ExitCode.FAILED
    first, second = json.loads(capsys.readouterr().out)["cases"]
    assert first["measured"] == "broke off: OSError: no space"
    assert second["reached"]


def test_a_page_gets_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CASES", (case_that(),))
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    run_soak(options(tmp_path, write=page))
    assert "| made-up | a figure | a measure | yes | full |" in page.read_text()


def test_it_refuses_before_anything_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "CASES", (case_that(),))
    with pytest.raises(SoakRefused, match="no soak case is called 'x'"):
        run_soak(options(tmp_path, "x"))
    with pytest.raises(SoakRefused, match=r"page\.md"):
        run_soak(options(tmp_path, write=tmp_path / "page.md"))
    (tmp_path / "out" / ".fedfstq-soak").unlink()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(SoakRefused, match="not of an earlier soak"):
        run_soak(options(tmp_path))


def test_cases_without_a_short_form_are_left_out_of_quick_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = CaseEntry("long", "nowhere", "a promise", has_quick=False)
    monkeypatch.setattr(command, "CASES", (long, case_that()))
    assert run_soak(options(tmp_path, quick=True)) == ExitCode.OK
    assert [one["case"] for one in json.loads(capsys.readouterr().out)["cases"]] == ["made-up"]


def test_the_command_line_says_what_it_does_not_know(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tools.cli", "soak", "--case", "x", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr.startswith("fedfstq: no soak case is called 'x': there are kill-matrix, ")
