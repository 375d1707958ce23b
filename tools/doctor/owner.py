"""Which user a service runs as, and what that user may read."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.doctor.context import Context

SERVICE_USER = "fedfstq"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder as a user's rights are decided by it."""

    path: str
    uid: int
    gid: int
    mode: int  # with the kind of the file


def has_unit(context: Context) -> bool:
    """Tell whether the service's unit is installed."""
    template = context.unit if "@" not in context.unit else context.unit.split("@")[0] + "@.service"
    folders = ("etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system")
    return any((context.root / folder / template).exists() for folder in folders)


def service_user(context: Context) -> str | None:
    """Return the user that the service's unit names; None where no unit is installed."""
    return SERVICE_USER if has_unit(context) and _exists(SERVICE_USER) else None


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def obstacle(entries: Sequence[Entry], *, uid: int, gids: frozenset[int]) -> Entry | None:
    """Return the first of a path's entries, from the root on, that keeps a user from reading it.

    Folders on the way must be passed, the last entry read (and passed, where it is a folder).
    """
    if uid == 0:
        return None
    for number, entry in enumerate(entries, start=1):
        is_last, is_folder = number == len(entries), stat.S_ISDIR(entry.mode)
        need = (0o4 if is_last else 0) | (0o1 if is_folder else 0)
        shift = 6 if entry.uid == uid else 3 if entry.gid in gids else 0
        if (entry.mode >> shift) & need != need:
            return entry
    return None


def entries_of(path: Path) -> list[Entry]:
    """Return a path's entries from the root to itself, links followed.

    Raises:
        OSError: One of them is missing or cannot be looked at.
    """
    resolved = path.resolve(strict=True)
    found = []
    for one in (*reversed(resolved.parents), resolved):
        status = one.stat()
        found.append(Entry(str(one), status.st_uid, status.st_gid, status.st_mode))
    return found


def rights_of(user: str) -> tuple[int, frozenset[int]]:
    """Return a user's number and those of all groups that it is in."""
    account = pwd.getpwnam(user)
    groups = {group.gr_gid for group in grp.getgrall() if user in group.gr_mem}
    return account.pw_uid, frozenset(groups | {account.pw_gid})


def reader(user: str | None) -> Callable[[Path], str]:
    """Return a function that says what keeps a user from reading a path; "" for nothing.

    Args:
        user: None for the user that runs this process.
    """
    if user is None:
        return lambda path: "" if os.access(path, os.R_OK) else f"{path} cannot be read"
    uid, gids = rights_of(user)

    def why(path: Path) -> str:
        try:
            entry = obstacle(entries_of(path), uid=uid, gids=gids)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
        return f"{entry.path} is closed to user {user}" if entry else ""

    return why
