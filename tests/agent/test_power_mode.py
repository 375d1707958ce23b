from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.power_mode import PowerMode, parse_answer, parse_status, read_mode
from agent.sysfs import Files

CONFIG = (
    "< POWER_MODEL ID=0 NAME=15W >\n<POWER_MODEL ID=02 NAME=MAXN_SUPER>\n< PM_CONFIG DEFAULT=1 >"
)


@pytest.mark.parametrize(
    ("board", "mode"),
    [
        ("orin_nano", "MAXN_SUPER"),
        ("orin_nx", "MAXN"),
        ("agx_orin", "MODE_50W"),
        ("thor", "120W"),
        ("pc", ""),
    ],
)
def test_each_board_tells_its_mode_by_name(
    board: str, mode: str, make_board: Callable[[str], Path]
) -> None:
    files = Files(make_board(board))
    assert read_mode(files) == mode
    assert PowerMode(files).read(0.0) == (mode or None)


@pytest.mark.parametrize(
    ("status", "mode"),
    [
        ("pmode:0000", "15W"),
        ("pmode:0002 fmode:quiet\n", "MAXN_SUPER"),
        ("pmode:0007\n", "mode 7"),
        ("pmode:99999999999", ""),
        ("\ufffd\0pmode", ""),
        ("", ""),
    ],
)
def test_the_status_file_names_a_mode_of_the_configuration(status: str, mode: str) -> None:
    assert parse_status(status, CONFIG) == mode


def test_a_configuration_that_is_none_leaves_the_number() -> None:
    assert parse_status("pmode:0003", "\0\ufffd" * 99) == "mode 3"


def test_the_program_s_answer_has_the_name() -> None:
    assert parse_answer("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n") == "MODE_30W"
    assert parse_answer("Error: not root\n") == ""


def program(root: Path, text: str) -> Path:
    file = root / "usr/sbin/nvpmodel"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def test_the_program_is_asked_where_the_file_does_not_tell(tmp_path: Path) -> None:
    program(tmp_path, '#!/bin/sh\necho "$@" >> "$0.calls"\necho "NV Power Mode: 25W"\necho 1\n')
    mode = PowerMode(Files(tmp_path))
    give_up_at = time.monotonic() + 30.0
    while mode.read(0.0) is None:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert mode.read(599.0) == "25W"
    assert (tmp_path / "usr/sbin/nvpmodel.calls").read_text() == "-q\n"
    mode.close()


def test_a_program_that_cannot_be_started_is_no_mode(tmp_path: Path) -> None:
    program(tmp_path, "").chmod(0o644)
    mode = PowerMode(Files(tmp_path))
    assert mode.read(0.0) is None
    assert mode.read(700.0) is None
    mode.close()
