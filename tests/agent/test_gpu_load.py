from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.gpu_load import read_gpu_pct
from agent.sysfs import Files


@pytest.mark.parametrize(
    ("board", "load"),
    [("orin_nano", 97.4), ("orin_nx", 0.0), ("agx_orin", 14.0), ("thor", None), ("pc", 7.0)],
)
def test_each_board_tells_its_gpu_s_load_where_its_kernel_does(
    board: str, load: float | None, make_board: Callable[[str], Path]
) -> None:
    assert read_gpu_pct(Files(make_board(board))) == load


@pytest.mark.parametrize("content", [b"", b"-1\n", b"1001\n", b"\x80\xff", b"12.5\n"])
def test_what_is_no_load_is_none(content: bytes, make_board: Callable[[str], Path]) -> None:
    root = make_board("orin_nano")
    (root / "sys/class/devfreq/17000000.gpu/device/load").write_bytes(content)
    assert read_gpu_pct(Files(root)) is None


def test_a_pc_s_load_is_a_percentage(make_board: Callable[[str], Path]) -> None:
    root = make_board("pc")
    (root / "sys/class/drm/card0/device/gpu_busy_percent").write_text("101\n")
    assert read_gpu_pct(Files(root)) is None
