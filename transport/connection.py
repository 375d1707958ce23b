"""One MQTT connection from CONNECT to its end; the only file that imports paho.

paho's callbacks only note what came; `hold` acts on it between two turns of paho's loop. A paho
client serves one connection: it then has no queue of an earlier one to send again, and a late
acknowledgement is told by its generation.

    state        event               next         what happens
    CONNECTING   CONNACK accepted    SUBSCRIBING  all filters are subscribed in one packet
    CONNECTING   CONNACK refused     ENDED        LoginRefused, or LinkLost where it may pass
    SUBSCRIBING  SUBACK, or at once  UP           `up`, then the held deliveries are passed
                 where the session
                 is known
    SUBSCRIBING  delivery            SUBSCRIBING  it is held
    UP           delivery            UP           it is passed
    any          silence too long    ENDED        LinkLost (`transport.silence`)
    any          connection lost     ENDED        LinkLost
    any          session taken over  ENDED        SessionTakenOver
    UP           first PUBACK denies ENDED        PublishingRefused (MQTT 5 alone tells)
"""

from __future__ import annotations

import errno
import logging
import math
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NoReturn, Protocol, cast

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from transport import limits, sockets
from transport.broker import BrokerConfig
from transport.crash_points import reach
from transport.errors import LinkLost, LoginRefused, Loss, PublishingRefused, SessionTakenOver
from transport.link_events import Delivery, Publication
from transport.pulse import Pulse
from transport.silence import Verdict
from transport.watch import Watch

_log = logging.getLogger(__name__)

# [s] Two weeks without a device are a holiday; the broker's configuration expires them alike.
SESSION_EXPIRY_S: Final = 14 * 24 * 3600
# [bytes] Twice what any legal sender sends, so that a stranger's giant never reaches our memory.
_MAX_INCOMING_BYTES: Final = 2 * limits.MAX_FRAME_BYTES
# [s] The broker's answers to CONNECT and SUBSCRIBE, or the next message before them.
_HANDSHAKE_S: Final = 20.0
# [s] The longest turn of paho's loop; publishing ends a turn at once.
_TURN_S: Final = 0.5
# [s] How long the network may take to answer to a first packet: TCP sends it again after 1, 3 and
# 7 s, so that a link that comes back is found within seconds, and 8 s is more than a slow link's
# full queues hold.
_CONNECT_S: Final = 8.0
# [s] What connecting may take before it is taken for a hang: a name server that does not answer
# (30 s), and one address that does not; each further address is another 8 s.
_CONNECTING_S: Final = 45.0
# [s] How long a wanted DISCONNECT may wait behind what is queued before it.
_GOODBYE_S: Final = 2.0
# [publications] Unacknowledged at once. HiveMQ announces 10, the least of the common brokers, and
# paho neither obeys a broker's number nor lets it be changed once connected.
_MAX_INFLIGHT: Final = 10

# Whether a broker that knows the subscription already sends the retained messages once more.
_ANEW: Final = SubscribeOptions(qos=1)
_RESUMED: Final = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
_UNQUEUED: Final = SubscribeOptions(qos=0)

_BAD_PROTOCOL: Final = 132
_BAD_LOGIN: Final = frozenset({133, 134, 135, 138})  # client id, password, authorisation, banned
_NOT_AUTHORISED: Final = 135
_TAKEN_OVER: Final = 142
# OpenSSL's names of the alerts with which a server refuses a client's certificate. In TLS 1.3 they
# come with the first read after the handshake, and paho passes them on as text.
_CERTIFICATE_ALERT: Final = re.compile(
    r"ALERT_(UNKNOWN_CA|CERTIFICATE_REQUIRED|BAD_CERTIFICATE|CERTIFICATE_EXPIRED"
    r"|CERTIFICATE_REVOKED|CERTIFICATE_UNKNOWN|UNSUPPORTED_CERTIFICATE|ACCESS_DENIED)"
)
# How paho's texts name the error of a socket.
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
_UNSPECIFIED: Final = 128  # how paho calls a connection that ended without DISCONNECT
_FAILURE: Final = 128  # reason codes from here on are refusals
_NO_NETWORK: Final = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})


