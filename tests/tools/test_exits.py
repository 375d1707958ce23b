from __future__ import annotations

from pathlib import Path

import pytest
import typer

from tools.exits import fail, write_text
from transport.exit_codes import ExitCode


def test_a_command_ends_with_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail(ExitCode.USAGE, "name a run")
    assert ended.value.exit_code == ExitCode.USAGE
    assert capsys.readouterr() == ("", "fedfstq: name a run\n")


def test_a_file_is_written_as_it_is_with_the_folders_above_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    write_text(path, "a\r\nb\n")
    assert path.read_bytes() == b"a\r\nb\n"


def test_a_file_that_cannot_be_written_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        write_text(tmp_path, "")
    assert ended.value.exit_code == ExitCode.CONFIG
    assert capsys.readouterr().err == f"fedfstq: {tmp_path} cannot be written: Is a directory\n"
