"""A session's faults: silence, nonsense, and a broker that ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tools.doctor import mqtt_session
from tools.doctor.mqtt_packets import Version
from tools.doctor.mqtt_session import Session, SessionEnded

CONNACK = b"\x20\x03\x00\x00\x00"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Session]]:
    """Makes a session whose other side sends these bytes, and then closes or stays silent."""
    monkeypatch.setattr(mqtt_session, "ANSWER_S", 0.2)
    ends: list[socket.socket] = []

    def make(*answers: bytes, closes: bool = False) -> Session:
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        theirs.sendall(b"".join(answers))
        if closes:
            theirs.shutdown(socket.SHUT_WR)
        ends.append(ours)
        return Session(ours, version=Version.V5)

    yield make
    for end in ends:
        end.close()


def test_a_broker_that_says_nothing_is_given_up(session: Callable[..., Session]) -> None:
    with pytest.raises(SessionEnded, match="did not answer"):
        session().connect("x", clean_start=True)


def test_a_broker_that_closes_is_told(session: Callable[..., Session]) -> None:
    with pytest.raises(SessionEnded, match="closed the connection"):
        session(closes=True).connect("x", clean_start=True)


def test_a_broker_that_speaks_something_else_is_told(session: Callable[..., Session]) -> None:
    with pytest.raises(SessionEnded, match="does not speak MQTT"):
        session(b"HTTP/1.1 400 Bad Request\r\n").connect("x", clean_start=True)


def test_the_reason_for_an_end_is_kept(session: Callable[..., Session]) -> None:
    one = session(CONNACK, b"\xe0\x02\x95\x00")
    one.connect("x", clean_start=True)
    with pytest.raises(SessionEnded) as ended:
        one.publish("t", b"x")
    assert ended.value.code == 0x95


def test_deliveries_are_kept_while_an_answer_is_awaited(session: Callable[..., Session]) -> None:
    one = session(CONNACK, b"\x31\x06\x00\x01t\x00ab", b"\x40\x03\x00\x01\x87")
    one.connect("x", clean_start=True)
    assert one.publish("t", b"x") == 0x87
    assert [message.topic for message in one.received] == ["t"]
    one.forget()
    assert one.received == []


def test_a_connection_that_the_broker_has_ended_is_not_alive(
    session: Callable[..., Session],
) -> None:
    one = session(CONNACK, closes=True)
    one.connect("x", clean_start=True)
    assert not one.is_alive()
    one.leave(keep_session=True)
    one.close()  # a second time does no harm


def test_a_write_that_fails_ends_the_session() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    one = Session(ours, version=Version.V5)
    with pytest.raises(SessionEnded, match="the connection broke"):
        one.connect("x", clean_start=True)
    one.close()


def test_what_was_said_before_a_failed_write_is_heard() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"\xe0\x02\x8e\x00")
    theirs.shutdown(socket.SHUT_RD)
    one = Session(ours, version=Version.V5)
    with pytest.raises(SessionEnded) as ended:
        one.connect("x", clean_start=True)
    assert ended.value.code == 0x8E
    theirs.close()
    one.close()
