from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from agent.profile import (
    agent_version,
    board_name,
    device_profile,
    jetpack_of,
    parse_release,
)
from agent.tasks import TrainerHello


def test_a_jetson_is_named_by_its_device_tree(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\n")
    hello = TrainerHello(1, "2.4", "12.6", 90, 10, "ab" * 32)
    profile = device_profile(hello, root=tmp_path)
    assert profile.board == "NVIDIA Jetson Orin Nano"
    assert profile.ram_mb == 7812
    assert (profile.torch, profile.cuda, profile.examples) == ("2.4", "12.6", 90)


def test_how_the_trainer_holds_the_base_model_is_told(tmp_path: Path) -> None:
    hello = TrainerHello(1, "2.4", "", 90, 10, "ab" * 32, "nf4", "bitsandbytes works", 900, 2, 3)
    profile = device_profile(hello, root=tmp_path)
    assert (profile.base_precision, profile.base_mb) == ("nf4", 900)
    assert profile.base_precision_reason == "bitsandbytes works"
    assert (profile.micro_batch, profile.out_of_memory) == (2, 3)


@pytest.mark.parametrize("content", [None, b"\0"])
def test_a_board_without_a_name_is_its_machine(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "proc/device-tree").mkdir(parents=True)
        (tmp_path / "proc/device-tree/model").write_bytes(content)
    assert board_name(tmp_path) == platform.machine()


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert agent_version()
    monkeypatch.setattr(metadata, "version", missing)
    assert agent_version() == "unknown"


@pytest.mark.parametrize(
    ("board", "told"),
    [
        ("orin_nano", ("6", "36.4.3", "MAXN_SUPER")),
        ("orin_nx", ("5", "35.4.1", "MAXN")),
        ("agx_orin", ("6", "36.3.0", "MODE_50W")),
        ("thor", ("7", "38.2.0", "120W")),
        ("pc", ("", "", "")),
    ],
)
def test_a_jetson_tells_its_release_and_its_mode(
    board: str, told: tuple[str, str, str], make_board: Callable[[str], Path]
) -> None:
    hello = TrainerHello(1, "2.4", "12.6", 90, 10, "ab" * 32)
    profile = device_profile(hello, root=make_board(board))
    assert (profile.jetpack, profile.l4t, profile.power_mode) == told


@pytest.mark.parametrize(
    "text", ["", "# R36\n", "\ufffd\0", "# R9999 (release), REVISION: 1.0", "R36 (release)"]
)
def test_a_release_that_is_none_is_not_told(text: str) -> None:
    assert parse_release(text) == ""
    assert jetpack_of("") == jetpack_of("99.1") == ""
