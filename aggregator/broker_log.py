"""Whom the broker refused at the door, read from what it publishes of its own log. Pure.

A login that fails never gets as far as a topic, so only the broker knows of it. Mosquitto publishes
its log under `$SYS/broker/log/`, where `log_dest topic` says so: `N` has one line for each
connection, and `E` one for each TLS handshake that failed, which does not say whose it was. Some
failures are told on `N` alone, with the address.
"""

from __future__ import annotations

import re

ROOT = "$SYS/broker/log/"
# Lines of notice name the address that a connection comes from, those of error why it was refused.
FILTERS = (f"{ROOT}N", f"{ROOT}E")

# Connections that have not logged in yet; a broker that is flooded has more, and names none.
MAX_PENDING = 64

_BEGUN = re.compile(r"New connection from (\S+):(\d+) on port \d+")
_LOGGED_IN = re.compile(r"New client connected from (\S+):(\d+) as ")
_GONE = re.compile(r"Client (\S+) (?:\[\S+\] )?disconnected")
_REFUSED = re.compile(r"OpenSSL Error\[\d+\]: (?:error:[0-9A-Fa-f]+:)?(?:[^:]*:){0,2}\s*(.+)")
_FAILED = re.compile(
    r"Client connection from (\S+) failed: (?:error:[0-9A-Fa-f]+:)?(?:[^:]*:){0,2}\s*(.+)"
)
_NOT_AUTHORISED = re.compile(r"Client (\S+) .*disconnected, not authori[sz]ed")

_UNKNOWN = "<unknown>"
# What OpenSSL says of the commonest mistakes, and what to look at.
_MEANS = {
    "certificate verify failed": "its certificate is of another authority, expired or revoked",
    "peer did not return a certificate": "it has no certificate",
    "wrong version number": "it does not speak TLS",
    "no suitable signature algorithm": "its key is of a kind that this broker does not take",
}


class BrokerLog:
    """Follows the broker's log, and says who was refused."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], None] = {}  # (address, port), in the order they came

    def receive(self, line: bytes) -> str | None:
        """Take a line of the log; return what operators should know of it, None where nothing."""
        text = line[:1000].decode(errors="replace")
        if begun := _BEGUN.search(text):
            if len(self._pending) >= MAX_PENDING:
                del self._pending[next(iter(self._pending))]
            self._pending[begun[1], begun[2]] = None
        elif logged_in := _LOGGED_IN.search(text):
            self._pending.pop((logged_in[1], logged_in[2]), None)
        elif refused := _NOT_AUTHORISED.search(text):
            return f"the broker refused the login of {refused[1][:64]}: not authorised"
        elif failed := _FAILED.search(text):
            self._forget_one(failed[1])
            return _words(f"from {failed[1][:64]}", failed[2])
        elif refused := _REFUSED.search(text):
            return _words(self._who(), refused[1])
        elif (gone := _GONE.search(text)) and gone[1] == _UNKNOWN:
            self._forget_one()
        return None

    def _who(self) -> str:
        addresses = list(dict.fromkeys(address for address, _ in self._pending))
        return f"from {addresses[0]}" if len(addresses) == 1 else "from an address it does not tell"

    def _forget_one(self, address: str | None = None) -> None:
        """One that had not logged in is gone: the one that has waited longest, as far as known."""
        waiting = (one for one in self._pending if address in {None, one[0]})
        if (longest := next(waiting, None)) is not None:
            del self._pending[longest]


def _words(who: str, reason: str) -> str:
    reason = reason.strip().rstrip(".")
    means = _MEANS.get(reason)
    return f"the broker refused a login {who}: {reason[:100]}{f' ({means})' if means else ''}"
