"""MQTT 3.1.1 and 5 as bytes: the few packets that trying out a broker takes. No socket, no clock.

The services' own client repeats, queues and reconnects; whoever wants to see what a broker
refuses needs each answer by itself, with its reason code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

# [bytes] Above every packet that our services send or a broker of theirs delivers.
MAX_PACKET_BYTES: Final = 1 << 20


class BadPacket(Exception):
    """The other side does not speak MQTT."""


class Version(IntEnum):
    """The protocol level in CONNECT."""

    V311 = 4
    V5 = 5


class _Kind(IntEnum):
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBACK = 9
    UNSUBACK = 11
    PINGRESP = 13
    DISCONNECT = 14


@dataclass(frozen=True, slots=True)
class ConnAck:
    """The broker's answer to CONNECT; the properties are MQTT 5's, by their identifiers."""

    code: int
    session_present: bool
    properties: Mapping[int, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker's answer to PUBLISH (one code), SUBSCRIBE or UNSUBSCRIBE (one each)."""

    mid: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A delivery."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class PingAnswer:
    """The broker's answer to PINGREQ."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The broker ends the connection (MQTT 5)."""

    code: int


Packet = ConnAck | Ack | Message | PingAnswer | Goodbye

SESSION_EXPIRY: Final = 0x11
SERVER_KEEP_ALIVE: Final = 0x13
RECEIVE_MAXIMUM: Final = 0x21
MAXIMUM_QOS: Final = 0x24
RETAIN_AVAILABLE: Final = 0x25
MAXIMUM_PACKET_SIZE: Final = 0x27

# MQTT 5, table 2-4: how the value of each property is written.
_ONE: Final = frozenset({0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A})
_TWO: Final = frozenset({0x13, 0x21, 0x22, 0x23})
_FOUR: Final = frozenset({0x02, 0x11, 0x18, 0x27})
_TEXT: Final = frozenset({0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F, 0x09, 0x16})
_PAIR: Final = 0x26
_COUNT: Final = 0x0B


def connect(
    client_id: str,
    *,
    version: Version,
    clean_start: bool,
    keepalive_s: int = 60,
    session_expiry_s: int = 0,
    username: str | None = None,
    password: str | None = None,
) -> bytes:
    """Return a CONNECT without a will; without clean start, 3.1.1 keeps the session for ever."""
    flags = (0x02 if clean_start else 0) | (0x80 if username is not None else 0)
    flags |= 0x40 if password is not None else 0
    body = _string("MQTT") + bytes((version, flags)) + struct.pack(">H", keepalive_s)
    if version is Version.V5:
        body += _properties(_expiry(session_expiry_s))
    body += _string(client_id)
    for text in (username, password):
        if text is not None:
            body += _string(text)
    return _packet(0x10, body)


def publish(topic: str, payload: bytes, *, version: Version, mid: int) -> bytes:
    """Return a PUBLISH with QoS 1, not retained."""
    body = _string(topic) + struct.pack(">H", mid)
    return _packet(0x32, body + _none(version) + payload)


def subscribe(filters: Sequence[str], *, version: Version, mid: int) -> bytes:
    """Return a SUBSCRIBE with QoS 0, so that the broker keeps nothing for us."""
    body = struct.pack(">H", mid) + _none(version)
    return _packet(0x82, body + b"".join(_string(name) + b"\0" for name in filters))


def unsubscribe(filters: Sequence[str], *, version: Version, mid: int) -> bytes:
    """Return an UNSUBSCRIBE."""
    body = struct.pack(">H", mid) + _none(version)
    return _packet(0xA2, body + b"".join(_string(name) for name in filters))


def ping() -> bytes:
    """Return a PINGREQ."""
    return _packet(0xC0, b"")


def disconnect(*, version: Version, session_expiry_s: int | None = None) -> bytes:
    """Return a DISCONNECT; MQTT 5 may change with it how long the session is kept."""
    if version is Version.V311 or session_expiry_s is None:
        return _packet(0xE0, b"")
    return _packet(0xE0, b"\0" + _properties(_expiry(session_expiry_s)))


