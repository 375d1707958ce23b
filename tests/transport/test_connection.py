"""One connection against a scripted peer that answers CONNECT with prepared bytes."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from paho.mqtt.enums import LogLevel
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from transport import connection, silence, sockets, watch
from transport.broker import BrokerConfig
from transport.connection import Connection, Login
from transport.errors import LinkError, LinkLost, LoginRefused, Loss, SessionTakenOver
from transport.link_events import Delivery, Publication
from transport.silence import TcpView

CONNACK_3 = bytes.fromhex("20020000")
CONNACK_3_KNOWN = bytes.fromhex("20020100")
CONNACK_5 = bytes.fromhex("2003000000")


class Peer:
    """Accepts one connection, answers its first packet with bytes, and keeps what it hears."""

    def __init__(self, answer: bytes, *, then: bytes = b"", hangs_up: bool = True) -> None:
        self.heard = b""
        self.was_reset = False
        self._answer, self._then, self._hangs_up = answer, then, hangs_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(10)
            self.heard += sock.recv(65_536)
            sock.sendall(self._answer)
            if self._then:
                self.heard += sock.recv(65_536)
                sock.sendall(self._then)
            try:
                while not self._hangs_up and (more := sock.recv(65_536)):
                    self.heard += more
            except ConnectionResetError:
                self.was_reset = True

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def make_peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(*arguments: Any, **options: Any) -> Peer:
        peers.append(Peer(*arguments, **options))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


class Held:
    """What one held connection did; it is closed after `closes_after` events."""

    def __init__(
        self,
        port: int,
        *,
        version: str = "3.1.1",
        filters: tuple[str, ...] = (),
        closes_after: int | None = None,
    ) -> None:
        broker = BrokerConfig(host="127.0.0.1", port=port, mqtt_version=version)  # type: ignore[arg-type]
        login = Login(
            broker=broker, client_id="dev", password=None, tls=None, will=Publication("w", b"gone")
        )
        self.connection = Connection(login, generation=7)
        self.stopping = threading.Event()
        self.happened: list[Any] = []
        self.filters = filters
        self.closes_after = closes_after

    def happens(self, event: Any) -> None:
        self.happened.append(event)
        if len(self.happened) == self.closes_after:
            self.stopping.set()

    def until_error(self) -> LinkError:
        try:
            self.connection.hold(
                self.filters,
                up=lambda: self.happens("up"),
                deliver=self.happens,
                stopping=self.stopping,
            )
        except LinkError as error:
            return error
        finally:
            self.connection.release()
        raise AssertionError


@pytest.mark.parametrize(
    ("version", "answer"),
    [
        ("3.1.1", "20020004"),  # bad user name or password
        ("3.1.1", "20020005"),  # not authorised
        ("5", "2003008600"),
        ("5", "2003008700"),
        ("5", "2003008a00"),  # banned
    ],
)
def test_a_refused_login_says_what_to_check(
    version: str, answer: str, make_peer: Callable[..., Peer]
) -> None:
    held = Held(make_peer(bytes.fromhex(answer)).port, version=version)
    error = held.until_error()
    assert isinstance(error, LoginRefused)
    assert "broker.username" in str(error)
    assert "'dev'" in str(error)
    assert held.happened == []


@pytest.mark.parametrize(
    ("version", "answer"),
    [
        ("3.1.1", "20020003"),  # unavailable
        ("5", "2003008800"),  # unavailable
        ("5", "2003008900"),  # busy
        ("3.1.1", ""),
        ("5", ""),
    ],
)
def test_another_refusal_may_pass(
    version: str, answer: str, make_peer: Callable[..., Peer]
) -> None:
    error = Held(make_peer(bytes.fromhex(answer)).port, version=version).until_error()
    assert isinstance(error, LinkLost)


def test_a_broker_without_mqtt_5_names_the_setting(make_peer: Callable[..., Peer]) -> None:
    error = Held(make_peer(bytes.fromhex("2003008400")).port, version="5").until_error()
    assert isinstance(error, LinkLost)
    assert "broker.mqtt_version" in str(error)


def test_a_refused_protocol_is_not_tried_as_mqtt_3_1(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(bytes.fromhex("20020001"))
    assert isinstance(Held(peer.port).until_error(), LinkLost)
    peer.close()
    assert b"MQIsdp" not in peer.heard


@pytest.mark.parametrize(
    "junk", ["ff", "00" * 50, "20ffffffffff", "2001", "30ff7f", "9003", "3000", "e0", "20020099"]
)
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_bytes_that_are_no_mqtt_end_the_connection_and_nothing_else(
    junk: str, version: str, make_peer: Callable[..., Peer]
) -> None:
    held = Held(make_peer(bytes.fromhex(junk)).port, version=version)
    assert isinstance(held.until_error(), LinkLost)
    assert held.happened == []


def test_a_silent_peer_is_given_up(
    make_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HANDSHAKE_S", 0.05)
    error = Held(make_peer(b"", hangs_up=False).port).until_error()
    assert isinstance(error, LinkLost)
    assert "did not answer" in str(error)
    assert error.cause is Loss.SILENT


def saying(**changes: Any) -> Callable[..., TcpView]:
    """A system that says this of every socket."""
    calm = TcpView(
        outstanding=0,
        is_drained=True,
        acknowledged_ago_s=60.0,
        received_ago_s=60.0,
        rtt_s=0.1,
        rtt_deviation_s=0.02,
    )
    return lambda *_, **__: replace(calm, **changes)


def test_a_link_that_acknowledges_nothing_ends_its_connection_at_once(
    make_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued is dropped with it: the peer sees a reset, and no late bytes."""
    monkeypatch.setattr(sockets, "look", saying(outstanding=1, is_drained=False))
    monkeypatch.setattr(silence, "_SILENT_S", 0.3)
    monkeypatch.setattr(silence, "_SILENT_RTOS", 0.0)
    peer = make_peer(CONNACK_3, hangs_up=False)
    held = Held(peer.port)
    error = held.until_error()
    assert isinstance(error, LinkLost)
    assert error.cause is Loss.SILENT
    assert held.happened == ["up"]
    peer.close()
    assert peer.was_reset


