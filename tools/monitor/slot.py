"""A number that no other program of this kind on this machine has: the kernel gives it back."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Final

MAX_SLOTS: Final = 64


class Slot:
    """The first free number from 1 on, held until `release` or the process's end.

    A client id may not be random: the broker keeps the session of one that never comes back, with
    everything that it subscribed to, for two weeks.

    Args:
        name: The kind of program, as `viewer-watch`.
    """

    def __init__(self, name: str) -> None:
        self._held: socket.socket | None = None
        self.number = 1
        if sys.platform != "linux":
            return
        for number in range(1, MAX_SLOTS + 1):
            # A name in Linux's abstract namespace: no file, and gone with the process.
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                holder.bind(f"\0fedfstq-{name}-{number}")
            except OSError:
                holder.close()
                continue
            self._held, self.number = holder, number
            return

    def release(self) -> None:
        """Give the number back."""
        if self._held is not None:
            with contextlib.suppress(OSError):
                self._held.close()
            self._held = None
