"""The disk under the state folder: free, writable, durable, and the service's own."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, fail, ok, skip, warn
from tools.doctor.owner import service_user

_MIB: Final = 1 << 20
# [bytes] An adapter of 100 MB is kept a few times, an update beside it.
_AGENT_GOOD: Final = 2048 * _MIB
_LEAST: Final = 256 * _MIB
# [s] An SD card needs tenths of a second; more makes every segment wait.
_SLOW_SYNC_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder's owner and mode."""

    owner: str
    mode: int


def examine_disk(context: Context) -> Iterator[Finding]:
    """Yield `disk`, `state-dir` and `fsync`."""
    state_dir = context.service.state_dir
    place = _nearest(state_dir)
    filesystem = os.statvfs(place)
    free = filesystem.f_bavail * filesystem.f_frsize
    if context.role is Role.AGGREGATOR:
        journal = _size(state_dir / "journal.sqlite3")
        most = context.aggregator.journal_max_bytes
        yield judge_aggregator_disk(free, journal=journal, journal_max=most, place=place)
    else:
        yield judge_agent_disk(free, place=place)
    user = service_user(context)
    if place != state_dir:
        yield judge_absent(state_dir, place, can_make=os.access(place, os.W_OK), unit=context.unit)
        yield skip("fsync", "the state folder is not there yet")
        return
    yield judge_state_dir(_folder(state_dir), state_dir, user=user)
    try:
        seconds = _sync(state_dir)
    except OSError as error:
        why = error.strerror or str(error)
        yield fail(
            "fsync", f"{state_dir} cannot be written: {why}", f"mount | grep -w {place}; df {place}"
        )
        return
    yield judge_sync(seconds, state_dir)


def _nearest(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that is there."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _folder(path: Path) -> Folder:
    status = path.stat()
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    return Folder(owner, stat.S_IMODE(status.st_mode))


def _sync(folder: Path) -> float:
    """Return the seconds that one durable write takes."""
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - began


def judge_agent_disk(free: int, *, place: Path) -> Finding:
    """Tell whether adapters and updates of a device have room."""
    text = f"{free / _MIB:,.0f} MiB free under {place}"
    mend = f"du -xh --max-depth=2 {place} | sort -h | tail"
    if free < _LEAST:
        return fail("disk", text, mend)
    if free < _AGENT_GOOD:
        return warn("disk", f"{text}: little for large adapters", mend)
    return ok("disk", text)


def judge_aggregator_disk(free: int, *, journal: int, journal_max: int, place: Path) -> Finding:
    """Tell whether the journal may grow as far as it is configured to."""
    text = f"{free / _MIB:,.0f} MiB free under {place}"
    if free < _LEAST:
        return fail("disk", text, f"du -xh --max-depth=2 {place} | sort -h | tail")
    if free + journal < journal_max:
        return warn(
            "disk",
            f"{text}, and the journal may take {journal_max / _MIB:,.0f} MiB",
            f"set journal_max_bytes: {(free + journal) * 3 // 4 // _MIB * _MIB}, or a larger disk",
        )
    return ok("disk", f"{text}, enough for a journal of {journal_max / _MIB:,.0f} MiB")


def judge_absent(state_dir: Path, place: Path, *, can_make: bool, unit: str) -> Finding:
    """Tell whether a state folder that is not there yet will be."""
    if can_make:
        return ok("state-dir", f"{state_dir} is not there yet; the first start makes it")
    return warn(
        "state-dir",
        f"{state_dir} is not there, and this user cannot make it in {place}",
        f"systemctl start {unit} makes it, or install -d -m 700 -o fedfstq -g fedfstq {state_dir}",
    )


def judge_state_dir(folder: Folder, path: Path, *, user: str | None) -> Finding:
    """Tell whether the state folder is the service's own, and nobody else's."""
    text = f"{path}, {folder.owner}, mode {folder.mode:04o}"
    if user is not None and folder.owner != user:
        return fail(
            "state-dir",
            f"{text}; the service runs as {user} and cannot write there",
            f"chown -R {user}:{user} {path}",
        )
    if folder.mode & 0o022:
        return fail("state-dir", f"{text}: others may change what is in it", f"chmod 700 {path}")
    if folder.mode & 0o005:
        return warn("state-dir", f"{text}: every user may read it", f"chmod 700 {path}")
    return ok("state-dir", text)


def judge_sync(seconds: float, path: Path) -> Finding:
    """Tell whether a durable write takes a bearable time."""
    text = f"a durable write takes {seconds * 1e3:.0f} ms"
    if seconds > _SLOW_SYNC_S:
        return warn("fsync", text, f"move state_dir {path} to a faster disk than this one")
    return ok("fsync", text)
