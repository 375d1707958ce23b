"""Files are whole, private and reproducible."""

from __future__ import annotations

import os
import tarfile
import threading
from datetime import datetime
from io import BytesIO
from pathlib import Path

import pytest

from tools.init.files import bundle, locked, write


def test_a_written_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert write(tmp_path / "a" / "b" / "key", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b" / "key").stat().st_mode & 0o777 == 0o600
    for folder in ("a", "a/b"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write(path, b"one")
    first = path.stat().st_ino
    assert not write(path, b"one")
    assert path.stat().st_ino == first
    assert write(path, b"two")
    assert path.read_bytes() == b"two"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write(path, b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_files_make_the_same_bundle(now: datetime) -> None:
    files = {"a.key": b"1", "b.crt": b"22"}
    assert bundle(files, made=now) == bundle(dict(reversed(files.items())), made=now)
    with tarfile.open(fileobj=BytesIO(bundle(files, made=now))) as tar:
        assert {entry.name: (entry.mode, entry.size) for entry in tar} == {
            "a.key": (0o600, 1),
            "b.crt": (0o644, 2),
        }


def test_a_second_holder_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
