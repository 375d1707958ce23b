"""Bytes from the broker → a message with its address, or the reason why they are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aggregator.admission import Refusal
from transport import control, frame
from transport.control import DeviceStatus, EnergyReport, EvalResponse, TrainResponse
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


@dataclass(frozen=True, slots=True)
class Stepped:
    """A device has told its progress; what it says is for people, and stays unread."""


Received = (
    DeviceStatus
    | Stepped
    | EnergyReport
    | TrainResponse
    | EvalResponse
    | Manifest
    | Segment
    | AdapterWant
)


# (device, bytes of the whole packet) → the quota that it is above, None where it may come in.
Meter = Callable[[str, int], Refusal | None]
# (topic, payload) → the message there, without the signature that it must have.
Unseal = Callable[[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from a device.

    Attributes:
        client_id: The device, as the topic says and the broker has checked.
        message: None for a device status that was cleared.
        packet_bytes: The whole MQTT packet, as it was sent.
        fresh: Whether it was published just now: not retained, and not delivered once more.
        payload_bytes: What the packet carries, with a signature where there is one; of uploads.
    """

    address: Address
    client_id: str
    message: Received | None
    packet_bytes: int
    fresh: bool = True
    payload_bytes: int = 0


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


def unmetered(client_id: str, packet_bytes: int) -> Refusal | None:  # noqa: ARG001 - a `Meter`
    """Let everything in."""
    return None


def unsigned(topic: str, payload: bytes) -> bytes:  # noqa: ARG001 - an `Unseal`
    """Return the payload as it is."""
    return payload


def read(
    topics: Topics,
    topic: str,
    payload: bytes,
    *,
    qos: int,
    mqtt_version: MqttVersion,
    meter: Meter = unmetered,
    unseal: Unseal = unsigned,
    fresh: bool = True,
) -> Inbound | Unreadable | None:
    """Return what a delivery says; None where it is none of the aggregator's business.

    Args:
        topics: The federation's.
        topic: Where it was published.
        payload: Its bytes.
        qos: As it was delivered.
        mqtt_version: Of the connection.
        meter: Charges the topic's device for a message of an upload before it is unpacked.
        unseal: Takes the signature off, and raises `MessageError` where it is not right.
        fresh: Whether it was published just now, as far as the link can tell.
    """
    payload_bytes = len(payload)
    packet_bytes = publish_size(topic, payload_bytes, qos=qos, mqtt_version=mqtt_version)
    try:
        address = topics.parse(topic)
    except MessageError as error:
        return Unreadable("", error.reason, str(error), 0)
    is_upload = isinstance(address, UpManifest | UpSegment)
    if isinstance(address, UpManifest | UpSegment):
        refusal = meter(address.client_id, packet_bytes)
        if refusal is not None:
            text = f"{topic}: {packet_bytes} bytes are above what this device may send now"
            return Unreadable(address.client_id, refusal.value, text, packet_bytes)
    try:
        payload = unseal(topic, payload)
        match address:
            case DeviceTopic(client_id, "status"):
                status = control.decode(DeviceStatus, payload) if payload else None
                return Inbound(address, client_id, status, packet_bytes, fresh)
            case DeviceTopic(client_id, "progress"):
                control.check_size(payload)
                return Inbound(address, client_id, Stepped(), packet_bytes)
            case DeviceTopic(client_id, "energy") if payload:
                energy = control.decode(EnergyReport, payload)
                return Inbound(address, client_id, energy, packet_bytes)
            case Response(client_id, "train", _):
                answer = control.decode(TrainResponse, payload)
                return Inbound(address, client_id, answer, packet_bytes)
            case Response(client_id, "eval", _):
                report = control.decode(EvalResponse, payload)
                return Inbound(address, client_id, report, packet_bytes)
            case UpManifest(client_id, _):
                manifest = frame.decode(Manifest, payload)
                return Inbound(
                    address, client_id, manifest, packet_bytes, payload_bytes=payload_bytes
                )
            case UpSegment(client_id, _, _):
                segment = frame.decode(Segment, payload)
                return Inbound(
                    address, client_id, segment, packet_bytes, payload_bytes=payload_bytes
                )
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
