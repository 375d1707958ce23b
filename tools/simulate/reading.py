"""Messages as they travel: objects for speed, or their real bytes, read by the real readers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aggregator.coordinator import Coordinator
from aggregator.inbound import Inbound, Stepped, Unreadable, read
from tools.simulate.broker import TOPICS, Entry
from transport import control, frame
from transport.control import Progress, ServiceStatus
from transport.messages import Message, Segment
from transport.topics import UpManifest, UpSegment

# [bytes] Of a packet besides a segment's body.
PACKET_BYTES = 100


def encode(message: Any) -> bytes:
    """Return a message's real bytes."""
    if isinstance(message, Message):
        return frame.encode(message)
    if isinstance(message, ServiceStatus):
        message = replace(message, ts=0.0)
    return control.encode(message)


def read_entry(
    entry: Entry, coordinator: Coordinator, *, now: float, fresh: bool
) -> Inbound | Unreadable | None:
    """Return what a delivery says to the aggregator."""
    address, message = entry.address, entry.message
    if isinstance(message, bytes):
        return read(
            TOPICS,
            TOPICS.topic(address),
            message,
            qos=1,
            mqtt_version="5",
            meter=lambda client_id, size: coordinator.meter(client_id, size, now=now),
            fresh=fresh,
        )
    size = PACKET_BYTES
    if isinstance(address, UpManifest | UpSegment):
        size += len(message.body) if isinstance(message, Segment) else 0
        refusal = coordinator.meter(address.client_id, size, now=now)
        if refusal is not None:
            return Unreadable(address.client_id, refusal.value, "", size)
    if isinstance(message, Progress):
        message = Stepped()  # what it says is for people
    return Inbound(address, getattr(address, "client_id", ""), message, size, fresh)
