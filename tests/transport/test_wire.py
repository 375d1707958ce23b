from __future__ import annotations

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from transport import limits
from transport.broker import BrokerConfig
from transport.topics import ModelSegment, Topics, UpSegment
from transport.wire import MqttVersion, publish_size


class Ruler(paho.Client):
    """A paho client that measures packets instead of sending them."""

    def __init__(self, mqtt_version: MqttVersion) -> None:
        protocol = {"3.1.1": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}
        super().__init__(CallbackAPIVersion.VERSION2, protocol=protocol[mqtt_version])
        self.measured = 0

    def measure(self, topic: str, length: int, qos: int) -> int:
        class Anything:
            def close(self) -> None: ...

        self._sock = Anything()
        self._packet_queue = self._take  # type: ignore[method-assign]
        self._send_publish(1, topic.encode(), bytes(length), qos)
        self._sock = None
        return self.measured

    def _take(self, _command: int, packet: bytes, *_rest: object) -> MQTTErrorCode:
        self.measured = len(packet)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


@pytest.mark.parametrize("mqtt_version", ["3.1.1", "5"])
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("topic", ["t", "flx/v1/fed/up/dev-1/0123/s/10", "gerät/ä"])
def test_the_size_is_that_of_the_packet_that_paho_writes(
    mqtt_version: MqttVersion, qos: int, topic: str
) -> None:
    ruler = Ruler(mqtt_version)
    for length in (0, 1, 100, 110, 120, 130, 16_360, 16_370, 16_380, 32_768, 2_097_130, 2_097_160):
        expected = ruler.measure(topic, length, qos)
        assert publish_size(topic, length, qos=qos, mqtt_version=mqtt_version) == expected


def test_each_step_of_the_length_field_is_counted() -> None:
    """Around 128, 16,384 and 2,097,152 bytes the packet grows by two."""
    for edge in (128, 16_384, 2_097_152):
        before = publish_size("t", edge - 1 - 6, qos=1)
        assert publish_size("t", edge - 6, qos=1) == before + 2


def test_every_legal_frame_fits_the_smallest_packet_limit_with_the_longest_topic() -> None:
    name = "d" * 64
    addresses = (
        UpSegment(name, "0" * 32, limits.MAX_SEGMENTS),
        ModelSegment(limits.MAX_COUNT, limits.MAX_SEGMENTS),
    )
    longest = max((Topics(name).topic(address) for address in addresses), key=len)
    assert publish_size(longest, limits.MAX_FRAME_BYTES, qos=1) <= BrokerConfig().max_packet_bytes
