from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sysfs import MAX_FILE_BYTES, Files, parse_integer


def test_files_are_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/b").write_bytes(b" VDD_IN\0\n")
    (tmp_path / "sys/a").write_text("-42\n")
    files = Files(tmp_path)
    assert files.word("sys/b") == "VDD_IN"
    assert files.integer("sys/a") == -42
    assert files.find("sys/*") == [tmp_path / "sys/a", tmp_path / "sys/b"]
    assert files.integer(files.find("sys/a")[0]) == -42


def test_a_root_that_is_relative_is_a_root_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "board").mkdir()
    (tmp_path / "board/a").write_text("7")
    monkeypatch.chdir(tmp_path)
    files = Files(Path("board"))
    assert [files.integer(file) for file in files.find("*")] == [7]


def test_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "loop", "missing", "nul\0byte", "x" * 5000):
        assert Files(tmp_path).text(name) == ""
        assert Files(tmp_path).integer(name) is None


def test_a_folder_that_may_not_be_listed_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "glob", forbidden)
    assert Files(tmp_path).find("*") == []


def test_no_file_is_read_for_ever() -> None:
    assert len(Files(Path("/")).text("dev/zero")) == MAX_FILE_BYTES


@pytest.mark.parametrize("text", ["", "-", "1.5", "1_000", "0x10", "²", "\uff11", "1 2", "9" * 19])
def test_what_is_no_number_is_none(text: str) -> None:
    assert parse_integer(text) is None


@settings(deadline=None, max_examples=200)
@given(number=st.integers(-(10**18) + 1, 10**18 - 1), blank=st.sampled_from(["", " ", "\n", "\0"]))
def test_a_number_is_read_as_it_was_written(number: int, blank: str) -> None:
    assert parse_integer(f"{blank}{number}{blank}") == number
