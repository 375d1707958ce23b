"""Whether a service runs is told by its lock, which is not disturbed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tools.doctor.locks import Holder, held, holder_of


def test_a_lock_that_is_not_there_is_nobodys_and_stays_away(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "lock") is Holder.NOBODY
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_is_held_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert holder_of(path) is Holder.HELD
    os.close(descriptor)
    assert holder_of(path) is Holder.NOBODY


def test_a_free_lock_is_held_meanwhile_and_freed_after(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with held(path) as holder:
        assert holder is Holder.NOBODY
        assert holder_of(path) is Holder.HELD
    assert holder_of(path) is Holder.NOBODY


def test_what_cannot_be_opened_is_unknown(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is Holder.UNKNOWN
