"""Bytes from the broker → a message with its address, or the reason why they are none."""

from __future__ import annotations

from dataclasses import dataclass

from transport import control, frame
from transport.control import DeviceStatus, EvalResponse, TrainResponse
from transport.errors import MessageError
from transport.messages import AdapterWant, Manifest, Segment
from transport.topics import (
    Address,
    DeviceTopic,
    ModelWant,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)
from transport.wire import MqttVersion, publish_size

Received = DeviceStatus | TrainResponse | EvalResponse | Manifest | Segment | AdapterWant


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from a device.

    Attributes:
        client_id: The device, as the topic says and the broker has checked.
        message: None for a device status that was cleared.
        packet_bytes: The whole MQTT packet, as it was sent.
    """

    address: Address
    client_id: str
    message: Received | None
    packet_bytes: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes that are no message.

    Attributes:
        client_id: The device in the topic; empty where the topic means nothing.
        reason: The typed reason.
        upload_bytes: The whole MQTT packet where it came as part of an upload, else 0.
    """

    client_id: str
    reason: str
    text: str
    upload_bytes: int


def read(
    topics: Topics, topic: str, payload: bytes, *, qos: int, mqtt_version: MqttVersion
) -> Inbound | Unreadable | None:
    """Return what a delivery says; None where it is none of the aggregator's business."""
    packet_bytes = publish_size(topic, len(payload), qos=qos, mqtt_version=mqtt_version)
    try:
        address = topics.parse(topic)
    except MessageError as error:
        return Unreadable("", error.reason, str(error), 0)
    is_upload = isinstance(address, UpManifest | UpSegment)
    try:
        match address:
            case DeviceTopic(client_id, "status"):
                status = control.decode(DeviceStatus, payload) if payload else None
                return Inbound(address, client_id, status, packet_bytes)
            case Response(client_id, "train", _):
                answer = control.decode(TrainResponse, payload)
                return Inbound(address, client_id, answer, packet_bytes)
            case Response(client_id, "eval", _):
                report = control.decode(EvalResponse, payload)
                return Inbound(address, client_id, report, packet_bytes)
            case UpManifest(client_id, _):
                manifest = frame.decode(Manifest, payload)
                return Inbound(address, client_id, manifest, packet_bytes)
            case UpSegment(client_id, _, _):
                segment = frame.decode(Segment, payload)
                return Inbound(address, client_id, segment, packet_bytes)
            case ModelWant(client_id, _):
                want = frame.decode(AdapterWant, payload)
                return Inbound(address, client_id, want, packet_bytes)
    except MessageError as error:
        upload_bytes = packet_bytes if is_upload else 0
        return Unreadable(_client_of(address), error.reason, f"{topic}: {error}", upload_bytes)
    return None


def _client_of(address: Address) -> str:
    client_id = getattr(address, "client_id", "")
    return client_id if isinstance(client_id, str) else ""
