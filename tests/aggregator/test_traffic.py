from __future__ import annotations

from typing import Any

import pytest

from aggregator.account import DeviceTraffic
from aggregator.outputs import (
    JournalLate,
    JournalManifest,
    JournalSegment,
    JournalTraffic,
    Publish,
)
from aggregator.traffic import Traffic, UploadSize
from aggregator.uploads import UploadRefused
from transport.messages import Receipt, ReceiptState, Want
from transport.topics import Down

UID = "0" * 32
WANT = Publish(Down("a", UID), Want(1))


def test_a_new_segment_is_payload_framing_and_mqtt() -> None:
    traffic = Traffic()
    traffic.count("a", UploadSize(150, 110), [JournalSegment(UID, 0, b"x" * 100)], body_bytes=100)
    (device,) = traffic.take().values()
    parts = (device.payload_bytes, device.framing_bytes, device.mqtt_bytes)
    assert (parts, device.bytes_up, device.packets) == ((100, 10, 40), 150, 1)


def test_a_new_manifest_is_framing_even_where_it_is_late(update_maker: Any) -> None:
    traffic = Traffic()
    manifest = update_maker(client_id="a", run="0" * 32, round_id=1).manifest
    late = Receipt(1, ReceiptState.LATE, "late", frozenset(), 3)
    for answer in (JournalManifest(UID, manifest), JournalLate(UID, "a", 1, 1, late)):
        traffic.count("a", UploadSize(150, 110), [answer])
    (device,) = traffic.take().values()
    assert (device.framing_bytes, device.mqtt_bytes, device.repeated_bytes) == (220, 80, 0)


@pytest.mark.parametrize("answers", [[], [WANT]])
def test_what_brings_nothing_new_was_sent_again(answers: list[Any]) -> None:
    traffic = Traffic()
    traffic.count("a", UploadSize(150, 110), answers, body_bytes=100)
    assert traffic.take() == {"a": DeviceTraffic(repeated_bytes=150, packets=1, repeated_packets=1)}


def test_what_is_refused_or_cannot_be_read_is_refused_whole() -> None:
    traffic = Traffic()
    traffic.count("a", UploadSize(150, 110), [UploadRefused("a", "codec", "")], body_bytes=100)
    traffic.count_unread("a", 7)
    assert traffic.take() == {"a": DeviceTraffic(refused_bytes=157, packets=2)}


def test_what_the_journal_does_not_have_is_told_once_and_gone_on_from() -> None:
    traffic = Traffic({"a": DeviceTraffic(repeated_bytes=3, packets=1, repeated_packets=1)})
    assert traffic.unsaved(4) == []
    traffic.count_unread("a", 7)
    traffic.count_unread("b", 5)
    first, second = traffic.unsaved(4)
    sent = DeviceTraffic(repeated_bytes=3, refused_bytes=7, packets=2, repeated_packets=1)
    assert first == JournalTraffic(4, "a", sent)
    assert (second.client_id, second.sent.refused_bytes) == ("b", 5)
    assert traffic.unsaved(4) == []
    traffic.count_unread("a", 7)
    assert first.sent == sent  # what was told stays as it is
    traffic.take()
    assert traffic.unsaved(5) == []


def test_each_round_begins_at_nothing() -> None:
    traffic = Traffic()
    traffic.count_unread("a", 7)
    traffic.take()
    assert traffic.take() == {}
