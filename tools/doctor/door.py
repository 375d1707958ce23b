"""Ways to the broker, step by step, so that each can fail by a line of its own."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tools.doctor.mqtt_packets import Version
from tools.doctor.mqtt_session import ANSWER_S, Session
from transport import sockets
from transport.broker import BrokerConfig, TlsConfig

# [s] TCP sends its first packet again after 1, 3 and 7 s.
CONNECT_S: Final = 8.0
# [s] What a busy broker takes to look at a certificate.
_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Door:
    """The broker of one configuration."""

    broker: BrokerConfig

    def addresses(self) -> Sequence[str]:
        """Return the addresses that the host's name stands for.

        Raises:
            OSError: There are none.
        """
        host, port = self.broker.address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(one[4][0]) for one in found))

    def connect(self) -> socket.socket:
        """Return a TCP connection.

        Raises:
            OSError: There is none to be had.
        """
        return socket.create_connection(self.broker.address, timeout=CONNECT_S)

    def secure(
        self, sock: socket.socket, *, with_certificate: bool = True, patience_s: float = _PAUSE_S
    ) -> socket.socket:
        """Return the connection with TLS on it where the configuration says so; close it if not.

        Args:
            sock: Connected.
            with_certificate: Show the service's own.
            patience_s: Seconds, besides two ways there and back, that a refusal is waited for.

        Raises:
            BadLinkConfig: A certificate or key cannot be used.
            OSError: The handshake failed.
        """
        tls = self.broker.tls
        if tls is None:
            return sock
        try:
            context = sockets.tls_context(
                tls if with_certificate else TlsConfig(ca_file=tls.ca_file)
            )
            sock.settimeout(ANSWER_S)
            began = time.monotonic()
            secured: socket.socket = context.wrap_socket(
                sock, server_hostname=self.broker.address[0]
            )
        except BaseException:
            sock.close()
            raise
        try:
            _hear_refusal(secured, 2 * (time.monotonic() - began) + patience_s)
        except BaseException:
            secured.close()
            raise
        return secured

    def session(self, version: Version, *, with_certificate: bool = True) -> Session:
        """Return a connection on which nothing of MQTT was said yet."""
        return Session(
            self.secure(self.connect(), with_certificate=with_certificate), version=version
        )

    def password(self) -> str | None:
        """Return the login's password, None where it has none."""
        return sockets.read_password(self.broker)


def _hear_refusal(sock: socket.socket, seconds: float) -> None:
    """Raise the server's refusal of our certificate where it comes within some time.

    In TLS 1.3 it comes when the handshake is over for us, and is lost where we write before.
    """
    sock.settimeout(seconds)
    try:
        received = sock.recv(1)
    except TimeoutError:
        return
    raise ConnectionError("it spoke before it was spoken to" if received else "it was closed")


def peer_certificate(sock: socket.socket) -> tuple[str, float] | None:
    """Return TLS's version and the end of the broker's certificate; None without TLS."""
    if not isinstance(sock, ssl.SSLSocket):
        return None
    certificate = sock.getpeercert() or {}
    ends = ssl.cert_time_to_seconds(str(certificate.get("notAfter", "Jan  1 00:00:00 1970 GMT")))
    return sock.version() or "TLS", float(ends)
