"""What a connection to the broker needs from the operating system: socket options and TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
from pathlib import Path
from typing import Final, Protocol

from transport.broker import BrokerConfig, TlsConfig
from transport.credentials import credential
from transport.errors import BadLinkConfig
from transport.silence import TcpView

# [ms] A link that acknowledged nothing for this long is dead; the kernel's own patience is 15 min.
# Below keepalive (60 s), so that a half-open connection ends before the broker's own timer does it.
# Bytes that wait in the send buffer of a link that moves, however slowly, do not count: the kernel
# measures from the first repetition that nobody acknowledged.
USER_TIMEOUT_MS: Final = 45_000

# [bytes] Four segments of 32 KiB: enough to fill 1 Mbit/s at 1 s round trip, and little enough that
# what the kernel holds back does not delay control messages by minutes on a slow link. What waits
# before it, in paho's queue, is bounded by the transfer's window: a low TCP_NOTSENT_LOWAT would
# only move bytes from one queue to the other.
SEND_BUFFER_BYTES: Final = 128 << 10

# [ms] The longest that the kernel waits before it tries a silent link again (Linux 6.15 and later).
# Its own doubling leaves a link that was away for 20 s unused for up to 20 s more. Not below what a
# window waits in the queues of a slow link (`transfer_policy.round_trip_s`), or TCP would repeat
# what is only late.
RETRANSMISSION_MOST_MS: Final = 8_000
_TCP_RTO_MAX_MS: Final = 44  # include/uapi/linux/tcp.h; Python has no name for it

# The beginning of `struct tcp_info`, as every Linux since 2.6 has it; later kernels append to it.
# Source: include/uapi/linux/tcp.h.
_TCP_INFO: Final = struct.Struct("=8B24I")
_PROBES: Final = 3  # of the bytes
# Of the numbers, which follow eight bytes.
_UNACKED: Final = 8 + 4
_LAST_DATA_RECEIVED: Final = 8 + 11
_LAST_ACK_RECEIVED: Final = 8 + 12
_RTT: Final = 8 + 15
_RTT_DEVIATION: Final = 8 + 16
_SIOCOUTQ: Final = 0x5411  # bytes not acknowledged, or not even sent; include/uapi/linux/sockios.h

# [s] A TLS handshake: some 5 KB to and fro, at 40 kbit/s behind what else waits there.
_TLS_HANDSHAKE_S: Final = 20.0


class _ClosingSocket(ssl.SSLSocket):
    """A TLS socket that closes when its handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  the base's
        self.settimeout(_TLS_HANDSHAKE_S)
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class OptionSocket(Protocol):
    """What is needed of a socket here; a TLS socket has it as well."""

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        """Set one option."""
        ...


def tune(sock: OptionSocket) -> None:
    """Set the options that long uploads over lossy links need; what the kernel lacks is left out.

    BBR keeps 4 to 7 times CUBIC's goodput at 5 to 10 % loss, where the kernel has it.
    """
    options: list[tuple[int, int, int | bytes]] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
    ]
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS))
    if sys.platform == "linux":
        options.append((socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RETRANSMISSION_MOST_MS))
    if hasattr(socket, "TCP_CONGESTION"):
        options.append((socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr"))
    for level, option, value in options:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)


def look(sock: socket.socket, *, is_queue_empty: bool) -> TcpView | None:
    """Return what this connection's TCP says of itself; None where the system does not tell.

    Args:
        sock: A connected socket, with TLS or without.
        is_queue_empty: Nothing waits before the socket, in the program's own queue.
    """
    if sys.platform != "linux":
        return None
    import fcntl  # noqa: PLC0415  other systems may lack it

    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        queued = fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # ValueError: it is closed
        return None
    if len(told) < _TCP_INFO.size:
        return None
    fields = _TCP_INFO.unpack(told)
    return TcpView(
        outstanding=max(fields[_UNACKED], fields[_PROBES]),
        is_drained=is_queue_empty and not any(queued),
        acknowledged_ago_s=fields[_LAST_ACK_RECEIVED] / 1e3,
        received_ago_s=fields[_LAST_DATA_RECEIVED] / 1e3,
        rtt_s=fields[_RTT] / 1e6,
        rtt_deviation_s=fields[_RTT_DEVIATION] / 1e6,
    )


def abort(sock: OptionSocket) -> None:
    """Have the next close() drop what is queued, instead of sending it beside a new connection."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return a context that trusts this authority alone and checks the broker's name.

    Raises:
        BadLinkConfig: A file is missing, unreadable or no certificate or key.
    """
    if tls.cert_file is None and tls.key_file is not None:
        raise BadLinkConfig(
            f"broker.tls.key_file {tls.key_file} has no certificate: set broker.tls.cert_file"
        )
    key_file = credential(tls.key_file) if tls.key_file else None
    for field, path in (
        ("ca_file", tls.ca_file),
        ("cert_file", tls.cert_file),
        ("key_file", key_file),
    ):
        if path is not None:
            _read(path, f"broker.tls.{field}")
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise BadLinkConfig(
            f"broker.tls.ca_file {tls.ca_file} holds no PEM certificate ({error})"
        ) from error
    context.sslsocket_class = _ClosingSocket
    if tls.cert_file is not None:
        try:
            # A password would be asked for on the terminal, which a service does not have.
            context.load_cert_chain(tls.cert_file, key_file, password="")
        except ssl.SSLError as error:
            raise BadLinkConfig(
                f"broker.tls.cert_file {tls.cert_file} and key_file {key_file or 'in it'} are "
                f"no matching pair of PEM certificate and unencrypted key ({error})"
            ) from error
    return context


def read_password(broker: BrokerConfig) -> str | None:
    """Return the password on the first line of the configured file; None where there is none.

    Raises:
        BadLinkConfig: The file is missing, unreadable, no text, or empty.
    """
    if broker.password_file is None:
        return None
    if broker.username is None:
        raise BadLinkConfig("broker.password_file is set without broker.username: set both")
    try:
        lines = _read(broker.password_file, "broker.password_file").decode().splitlines()
    except UnicodeDecodeError as error:
        raise BadLinkConfig(
            f"broker.password_file {broker.password_file} is not UTF-8 text"
        ) from error
    if not lines or not lines[0]:
        raise BadLinkConfig(
            f"broker.password_file {broker.password_file} is empty: its first line is the password"
        )
    return lines[0]


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadLinkConfig(f"{field} {path} cannot be read: {error.strerror or error}") from error
