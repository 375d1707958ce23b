"""A slow uplink for one device of the demo: what it sends to the broker goes through here.

Shell: a listening socket and two threads per connection. What waits, waits in the device, as before
a slow radio; what comes down is not held up.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from typing_extensions import Self

# [bytes] What is taken at once: the less, the smoother, and the sooner a device feels the link.
_SIP_BYTES = 256
_DOWN_BYTES = 65_536
# [bytes] Of the device's end; the kernel doubles it.
_WAITING_BYTES = 4096
_CONNECT_S = 5.0
_BITS = 8


class SlowLink:
    """A port of this machine that leads to the broker, slowly on the way up; a context.

    Args:
        host: The broker's.
        port: The broker's.
        kbit_s: What goes up.

    Attributes:
        port: Where the device connects, on 127.0.0.1.
    """

    def __init__(self, host: str, port: int, *, kbit_s: float) -> None:
        self._broker = (host, port)
        self._bytes_per_s = 1000 * kbit_s / _BITS
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: set[socket.socket] = set()
        # Guards the ends, and whether there may be more of them.
        self._changed = threading.Lock()
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, name="slow-link", daemon=True)

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Serve nobody any more."""
        with self._changed:
            self._is_over = True
            for end in (self._listener, *self._ends):
                _shut(end)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(device,), daemon=True).start()

    def _join(self, device: socket.socket) -> None:
        try:
            broker = socket.create_connection(self._broker, timeout=_CONNECT_S)
        except OSError:
            device.close()
            return
        broker.settimeout(None)
        device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WAITING_BYTES)
        ends = {device, broker}
        with self._changed:
            self._ends |= ends
            if self._is_over:
                _shut(device)
                _shut(broker)
        down = threading.Thread(target=self._carry_down, args=(broker, device), daemon=True)
        down.start()
        self._carry_up(device, broker)
        down.join()
        with self._changed:
            self._ends -= ends
        for end in ends:
            end.close()

    def _carry_up(self, device: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := device.recv(_SIP_BYTES):
                time.sleep(len(part) / self._bytes_per_s)
                broker.sendall(part)
        _shut(device)
        _shut(broker)

    def _carry_down(self, broker: socket.socket, device: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := broker.recv(_DOWN_BYTES):
                device.sendall(part)
        _shut(device)
        _shut(broker)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
