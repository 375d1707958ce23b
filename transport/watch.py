"""The shell of `transport.silence`: reads one connection's socket, a few times in a second."""

from __future__ import annotations

import math
import socket
from typing import Final

from transport import limits, sockets
from transport.silence import Silence, Verdict

# [s] Between two looks; what is decided is a matter of seconds.
_LOOK_S: Final = 0.25


class Watch:
    """Watches one connection; `look` belongs to its thread, `note` to any."""

    def __init__(self) -> None:
        self._silence = Silence()
        self._looked_at = -math.inf
        self._transfer_at = -math.inf

    def note(self, payload_bytes: int, *, now: float) -> None:
        """Take note of a publication or a delivery: segments are somebody's transfer."""
        if payload_bytes > limits.MAX_CONTROL_BYTES:
            self._transfer_at = now

    def look(self, sock: socket.socket, *, is_queue_empty: bool, now: float) -> Verdict:
        """Return what to do with the connection; KEEP where the system does not tell."""
        if now - self._looked_at < _LOOK_S:
            return Verdict.KEEP
        self._looked_at = now
        tcp = sockets.look(sock, is_queue_empty=is_queue_empty)
        if tcp is None:
            return Verdict.KEEP
        return self._silence.look(tcp, transfer_ago_s=now - self._transfer_at, now=now)
