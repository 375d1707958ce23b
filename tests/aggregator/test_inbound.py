"""Every delivery becomes a message, a typed refusal, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.admission import Refusal
from aggregator.inbound import Inbound, Stepped, Unreadable, read
from transport import control, frame
from transport.control import DeviceState, DeviceStatus, EnergyReport, EvalResponse, TrainResponse
from transport.messages import AdapterWant, Segment
from transport.topics import (
    CoordStatus,
    DeviceTopic,
    ModelWant,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)
from transport.wire import publish_size

TOPICS = Topics("lab")
UID = "a" * 32


def take(address: Any, payload: Any) -> Any:
    topic = address if isinstance(address, str) else TOPICS.topic(address)
    return read(TOPICS, topic, payload, qos=1, mqtt_version="5")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (DeviceTopic("dev", "status"), DeviceStatus(DeviceState.IDLE, "s")),
        (
            DeviceTopic("dev", "energy"),
            EnergyReport("r", 1, 5.0, None, None, 0.0, 5.0, 0.0, 1.0, 0.0),
        ),
        (Response("dev", "train", "1"), TrainResponse("r", 1, accepted=True)),
        (Response("dev", "eval", "1"), EvalResponse("r", 1, 1.0, 2, 1)),
        (UpSegment("dev", UID, 3), Segment(b"bytes")),
        (ModelWant("dev", 3), AdapterWant(None)),
    ],
)
def test_each_kind_is_read_with_its_device_and_the_size_of_its_packet(
    address: Any, message: Any
) -> None:
    topic = TOPICS.topic(address)
    payload = (frame if topic.startswith("flx/") else control).encode(message)
    size = publish_size(topic, len(payload), qos=1, mqtt_version="5")
    carried = len(payload) if isinstance(address, UpManifest | UpSegment) else 0
    assert take(address, payload) == Inbound(address, "dev", message, size, payload_bytes=carried)


def test_a_manifest_is_read(update_maker: Any) -> None:
    update = update_maker(client_id="dev", run="b" * 32, round_id=1)
    inbound = take(UpManifest("dev", update.uid), frame.encode(update.manifest))
    assert inbound.message == update.manifest


def test_progress_is_a_sign_of_life_whatever_it_says() -> None:
    inbound = take(DeviceTopic("dev", "progress"), b"{not read")
    assert (inbound.client_id, inbound.message) == ("dev", Stepped())


def test_only_what_is_published_now_is_fresh() -> None:
    topic = TOPICS.topic(DeviceTopic("dev", "status"))
    for fresh in (True, False):
        assert read(TOPICS, topic, b"", qos=1, mqtt_version="5", fresh=fresh).fresh is fresh


def test_a_cleared_energy_is_nothing() -> None:
    assert take(DeviceTopic("dev", "energy"), b"") is None


def test_a_cleared_status_is_a_message_as_well() -> None:
    inbound = take(DeviceTopic("dev", "status"), b"")
    assert (inbound.client_id, inbound.message) == ("dev", None)


@pytest.mark.parametrize(
    "address", [CoordStatus(), DeviceTopic("dev", "telemetry"), Response("dev", "ping", "1")]
)
def test_what_is_for_others_is_nothing(address: Any) -> None:
    assert take(address, b"whatever") is None


def test_a_topic_that_means_nothing_is_unreadable() -> None:
    unreadable = take("flx/v1/lab/up/dev/short/m", b"")
    assert (unreadable.client_id, unreadable.reason, unreadable.upload_bytes) == ("", "topic", 0)


def test_bytes_that_are_no_message_name_their_device_and_reason() -> None:
    unreadable = take(UpManifest("dev", UID), b"\x09\x01")
    assert isinstance(unreadable, Unreadable)
    assert (unreadable.client_id, unreadable.reason) == ("dev", "version")
    assert unreadable.upload_bytes > 0
    assert take(Response("dev", "train", "1"), b"{").upload_bytes == 0


def test_every_prefix_of_a_manifest_is_unreadable(update_maker: Any) -> None:
    update = update_maker(client_id="dev", run="b" * 32, round_id=1)
    payload = frame.encode(update.manifest)
    for end in range(len(payload)):
        assert isinstance(take(UpManifest("dev", update.uid), payload[:end]), Unreadable)


@pytest.mark.parametrize("address", [UpManifest("dev", UID), UpSegment("dev", UID, 3)])
def test_a_quota_keeps_an_upload_out_before_it_is_unpacked(address: Any) -> None:
    topic, payload = TOPICS.topic(address), b"no frame at all"
    size = publish_size(topic, len(payload), qos=1, mqtt_version="5")
    asked: list[Any] = []

    def meter(client_id: str, packet_bytes: int) -> Refusal:
        asked.append((client_id, packet_bytes))
        return Refusal.QUOTA_RATE

    refused = read(TOPICS, topic, payload, qos=1, mqtt_version="5", meter=meter)
    assert isinstance(refused, Unreadable)
    assert (refused.client_id, refused.reason) == ("dev", "quota-rate")
    assert refused.upload_bytes == size
    assert asked == [("dev", size)]


def test_nothing_but_uploads_is_metered() -> None:
    def meter(client_id: str, packet_bytes: int) -> Refusal:
        raise AssertionError((client_id, packet_bytes))

    topic = TOPICS.topic(ModelWant("dev", 3))
    assert read(
        TOPICS, topic, frame.encode(AdapterWant(None)), qos=1, mqtt_version="5", meter=meter
    )
