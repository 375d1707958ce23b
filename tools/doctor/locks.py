"""Whether a service runs: the lock of its state folder tells, however it was started."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path


class Holder(Enum):
    """Who has a lock."""

    NOBODY = "nobody"
    HELD = "a service"
    UNKNOWN = "unknown"  # the file may not be opened by this user


@contextmanager
def held(path: Path) -> Iterator[Holder]:
    """Yield who has a lock; where nobody has it, hold it meanwhile.

    A service that starts meanwhile ends with "try again", and systemd starts it again.
    The file is never made: where there is none, nothing has run.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield Holder.NOBODY
        return
    except OSError:
        yield Holder.UNKNOWN
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = Holder.HELD
        else:
            holder = Holder.NOBODY
        yield holder
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> Holder:
    """Return who has a lock."""
    with held(path) as holder:
        return holder
