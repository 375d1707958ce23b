"""Single keys from a terminal, while something else is drawn on it."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator


@contextlib.contextmanager
def keys_at_once() -> Iterator[None]:
    """Give keys to the program as they are pressed; nothing happens where stdin is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def wait_for_key(timeout_s: float) -> str:
    """Return the keys that are pressed within a time, "" where none is."""
    if not sys.stdin.isatty():
        select.select([], [], [], timeout_s)
        return ""
    descriptor = sys.stdin.fileno()
    ready, _, _ = select.select([descriptor], [], [], timeout_s)
    return os.read(descriptor, 32).decode(errors="replace") if ready else ""