def test_a_transfer_that_hears_nothing_asks_with_a_pingreq(
    make_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "look", saying())
    monkeypatch.setattr(watch, "_LOOK_S", 0.0)
    pong = bytes.fromhex("d000")
    peer = make_peer(CONNACK_3, then=pong, hangs_up=True)
    held = Held(peer.port)
    held.connection._watch.note(100_000, now=time.monotonic())
    held.until_error()
    peer.close()
    assert held.happened == ["up"]
    assert b"\xc0\x00" in peer.heard


def test_a_session_that_is_taken_over_is_told(make_peer: Callable[..., Peer]) -> None:
    held = Held(make_peer(CONNACK_5 + bytes.fromhex("e0028e00")).port, version="5")
    error = held.until_error()
    assert isinstance(error, SessionTakenOver)
    assert "'dev'" in str(error)


def test_a_broker_that_says_goodbye_is_lost(make_peer: Callable[..., Peer]) -> None:
    error = Held(make_peer(CONNACK_5 + bytes.fromhex("e0028b00")).port, version="5").until_error()
    assert isinstance(error, LinkLost)
    assert "the broker ended it" in str(error)
    assert error.cause is Loss.BROKER


def test_without_filters_the_connection_is_up_with_the_connack(
    make_peer: Callable[..., Peer],
) -> None:
    held = Held(make_peer(CONNACK_3_KNOWN, hangs_up=False).port, closes_after=1)
    assert isinstance(held.until_error(), LinkLost)
    assert held.happened == ["up"]
    assert held.connection.session_present


def test_deliveries_before_the_suback_wait_until_the_connection_is_up(
    make_peer: Callable[..., Peer],
) -> None:
    """A persistent session brings queued messages straight after CONNACK."""
    queued = bytes.fromhex("32080003") + b"a/b" + bytes.fromhex("0009") + b"x"
    suback = bytes.fromhex("9003000101")
    peer = make_peer(CONNACK_3 + queued, then=suback, hangs_up=False)
    held = Held(peer.port, filters=("a/#",), closes_after=2)
    assert isinstance(held.until_error(), LinkLost)
    assert held.happened == ["up", Delivery("a/b", b"x", 1, retain=False, mid=9, generation=7)]


def test_a_topic_that_is_no_utf8_is_delivered_as_no_topic(make_peer: Callable[..., Peer]) -> None:
    strange = bytes.fromhex("32080003") + b"\xff\xfe\xfd" + bytes.fromhex("0009") + b"x"
    suback = bytes.fromhex("9003000101")
    peer = make_peer(CONNACK_3, then=suback + strange, hangs_up=False)
    held = Held(peer.port, filters=("a/#",), closes_after=2)
    held.until_error()
    assert held.happened == ["up", Delivery("\ufffd", b"x", 1, retain=False, mid=9, generation=7)]


