"""One MQTT connection on which a broker is tried out: it asks, and waits for the answer."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final

from tools.doctor import mqtt_packets as mqtt
from tools.doctor.mqtt_packets import Ack, ConnAck, Goodbye, Message, Packet, PingAnswer, Version

# [s] A broker's answer over a link of 40 kbit/s with a round trip of seconds.
ANSWER_S: Final = 20.0
# The reason codes from here on are refusals.
FAILURE: Final = 0x80
# [s] For the other side's half of TLS's goodbye.
_GOODBYE_S: Final = 0.2
_READ_BYTES: Final = 65_536


class SessionEnded(Exception):
    """The broker closed the connection, or does not answer; `code` is what it said at the end."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class Session:
    """A connection without a will that acknowledges no delivery and queues nothing.

    What the broker had queued for the service stays queued: an unacknowledged delivery comes again.

    Attributes:
        answer: The CONNACK.
        received: What has come since `forget` was called.
    """

    def __init__(self, sock: socket.socket, *, version: Version) -> None:
        self.version = version
        self.answer: ConnAck | None = None
        self.received: list[Message] = []
        self._sock = sock
        self._reader = mqtt.Reader(version)
        self._pending: list[Packet] = []
        self._mid = 0
        self._subscribed: list[str] = []

    def connect(
        self,
        client_id: str,
        *,
        clean_start: bool,
        session_expiry_s: int = 0,
        username: str | None = None,
        password: str | None = None,
    ) -> ConnAck:
        """Log in and return the broker's answer, which may be a refusal.

        Raises:
            SessionEnded: It closed the connection instead, or did not answer.
        """
        self._send(
            mqtt.connect(
                client_id,
                version=self.version,
                clean_start=clean_start,
                session_expiry_s=session_expiry_s,
                username=username,
                password=password,
            )
        )
        while not isinstance(packet := self._answer(ANSWER_S), ConnAck):
            self._note(packet)
        self.answer = packet
        return packet

    def publish(self, topic: str, payload: bytes, *, within_s: float = ANSWER_S) -> int:
        """Publish with QoS 1 and return the acknowledgement's reason code; 3.1.1 has only 0."""
        mid = self._new_mid()
        self._send(mqtt.publish(topic, payload, version=self.version, mid=mid))
        return self._acknowledged(mid, within_s)[0]

    def subscribe(self, filters: Sequence[str]) -> tuple[int, ...]:
        """Subscribe with QoS 0 and return a reason code for each."""
        mid = self._new_mid()
        self._send(mqtt.subscribe(filters, version=self.version, mid=mid))
        self._subscribed += filters
        return self._acknowledged(mid, ANSWER_S)

    def unsubscribe(self) -> None:
        """Take back all subscriptions that were made here."""
        if self._subscribed:
            mid = self._new_mid()
            self._send(mqtt.unsubscribe(self._subscribed, version=self.version, mid=mid))
            self._subscribed = []
            self._acknowledged(mid, ANSWER_S)

    def settle(self, seconds: float) -> None:
        """Return when the broker has worked through what was sent, and some time after."""
        self._send(mqtt.ping())
        while not isinstance(packet := self._answer(ANSWER_S), PingAnswer):
            self._note(packet)
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            try:
                self._note(self._next(left))
            except TimeoutError:
                return

    def is_alive(self) -> bool:
        """Tell whether the broker still keeps this connection."""
        try:
            self.settle(0.0)
        except SessionEnded:
            return False
        return True

    def forget(self) -> None:
        """Forget what has come."""
        self.received = []

    def leave(self, *, keep_session: bool) -> None:
        """Take the subscriptions back and say goodbye."""
        with contextlib.suppress(SessionEnded, OSError):
            self.unsubscribe()
            expiry = None if keep_session else 0
            self._send(mqtt.disconnect(version=self.version, session_expiry_s=expiry))
        self.close()

    def close(self) -> None:
        """Close the socket."""
        close(self._sock)

    def _acknowledged(self, mid: int, within_s: float) -> tuple[int, ...]:
        give_up = time.monotonic() + within_s
        while True:
            packet = self._answer(max(give_up - time.monotonic(), 0.01))
            if isinstance(packet, Ack) and packet.mid == mid:
                return packet.codes or (0,)
            self._note(packet)

    def _note(self, packet: Packet) -> None:
        match packet:
            case Message():
                self.received.append(packet)
            case Goodbye(code):
                raise SessionEnded(f"the broker ended the connection (reason code {code})", code)

    def _send(self, packet: bytes) -> None:
        self._sock.settimeout(ANSWER_S)
        try:
            self._sock.sendall(packet)
        except OSError as error:
            # What the broker said before it closed is worth more than a broken pipe.
            self._drain()
            raise SessionEnded(_cause(error)) from error

    def _drain(self) -> None:
        self._sock.settimeout(0.5)
        with contextlib.suppress(OSError, mqtt.BadPacket):
            while received := self._sock.recv(_READ_BYTES):
                for packet in self._reader.feed(received):
                    self._note(packet)

    def _answer(self, within_s: float) -> Packet:
        try:
            return self._next(within_s)
        except TimeoutError as error:
            raise SessionEnded(f"the broker did not answer within {within_s:.0f} s") from error

    def _next(self, within_s: float) -> Packet:
        if self._pending:
            return self._pending.pop(0)
        give_up = time.monotonic() + within_s
        while True:
            self._sock.settimeout(max(give_up - time.monotonic(), 0.001))
            try:
                received = self._sock.recv(_READ_BYTES)
            except TimeoutError:
                raise
            except OSError as error:
                raise SessionEnded(_cause(error)) from error
            if not received:
                raise SessionEnded("the broker closed the connection without a word")
            try:
                self._pending += self._reader.feed(received)
            except mqtt.BadPacket as error:
                raise SessionEnded(str(error)) from error
            if self._pending:
                return self._pending.pop(0)

    def _new_mid(self) -> int:
        self._mid += 1
        return self._mid


def close(sock: socket.socket) -> None:
    """Close a connection, by TLS's own goodbye: without it a broker logs an error."""
    if isinstance(sock, ssl.SSLSocket):
        # The broker need not answer, and either side may have closed it already.
        with contextlib.suppress(OSError, ValueError):
            sock.settimeout(_GOODBYE_S)
            sock.unwrap().close()
    sock.close()


def _cause(error: OSError) -> str:
    return f"the connection broke: {error.strerror or error}"
