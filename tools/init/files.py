"""Files that are there whole or not at all, and that nobody else can read."""

from __future__ import annotations

import fcntl
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600

# What may be read by everybody once it is unpacked; keys may not.
_PUBLIC_MODE = 0o644


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, for its owner alone."""
    # Path.mkdir gives the mode to the last folder alone.
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)


def write(path: Path, content: bytes) -> bool:
    """Write a file for its owner alone, through to the disk; return whether it was another before.

    A crash leaves the old file or the new one.
    """
    if path.is_file() and path.read_bytes() == content:
        return False
    make_folder(path.parent)
    # mkstemp's files are 0600.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return True


def sync_folder(path: Path) -> None:
    """Bring what was renamed in a folder through to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other `init` out of a folder; wait until one that is at work has ended."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def bundle(files: Mapping[str, bytes], *, made: datetime) -> bytes:
    """Return a tar of these files at its top; the same files give the same bytes.

    Args:
        files: Name → content; those that end in .key are for their owner alone.
        made: The files' date.
    """
    target = BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mtime = int(made.timestamp())
            entry.mode = FILE_MODE if name.endswith(".key") else _PUBLIC_MODE
            entry.uname = entry.gname = "root"
            tar.addfile(entry, BytesIO(content))
    return target.getvalue()
