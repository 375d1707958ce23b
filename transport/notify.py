"""What systemd is told of a service, and when: the protocol of sd_notify(3) and of its watchdog.

    READY=1      the configuration is read, the state is open, the link has begun: a broker that is
                 down holds no service back
    STATUS=...   what it does, in words, for `systemctl status`
    WATCHDOG=1   the loop has come around, and so has the link's thread (`Heartbeat`)
    STOPPING=1   it says goodbye

Without systemd (no `$NOTIFY_SOCKET`) nothing is sent, and nothing here ever raises: what a service
does is worth more than what is said of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

_log = logging.getLogger(__name__)

# Pings for each interval after which systemd kills: one that comes late, or is lost, is no reason.
_PINGS: Final = 4
# [characters] Of a status; systemd takes more, but a line of a terminal does not.
_MAX_STATUS: Final = 200


class Notifier:
    """Speaks to the systemd that started this process, if any."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read what systemd has put into the environment; nothing is sent yet."""
        address = environ.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace begins with NUL, which no environment can hold.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._told = ""
        self.watchdog_s = _watchdog_s(environ) if self.is_supervised else None

    @property
    def is_supervised(self) -> bool:
        """Whether systemd started this process and wants to be told: it then ends it, too."""
        return self._address.startswith(("/", "\0"))

    def ready(self) -> None:
        """Say that the service does its work."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Say that the service is ending."""
        self._send("STOPPING=1")

    def ping(self) -> None:
        """Say that the service is not hanging."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Say what the service does; nothing is sent where that was said last."""
        text = " ".join(text.split())[:_MAX_STATUS]
        if text != self._told:
            self._told = text
            self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if not self.is_supervised:
            return
        # A full queue loses a message; a service that waited for it would hang with systemd.
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)


class Heartbeat:
    """Pings the watchdog while two things turn: the loop that calls `beat`, and the link's thread.

    A thread that has died, or hangs in a callback or a system call, is as bad as a dead process,
    but nothing else would notice: the broker gets its keep-alives no more, and no exit code tells.
    """

    def __init__(self, notifier: Notifier, *, is_turning: Callable[[float], bool]) -> None:
        """Prepare.

        Args:
            notifier: Whom to tell.
            is_turning: Says whether the link's thread is at work at this moment (monotonic s).
        """
        self._notifier = notifier
        self._is_turning = is_turning
        self._is_well = True
        self._next_at = 0.0
        watchdog_s = notifier.watchdog_s
        # [s] How often `beat` must be called, None where nobody waits for it.
        self.interval_s = None if watchdog_s is None else watchdog_s / _PINGS

    def beat(self, now: float) -> None:
        """Say that the loop has come around; may be called as often as it does."""
        if self.interval_s is None or now < self._next_at:
            return
        self._next_at = now + self.interval_s
        is_well, self._is_well = self._is_well, self._is_turning(now)
        if self._is_well:
            self._notifier.ping()
        elif is_well:
            _log.error("the link's thread hangs: unless it goes on, the watchdog ends this process")


class Outage:
    """For how long the broker has been away."""

    def __init__(self, now: float) -> None:
        """Begin without a connection."""
        self._since: float | None = now

    def connected(self) -> None:
        """The link is up."""
        self._since = None

    def disconnected(self, now: float) -> None:
        """The link is down."""
        self._since = now

    def words(self, now: float) -> str:
        """Return "no broker for 3 min", "" where there is one."""
        return "" if self._since is None else f"no broker for {duration(now - self._since)}"


def duration(seconds: float) -> str:
    """Return a duration as people say it: "40 s", "3 min", "5 h"."""
    if seconds < 60.0:  # noqa: PLR2004 - of a minute
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"  # noqa: PLR2004 - two hours


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return after how many seconds without a ping systemd kills this process, None for never."""
    meant_for = environ.get("WATCHDOG_PID", "")
    if meant_for and meant_for != str(os.getpid()):
        return None  # a parent's
    interval = environ.get("WATCHDOG_USEC", "")
    return int(interval) / 1e6 if interval.isdecimal() and int(interval) else None
