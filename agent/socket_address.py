"""A Unix socket's name for the kernel, however deep its folder is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# [bytes] Linux keeps a Unix socket's path in 108 bytes, its final NUL included.
MAX_PATH_BYTES = 107


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield a name to bind or connect a socket at this path with, short enough for the kernel.

    Raises:
        OSError: The path is too long to be used as it is, and its folder cannot be opened.
    """
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
