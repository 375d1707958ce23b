from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import pytest

from agent.profile import agent_version, board_name, device_profile
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