def test_a_refused_subscription_is_logged_with_its_filter(
    make_peer: Callable[..., Peer], caplog: pytest.LogCaptureFixture
) -> None:
    suback = bytes.fromhex("9003000180")
    peer = make_peer(CONNACK_3, then=suback, hangs_up=False)
    Held(peer.port, filters=("secret/#",), closes_after=1).until_error()
    assert "secret/#" in caplog.text


def test_the_connect_packet_keeps_the_session(make_peer: Callable[..., Peer]) -> None:
    """Neither clean session (3.1.1) nor clean start (5); MQTT 5 says how long it is kept."""
    for version, answer in (("3.1.1", CONNACK_3), ("5", CONNACK_5)):
        peer = make_peer(answer)
        Held(peer.port, version=version).until_error()
        peer.close()
        flags = peer.heard[9]
        assert not flags & 0x02
        assert flags & 0x04  # the will
        if version == "5":
            assert b"\x11" + connection.SESSION_EXPIRY_S.to_bytes(4, "big") in peer.heard


def test_a_host_that_does_not_exist_is_lost_with_its_reason() -> None:
    broker = BrokerConfig(host="no-such-host.invalid")
    login = Login(broker=broker, client_id="dev", password=None, tls=None, will=None)
    one = Connection(login, generation=1)
    with pytest.raises(LinkLost, match=r"\w") as lost:
        one.hold((), up=lambda: None, deliver=lambda _: None, stopping=threading.Event())
    assert lost.value.cause is Loss.OFFLINE
    one.release()


def test_what_a_broker_does_to_one_device_it_does_to_all(make_peer: Callable[..., Peer]) -> None:
    """Such a loss spreads the comeback: connection closed, refused by MQTT, refused by TCP."""
    closed = Held(make_peer(CONNACK_3).port).until_error()
    unavailable = Held(make_peer(bytes.fromhex("20020003")).port).until_error()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        refused = Held(sock.getsockname()[1]).until_error()
    for error in (closed, unavailable, refused):
        assert isinstance(error, LinkLost)
        assert error.cause is Loss.BROKER, error


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ECONNRESET, Loss.BROKER),
        (errno.EPIPE, Loss.BROKER),
        (errno.ETIMEDOUT, Loss.SILENT),
        (errno.EHOSTUNREACH, Loss.SILENT),
        (errno.ENETUNREACH, Loss.OFFLINE),
    ],
)
def test_the_error_of_a_socket_tells_whose_trouble_it_is(number: int, cause: Loss) -> None:
    one = Held(1).connection
    one._on_log(one._client, None, LogLevel.MQTT_LOG_ERR, f"failed: [Errno {number}] text")
    one._disconnected(ReasonCode(PacketTypes.DISCONNECT, identifier=128), by_broker=False)
    assert one._cause is cause
    one.release()


def test_publishing_over_an_ended_connection_is_lost(make_peer: Callable[..., Peer]) -> None:
    held = Held(make_peer(CONNACK_3).port)
    held.until_error()
    with pytest.raises(LinkLost):
        held.connection.publish(Publication("t", b"x"))
    with pytest.raises(LinkLost):
        held.connection.publish(Publication("t", b"x", qos=0))
    held.connection.acknowledge(1)
    held.connection.unsubscribe(["t"])
    held.connection.say_goodbye()


PUBLISH_3 = bytes.fromhex("3206 000161 0007 78")  # "x" on topic a, QoS 1, packet identifier 7


def test_what_a_known_session_still_has_comes_before_the_answer_to_subscriptions(
    make_peer: Callable[..., Peer],
) -> None:
    """It would come again and again if it had to wait for a SUBACK behind it on a slow link."""
    peer = make_peer(CONNACK_3_KNOWN, then=PUBLISH_3, hangs_up=False)
    held = Held(peer.port, filters=("a",), closes_after=2)
    held.until_error()
    up, delivery = held.happened
    assert up == "up"
    assert isinstance(delivery, Delivery)
    assert (delivery.topic, delivery.payload) == ("a", b"x")


def test_a_session_that_is_not_known_is_up_when_it_is_subscribed(
    make_peer: Callable[..., Peer],
) -> None:
    peer = make_peer(CONNACK_3, then=PUBLISH_3, hangs_up=True)
    held = Held(peer.port, filters=("a",))
    assert isinstance(held.until_error(), LinkLost)
    assert held.happened == []
