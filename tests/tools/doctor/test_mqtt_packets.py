"""Packets as MQTT writes them; whatever else comes is refused, never misread."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.doctor import mqtt_packets as mqtt
from tools.doctor.mqtt_packets import (
    Ack,
    BadPacket,
    ConnAck,
    Goodbye,
    Message,
    PingAnswer,
    Reader,
    Version,
)


def _read(received: bytes, version: Version = Version.V5) -> list[mqtt.Packet]:
    return list(Reader(version).feed(received))


def test_connect_is_written_as_the_standard_says() -> None:
    assert mqtt.connect("ab", version=Version.V311, clean_start=True, keepalive_s=60) == (
        b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ab"
    )
    packet = mqtt.connect(
        "ab", version=Version.V5, clean_start=False, session_expiry_s=7, username="u", password="p"
    )
    assert packet == (
        b"\x10\x1a\x00\x04MQTT\x05\xc0\x00\x3c\x05\x11\x00\x00\x00\x07\x00\x02ab\x00\x01u\x00\x01p"
    )


def test_publish_subscribe_and_goodbye_are_written_as_the_standard_says() -> None:
    assert mqtt.publish("t", b"x", version=Version.V311, mid=5) == b"\x32\x06\x00\x01t\x00\x05x"
    assert mqtt.publish("t", b"x", version=Version.V5, mid=5) == b"\x32\x07\x00\x01t\x00\x05\x00x"
    assert mqtt.subscribe(["t"], version=Version.V311, mid=1) == b"\x82\x06\x00\x01\x00\x01t\x00"
    assert mqtt.unsubscribe(["t"], version=Version.V5, mid=1) == b"\xa2\x06\x00\x01\x00\x00\x01t"
    assert mqtt.ping() == b"\xc0\x00"
    assert mqtt.disconnect(version=Version.V311, session_expiry_s=0) == b"\xe0\x00"
    goodbye = mqtt.disconnect(version=Version.V5, session_expiry_s=0)
    assert goodbye == b"\xe0\x07\x00\x05\x11\x00\x00\x00\x00"


def test_long_packets_have_long_lengths() -> None:
    packet = mqtt.publish("t", bytes(20_000), version=Version.V311, mid=1)
    assert packet[1:4] == b"\xa5\x9c\x01"
    assert len(packet) == 4 + 20_005


def test_answers_are_read() -> None:
    assert _read(b"\x20\x02\x01\x00", Version.V311) == [ConnAck(0, session_present=True)]
    assert _read(b"\x40\x02\x00\x05") == [Ack(5, (0,))]
    assert _read(b"\x40\x03\x00\x05\x87") == [Ack(5, (0x87,))]
    assert _read(b"\x90\x05\x00\x01\x00\x00\x87") == [Ack(1, (0, 0x87))]
    assert _read(b"\x90\x03\x00\x01\x80", Version.V311) == [Ack(1, (0x80,))]
    assert _read(b"\xb0\x02\x00\x01", Version.V311) == [Ack(1, ())]
    assert _read(b"\x31\x06\x00\x01t\x00ab") == [Message("t", b"ab", retain=True)]
    assert _read(b"\x32\x07\x00\x01t\x00\x09\x00a") == [Message("t", b"a", retain=False)]
    assert _read(b"\xd0\x00\xe0\x01\x8e") == [PingAnswer(), Goodbye(0x8E)]


def test_properties_are_read_by_their_kinds() -> None:
    (answer,) = _read(_connack())
    assert isinstance(answer, ConnAck)
    assert answer.session_present
    assert answer.properties[mqtt.MAXIMUM_PACKET_SIZE] == 262_144
    assert answer.properties[mqtt.RECEIVE_MAXIMUM] == 64
    assert answer.properties[mqtt.MAXIMUM_QOS] == 0
    assert answer.properties[0x12] == "me"
    assert answer.properties[0x0B] == 129


def _connack() -> bytes:
    properties = (
        b"\x27\x00\x04\x00\x00\x21\x00\x40\x24\x00\x26\x00\x01a\x00\x01b\x12\x00\x02me\x0b\x81\x01"
    )
    body = b"\x01\x00" + bytes((len(properties),)) + properties
    return bytes((0x20, len(body))) + body


@given(st.lists(st.integers(1, 7), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_packets_may_come_in_any_pieces(cuts: list[int]) -> None:
    whole = _connack() + b"\x40\x02\x00\x05\x31\x06\x00\x01t\x00ab\xd0\x00"
    reader, found, at = Reader(Version.V5), [], 0
    for cut in [*cuts, len(whole)]:
        found += list(reader.feed(whole[at : at + cut]))
        at += cut
    assert found == _read(whole)
    assert len(found) == 4


@pytest.mark.parametrize("end", range(1, len(_connack())))
def test_half_a_packet_is_waited_for(end: int) -> None:
    assert _read(_connack()[:end]) == []


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 400",
        b"\x20\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x20\xff\xff\xff\x7f",  # 256 MiB
        b"\x20\x01\x00",
        b"\x40\x01\x00",
        b"\x20\x05\x00\x00\x09\x27\x00",  # properties longer than the packet
        b"\x20\x05\x00\x00\x02\x7f\x00",  # a property that is none
        b"\x31\x03\x00\x09t",  # a topic longer than the packet
        b"\x20\x07\x00\x00\x04\x12\x00\x09a",
        b"\x20\x08\x00\x00\x05\xff\xff\xff\xff\x01",
        b"\x90\x01\x00",
    ],
)
def test_what_is_no_mqtt_is_refused(received: bytes) -> None:
    with pytest.raises(BadPacket):
        _read(received)


@given(st.binary(max_size=60), st.sampled_from(Version))
@settings(deadline=None, max_examples=300)
def test_whatever_comes_is_read_or_refused(received: bytes, version: Version) -> None:
    try:
        _read(received, version)
    except BadPacket:
        return
