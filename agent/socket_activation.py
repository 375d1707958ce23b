"""The trainer's socket where systemd listens on it: taken over, or answered in the trainer's place.

systemd starts the trainer when somebody connects, and hands it the listening socket (sd_listen_fds
(3)). Whoever connected waits in that socket's queue; one that is still in it when the trainer ends
would make systemd start it again at once, so a trainer that cannot work tells everyone who waits.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from agent.tasks import TrainerRefusal, encode_line

_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
# [s] One who reads nothing does not keep the others waiting.
_SEND_TIMEOUT_S: Final = 1.0


def inherited_listener(environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """Return the listening socket that systemd has handed over, None where there is none."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS") != "1":
        return None
    os.set_inheritable(_FIRST_DESCRIPTOR, False)  # noqa: FBT003 - the function takes it so
    listener = socket.socket(fileno=_FIRST_DESCRIPTOR)
    listener.settimeout(None)
    return listener


def turn_away(listener: socket.socket, refusal: TrainerRefusal) -> None:
    """Tell everyone who waits in the queue, and leave it empty."""
    line = encode_line(refusal)
    listener.settimeout(0.0)
    with contextlib.suppress(BlockingIOError):
        while True:
            client, _ = listener.accept()
            client.settimeout(_SEND_TIMEOUT_S)
            with client, contextlib.suppress(OSError):
                client.sendall(line)
