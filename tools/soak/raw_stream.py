"""A plain TCP stream from device to server: what a link gives to whoever just writes bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Final

from tools.netem.errors import LabBroken
from tools.netem.lab import DEVICE, SERVER, Lab

_PORT: Final = 5001
_CHUNK_BYTES: Final = 65_536
# [s] A stream over a link that lost everything would never end.
_LONGEST_S: Final = 1800.0


def stream(lab: Lab, *, length: int) -> tuple[float, str]:
    """Return the seconds that a stream of bytes takes, connection included, and its algorithm.

    Raises:
        LabBroken: Less arrived than was sent.
    """
    arrived: list[tuple[int, float]] = []
    with lab.inside(SERVER):
        listener = socket.create_server((lab.address(SERVER), _PORT))
    receiver = threading.Thread(target=_receive, args=(listener, arrived), daemon=True)
    receiver.start()
    with lab.inside(DEVICE):
        sender = socket.socket()
    with listener, sender:
        sender.settimeout(_LONGEST_S)
        # As `transport.sockets` does for our own link.
        with contextlib.suppress(OSError):
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        name = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        began_at = time.monotonic()
        sender.connect((lab.address(SERVER), _PORT))
        left = length
        while left:
            left -= sender.send(bytes(min(left, _CHUNK_BYTES)))
        sender.shutdown(socket.SHUT_WR)
        receiver.join(_LONGEST_S)
    if not arrived or arrived[0][0] != length:
        raise LabBroken(f"of {length} bytes {arrived[0][0] if arrived else 'none'} arrived")
    return arrived[0][1] - began_at, name.rstrip(b"\0").decode()


def _receive(listener: socket.socket, arrived: list[tuple[int, float]]) -> None:
    listener.settimeout(_LONGEST_S)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_LONGEST_S)
        total, last_at = 0, time.monotonic()
        while chunk := connection.recv(_CHUNK_BYTES):
            total += len(chunk)
            last_at = time.monotonic()
    arrived.append((total, last_at))
