"""The router's archive: what a kernel unpacks is what was put in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.netem import initramfs, programs
from tools.netem.errors import Unavailable
from tools.netem.initramfs import INIT, dependencies, newc


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read an archive as its format says."""
    entries, place = {}, 0
    while True:
        assert archive[place : place + 6] == b"070701"
        numbers = [int(archive[at : at + 8], 16) for at in range(place + 6, place + 110, 8)]
        mode, size, name_bytes = numbers[1], numbers[6], numbers[11]
        name = archive[place + 110 : place + 109 + name_bytes].decode()
        place = (place + 110 + name_bytes + 3) // 4 * 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, archive[place : place + size])
        place = (place + size + 3) // 4 * 4


@pytest.mark.parametrize("body", [b"", b"1", b"12", b"123", b"1234"])
def test_an_archive_gives_back_what_was_put_in(body: bytes) -> None:
    entries = [("bin", 0o040755, b""), ("bin/x", 0o100755, body), ("y", 0o100644, body * 7)]
    assert unpacked(newc(entries)) == {path: (mode, data) for path, mode, data in entries}


def test_a_module_tells_what_it_needs() -> None:
    assert dependencies(b"\x7fELF\0depends=virtio_ring,virtio\0name=x\0") == (
        "virtio_ring",
        "virtio",
    )
    assert dependencies(b"\0depends=\0") == ()
    assert dependencies(b"no such thing") == ()


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    folder = tmp_path / "6.1/kernel/net"
    folder.mkdir(parents=True)
    (folder / "virtio_net.ko").write_bytes(b"\0depends=net-failover,absent\0")
    (folder / "net_failover.ko").write_bytes(b"\0depends=failover\0")
    (folder / "failover.ko").write_bytes(b"\0depends=\0")
    (folder / "unwanted.ko").write_bytes(b"")
    entries = {entry.path: entry.body for entry in initramfs._modules(tmp_path)}
    order = entries["modules/order"].decode().split()
    assert order == ["failover", "net-failover", "virtio_net"]
    assert "modules/unwanted.ko" not in entries


def test_folders_come_before_what_is_in_them() -> None:
    entry = initramfs._Entry("usr/lib/x.so", 0o100755, b"x")
    paths = [one.path for one in initramfs._with_folders([entry])]
    assert paths.index("usr") < paths.index("usr/lib") < paths.index("usr/lib/x.so")
    assert {"proc", "sys", "dev"} <= set(paths)


def test_the_routers_first_program_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n"], input=INIT, text=True, check=True)


def test_a_kernel_that_apt_does_not_know_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initramfs, "output_of", lambda *command, **_: "x86_64" * ("-m" in command))
    monkeypatch.setattr(initramfs, "need", lambda *_: "/usr/bin/apt-cache")
    with pytest.raises(Unavailable, match="apt-get update"):
        initramfs._kernel(tmp_path)


def test_a_machine_of_another_kind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "output_of", lambda *_, **__: "aarch64")
    with pytest.raises(Unavailable, match="x86_64 only"):
        initramfs._kernel(tmp_path)


def test_a_program_that_is_missing_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="apt-get install qemu-system-x86"):
        programs.need("no-such-program", "qemu-system-x86")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert initramfs.cache_folder() == Path("/elsewhere/fedfstq/netem")