class Reader:
    """Cuts the broker's bytes into packets."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[Packet]:
        """Take what came and yield the packets that are complete.

        Raises:
            BadPacket: It is not MQTT, or longer than anything that may come.
        """
        self._buffer += received
        while (end := self._end()) is not None:
            start, stop = end
            first, body = self._buffer[0], bytes(self._buffer[start:stop])
            del self._buffer[:stop]
            try:
                yield _decode(first, body, self._version)
            except (IndexError, struct.error, UnicodeDecodeError) as error:
                raise BadPacket("a packet of the broker is cut short or damaged") from error

    def _end(self) -> tuple[int, int] | None:
        """Return where the first packet's body begins and ends, None until it is all there."""
        # Some other protocol's first bytes would announce a packet that never ends.
        if self._buffer and not _may_begin(self._buffer[0]):
            raise BadPacket("the other side does not speak MQTT")
        length, shift = 0, 0
        for at in range(1, min(len(self._buffer), 5)):
            length |= (self._buffer[at] & 0x7F) << shift
            shift += 7
            if not self._buffer[at] & 0x80:
                if length > MAX_PACKET_BYTES:
                    raise BadPacket(f"the broker announces a packet of {length} bytes")
                stop = at + 1 + length
                return (at + 1, stop) if len(self._buffer) >= stop else None
        if shift >= 28:  # noqa: PLR2004  # four bytes of seven bits each
            raise BadPacket("the other side does not speak MQTT")
        return None


def _may_begin(first: int) -> bool:
    kind, flags = first >> 4, first & 0x0F
    return kind == _Kind.PUBLISH or (flags == 0 and kind in frozenset(_Kind))


def _decode(first: int, body: bytes, version: Version) -> Packet:
    is_v5 = version is Version.V5
    match first >> 4:
        case _Kind.CONNACK:
            properties = _read_properties(body, 2)[0] if is_v5 and len(body) > 2 else {}  # noqa: PLR2004
            return ConnAck(body[1], bool(body[0] & 1), properties)
        case _Kind.PUBLISH:
            return _decode_publish(first, body, is_v5=is_v5)
        case _Kind.PUBACK:
            return Ack(_number(body), (body[2] if len(body) > 2 else 0,))  # noqa: PLR2004
        case _Kind.SUBACK | _Kind.UNSUBACK:
            at = _read_properties(body, 2)[1] if is_v5 else 2
            return Ack(_number(body), tuple(body[at:]))
        case _Kind.PINGRESP:
            return PingAnswer()
        case _:
            return Goodbye(body[0] if body else 0)


def _decode_publish(first: int, body: bytes, *, is_v5: bool) -> Message:
    topic, at = _read_string(body, 0)
    if first & 0x06:
        at += 2  # the packet identifier: nothing is acknowledged here
    if is_v5:
        _, at = _read_properties(body, at)
    return Message(topic, body[at:], bool(first & 1))


def _read_properties(body: bytes, at: int) -> tuple[dict[int, int | str], int]:
    length, at = _read_count(body, at)
    end = at + length
    if end > len(body):
        raise BadPacket("a packet of the broker is cut short")
    found: dict[int, int | str] = {}
    while at < end:
        kind = body[at]
        at += 1
        value: int | str
        if kind in _ONE:
            value, at = body[at], at + 1
        elif kind in _TWO:
            value, at = _number(body, at), at + 2
        elif kind in _FOUR:
            value, at = int(struct.unpack_from(">I", body, at)[0]), at + 4
        elif kind == _COUNT:
            value, at = _read_count(body, at)
        elif kind in _TEXT:
            value, at = _read_string(body, at)
        elif kind == _PAIR:
            _, at = _read_string(body, at)
            value, at = _read_string(body, at)
        else:
            raise BadPacket(f"the broker sent property {kind}, which MQTT 5 does not have")
        found[kind] = value
    return found, end


def _read_count(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21):
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise BadPacket("a length of the broker has more than four bytes")


def _read_string(body: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + _number(body, at)
    if end > len(body):
        raise BadPacket("a packet of the broker is cut short")
    return body[at + 2 : end].decode(errors="replace"), end


def _number(body: bytes, at: int = 0) -> int:
    return int(struct.unpack_from(">H", body, at)[0])


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _count(len(body)) + body


def _count(value: int) -> bytes:
    written = bytearray()
    while True:
        value, low = divmod(value, 128)
        written.append(low | (0x80 if value else 0))
        if not value:
            return bytes(written)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _expiry(seconds: int) -> bytes:
    return struct.pack(">BI", SESSION_EXPIRY, seconds)


def _properties(encoded: bytes) -> bytes:
    return _count(len(encoded)) + encoded


def _none(version: Version) -> bytes:
    return b"\0" if version is Version.V5 else b""