class Sent(Protocol):
    """What became of a publication."""

    def is_published(self) -> bool:
        """Whether the broker has acknowledged it (with QoS 0: whether it was written)."""
        ...

    def wait_for_publish(self, timeout: float | None = None) -> None:
        """Return when it is published, or after the timeout in seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Login:
    """Who connects, and how: everything that stays the same from connection to connection.

    Attributes:
        receive_maximum: Deliveries that the broker may have unacknowledged at once, which are those
            that it sends again after a cut; None leaves it to the broker. MQTT 5 alone has it.
    """

    broker: BrokerConfig
    client_id: str
    password: str | None
    tls: ssl.SSLContext | None
    will: Publication | None
    receive_maximum: int | None = None


class _State(Enum):
    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    UP = "up"


class Connection:
    """One connection; `hold` belongs to the link's thread, the other methods to any."""

    def __init__(self, login: Login, *, generation: int, pulse: Pulse | None = None) -> None:
        self.generation = generation
        self._pulse = pulse or Pulse()
        self.began_at = time.monotonic()
        self.max_packet_bytes: int | None = None
        self.session_present = False
        self.was_cut = False  # the broker closed it without a word
        self._login = login
        self._state = _State.CONNECTING
        self._asked: dict[int, tuple[str, ...]] = {}
        self._first_subscription: int | None = None
        self._goodbye_at = math.inf
        self._has_published = False
        self._watch = Watch()
        # What the callbacks noted, in order of arrival.
        self._noted: deque[Callable[[], None]] = deque()
        self._held: deque[Delivery] = deque()
        self._lost = "connection lost"
        self._cause = Loss.SILENT
        self._socket_error: str | None = None
        self._client = self._make_client()

    def hold(
        self,
        filters: Collection[str],
        *,
        resumed: Collection[str] = (),
        up: Callable[[], None],
        deliver: Callable[[Delivery], None],
        stopping: threading.Event,
    ) -> NoReturn:
        """Connect, subscribe, and pass on what comes until the connection ends.

        Args:
            filters: Subscribed with QoS 1 before `up` is called.
            resumed: Those of them whose retained messages are wanted only where the broker no
                longer knows the subscription.
            up: Called once, when the broker has answered to CONNECT and SUBSCRIBE.
            deliver: Called with each delivery, after `up`.
            stopping: Ends the connection when set, after what is queued was written.

        Raises:
            LinkLost: The broker did not answer, or the connection ended.
            LoginRefused: The broker refused this identity.
            SessionTakenOver: Another process connected with this client id.
        """
        self._pulse.beat(time.monotonic(), within_s=_CONNECTING_S)
        self._connect()
        deadline = time.monotonic() + _HANDSHAKE_S
        is_up = False
        while True:
            self._pulse.beat(time.monotonic())
            reach("link-turn")
            held = len(self._held)
            code = self._turn()
            if len(self._held) > held:
                deadline = time.monotonic() + _HANDSHAKE_S  # retained messages before the SUBACK
            while self._noted:
                self._noted.popleft()()
            while is_up and self._held:
                deliver(self._held.popleft())
            if code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise LinkLost(self._lost, cause=self._cause)
            if self._state is _State.SUBSCRIBING and self._first_subscription is None:
                self._begin_subscribing(filters, resumed)
            if self._state is _State.UP and not is_up:
                is_up = True
                up()
                while self._held:
                    deliver(self._held.popleft())
            if not is_up and time.monotonic() > deadline:
                self._give_up(f"the broker did not answer within {_HANDSHAKE_S:.0f} s")
            self._end_silence()
            if stopping.is_set():
                self.say_goodbye()
                if time.monotonic() - self._goodbye_at > _GOODBYE_S:
                    raise LinkLost("closed without a goodbye, which could not be written")

    def publish(self, publication: Publication) -> Sent:
        """Queue a publication.

        Raises:
            LinkLost: The connection has ended, or 65,535 publications are unacknowledged.
        """
        self._watch.note(len(publication.payload), now=time.monotonic())
        info = self._client.publish(
            publication.topic,
            publication.payload,
            qos=publication.qos,
            retain=publication.retain,
        )
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise LinkLost(f"not published: {paho.error_string(info.rc)}")
        return info

    def subscribe(self, filters: Collection[str], *, resumed: Collection[str] = ()) -> int | None:
        """Subscribe with QoS 1; return the packet identifier, None where nothing was sent.

        What the broker says of itself, under `$SYS/`, comes with QoS 0: in the queue of a service
        that is away it would take the place of messages.
        """
        if self._login.broker.mqtt_version == "5":
            options = {name: _RESUMED if name in resumed else _ANEW for name in filters}
            options |= {name: _UNQUEUED for name in filters if name.startswith("$SYS/")}
            _, mid = self._client.subscribe(list(options.items()))
        else:
            levels = [(name, 0 if name.startswith("$SYS/") else 1) for name in filters]
            _, mid = self._client.subscribe(levels)
        if mid is not None:
            self._asked[mid] = tuple(filters)
        return mid

    def unsubscribe(self, filters: Collection[str]) -> None:
        """Unsubscribe."""
        self._client.unsubscribe(list(filters))

    def acknowledge(self, mid: int) -> None:
        """Acknowledge a QoS 1 delivery of this connection."""
        self._client.ack(mid, 1)

    def say_goodbye(self) -> None:
        """Send DISCONNECT behind what is queued; the broker then keeps the will to itself."""
        if math.isinf(self._goodbye_at):
            self._goodbye_at = time.monotonic()
            self._client.disconnect()

    def release(self) -> None:
        """Close the socket where it is still open, and let go of paho's client."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        # The client refers to this object by its callbacks; without them it goes at once and
        # closes its wake-up sockets, instead of at some later garbage collection.
        for callback in ("connect", "subscribe", "message", "publish", "disconnect", "log"):
            setattr(self._client, f"on_{callback}", None)

    def _make_client(self) -> paho.Client:
        login, broker = self._login, self._login.broker
        is_v5 = broker.mqtt_version == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=login.client_id,
            clean_session=None if is_v5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
            # Otherwise paho itself tries again with MQTT 3.1 when 3.1.1 is refused.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(_MAX_INFLIGHT)
        client.max_queued_messages_set(0)  # no limit: paho would drop beyond it
        client.connect_timeout = min(broker.connect_timeout_s, _CONNECT_S)
        if broker.username is not None:
            client.username_pw_set(broker.username, login.password)
        if login.tls is not None:
            client.tls_set_context(login.tls)
        if login.will is not None:
            will = login.will
            client.will_set(will.topic, will.payload, qos=will.qos, retain=will.retain)
        client.on_socket_open = _on_socket_open
        # With this set, publish() leaves writing to the thread that turns the loop. Without it the
        # caller's thread writes as well, and two threads interleave their packets.
        client.on_socket_register_write = lambda _client, _userdata, _sock: None
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_log = self._on_log
        return client

    def _connect(self) -> None:
        broker = self._login.broker
        host, port = broker.address
        options: dict[str, Any] = {}
        if broker.mqtt_version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            properties.MaximumPacketSize = max(_MAX_INCOMING_BYTES, broker.max_packet_bytes)
            if self._login.receive_maximum is not None:
                properties.ReceiveMaximum = self._login.receive_maximum
            options = {"clean_start": False, "properties": properties}
        try:
            reach("link-connect")
            self._client.connect(host, port, keepalive=broker.keepalive_s, **options)
        except ssl.SSLCertVerificationError as error:
            raise LinkLost(f"its certificate is not trusted: {error.verify_message}") from error
        except ssl.SSLError as error:
            self._refuse_certificate(str(error.reason))
            raise LinkLost(str(error.reason or error)) from error
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            text = str(getattr(error, "strerror", None) or error)
            raise LinkLost(text, cause=_cause_of(error)) from error

    def _begin_subscribing(self, filters: Collection[str], resumed: Collection[str]) -> None:
        if self.session_present and self._login.broker.mqtt_version != "5":
            # Before MQTT 5, subscribing always brings what is retained; the session has these.
            filters = [name for name in filters if name not in resumed]
        if filters:
            self._first_subscription = self.subscribe(filters, resumed=resumed)
        if self.session_present or not filters:
            # The session has its subscriptions. Its unacknowledged messages come before the SUBACK,
            # and on a slow link they would never be acknowledged if they were held for so long.
            self._state = _State.UP

    def _turn(self) -> MQTTErrorCode:
        try:
            return self._client.loop(_TURN_S)
        except Exception as error:  # paho raises whatever a broker's odd bytes cause
            raise LinkLost(f"the broker sent what paho cannot read: {error!r}") from error

    def _end_silence(self) -> None:
        """Leave a connection that carries nothing any more."""
        client = self._client
        # Its type allows for paho's websockets, which are not used here.
        sock = cast("socket.socket | None", client.socket())
        if sock is None:
            return
        is_queue_empty = not client.want_write()
        verdict = self._watch.look(sock, is_queue_empty=is_queue_empty, now=time.monotonic())
        if verdict.ends:
            self._give_up(verdict.value)
        elif verdict is Verdict.ASK and self._state is not _State.CONNECTING:
            client._send_pingreq()  # noqa: SLF001  paho has no public way to ask

    def _give_up(self, text: str) -> NoReturn:
        sock = self._client.socket()
        if sock is not None:
            sockets.abort(cast("sockets.OptionSocket", sock))
        raise LinkLost(text, cause=Loss.SILENT)

    def _on_connect(
        self,
        _client: paho.Client,
        _userdata: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._noted.append(lambda: self._connected(flags, reason, properties))

    def _connected(
        self, flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        host, port = self._login.broker.address
        if reason.value in _BAD_LOGIN:
            raise LoginRefused(
                f"{host}:{port} refused client {self._login.client_id!r} ({reason}): "
                "check broker.username, broker.password_file and the broker's users"
            )
        if reason.value == _BAD_PROTOCOL:
            version = self._login.broker.mqtt_version
            raise LinkLost(f"it does not speak MQTT {version}: set another broker.mqtt_version")
        if reason.value >= _FAILURE:
            raise LinkLost(f"it refused the connection: {reason}", cause=Loss.BROKER)
        self.session_present = flags.session_present
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self._state = _State.SUBSCRIBING

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        self._noted.append(lambda: self._subscribed(mid, reasons))

    def _subscribed(self, mid: int, reasons: list[ReasonCode]) -> None:
        filters = self._asked.pop(mid, ())
        for topic_filter, reason in zip(filters, reasons, strict=False):
            if reason.value >= _FAILURE:
                _log.warning("the broker refused to subscribe to %s: %s", topic_filter, reason)
        if mid == self._first_subscription:
            self._state = _State.UP

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "�"  # no topic of ours; whoever parses it counts it and acknowledges
        reach("link-callback")
        self._watch.note(len(message.payload), now=time.monotonic())
        self._held.append(
            Delivery(
                topic=topic,
                payload=bytes(message.payload),
                qos=message.qos,
                retain=message.retain,
                mid=message.mid,
                generation=self.generation,
            )
        )

    def _on_publish(
        self,
        _client: paho.Client,
        _userdata: object,
        _mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        is_first, self._has_published = not self._has_published, True
        if reason.value >= _FAILURE:  # MQTT 5 alone tells; 3.1.1 acknowledges and drops
            self._noted.append(lambda: self._denied(reason, is_first=is_first))

    def _denied(self, reason: ReasonCode, *, is_first: bool) -> None:
        # A service's first word is its own status. Where even that is not its own to say, the
        # broker knows it by another name, and nothing that it does would ever be heard.
        if is_first and reason.value == _NOT_AUTHORISED:
            raise PublishingRefused(
                f"the broker does not let {self._login.client_id!r} publish its own status: "
                "client_id must be the login's user name, or its certificate's common name, "
                "and the broker's ACL must know it"
            )
        _log.warning("the broker refused to publish: %s", reason)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._noted.append(
            lambda: self._disconnected(reason, by_broker=flags.is_disconnect_packet_from_server)
        )

    def _disconnected(self, reason: ReasonCode, *, by_broker: bool) -> None:
        if by_broker and reason.value == _TAKEN_OVER:
            raise SessionTakenOver(
                f"another process connected as client {self._login.client_id!r}: "
                "stop it, or give one of the two an id of its own"
            )
        if by_broker:
            self._cause = Loss.BROKER
            self._lost = f"the broker ended it: {reason}"
        elif self._socket_error is not None:
            self._refuse_certificate(self._socket_error)
            self._lost = self._socket_error
            if number := _ERRNO.search(self._socket_error):
                self._cause = _cause_of(OSError(int(number[1]), ""))
        elif reason.value == _UNSPECIFIED:
            self.was_cut = True
            self._cause = Loss.BROKER
            self._lost = "the broker closed it"
        else:
            self._lost = str(reason)

    def _refuse_certificate(self, text: str) -> None:
        """Raise LoginRefused where a TLS alert says that the broker does not take ours."""
        alert = _CERTIFICATE_ALERT.search(text)
        if alert:
            host, port = self._login.broker.address
            raise LoginRefused(
                f"{host}:{port} refused this service's certificate "
                f"({alert[1].lower().replace('_', ' ')}): check broker.tls.cert_file, and that the "
                "broker trusts the authority that signed it"
            )

    def _on_log(self, _client: paho.Client, _userdata: object, level: int, text: str) -> None:
        # The one place where paho tells which error a socket had.
        if level == LogLevel.MQTT_LOG_ERR:
            self._socket_error = text


def _cause_of(error: Exception) -> Loss:
    if isinstance(error, ConnectionError):
        return Loss.BROKER  # refused, reset, or ended while it was written to
    if isinstance(error, socket.gaierror):
        return Loss.OFFLINE
    if isinstance(error, OSError) and error.errno in _NO_NETWORK:
        return Loss.OFFLINE
    return Loss.SILENT


def _on_socket_open(_client: paho.Client, _userdata: object, sock: paho.SocketLike) -> None:
    sockets.tune(cast("sockets.OptionSocket", sock))
