"""The board: Jetsons are told from others, and too old a JetPack is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.doctor.board import is_jetson, parse_release
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State

RELEASE = "# R{} (release), REVISION: {}, GCID: 1, BOARD: generic, EABI: aarch64\n"


def _board(root: Path, *, model: str, release: str = "") -> Context:
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(model.encode() + b"\0")
    if release:
        (root / "etc").mkdir()
        (root / "etc/nv_tegra_release").write_text(release)
    return Context(root=root)


@pytest.mark.parametrize(
    ("release", "state", "said"),
    [
        (RELEASE.format(36, "4.3"), State.OK, "L4T 36.4.3 (JetPack 6)"),
        (RELEASE.format(38, "2.0"), State.OK, "(JetPack 7)"),
        (RELEASE.format(99, "1.0"), State.OK, "newer than this version"),
        (RELEASE.format(35, "4.1"), State.FAIL, "(JetPack 5)"),
        ("", State.WARN, "does not tell the L4T release"),
    ],
)
def test_a_jetson_is_judged_by_its_release(
    tmp_path: Path,
    examine: Callable[..., dict[str, Finding]],
    release: str,
    state: State,
    said: str,
) -> None:
    context = _board(tmp_path, model="NVIDIA Jetson Orin Nano", release=release)
    found = examine("board", context)["board"]
    assert found.state is state
    assert said in found.text
    assert is_jetson(context)


def test_a_pc_is_no_jetson(tmp_path: Path, examine: Callable[..., dict[str, Finding]]) -> None:
    context = _board(tmp_path, model="A plain PC")
    assert "no Jetson" in examine("board", context)["board"].text
    assert not is_jetson(context)


def test_a_board_is_known_by_its_device_tree(tmp_path: Path) -> None:
    context = _board(tmp_path, model="a carrier of somebody else's")
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"x,y\0nvidia,tegra234\0")
    assert is_jetson(context)


def test_another_text_is_no_release() -> None:
    assert parse_release("Debian") is None
