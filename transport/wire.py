"""How many bytes a publication takes on the wire: the one place that every limit asks."""

from __future__ import annotations

from typing import Literal

MqttVersion = Literal["3.1.1", "5"]


def publish_size(
    topic: str, payload_length: int, *, qos: int, mqtt_version: MqttVersion = "5"
) -> int:
    """Return the bytes of the whole PUBLISH packet, without MQTT 5 properties.

    Args:
        topic: The topic's text.
        payload_length: Bytes of payload.
        qos: 0 or 1; with 1 the packet has an identifier.
        mqtt_version: MQTT 5 adds the length of its properties, a zero.

    Source: MQTT 3.1.1 and 5.0, sections 2.1 to 2.2 and 3.3.
    """
    remaining = 2 + len(topic.encode()) + payload_length
    if qos > 0:
        remaining += 2
    if mqtt_version == "5":
        remaining += 1
    return 1 + _varint_size(remaining) + remaining


def _varint_size(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)
