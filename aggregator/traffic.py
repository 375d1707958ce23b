"""What the packets of a round's uploads were: payload, framing, MQTT's own, or in vain. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from aggregator.account import DeviceTraffic
from aggregator.outputs import JournalLate, JournalManifest, JournalSegment, JournalTraffic
from aggregator.uploads import UploadOutput, UploadRefused

# What says that a packet brought something that was not held.
_NEW = (JournalManifest, JournalSegment, JournalLate)


@dataclass(frozen=True, slots=True)
class UploadSize:
    """How large a packet of an upload was.

    Attributes:
        packet_bytes: The whole MQTT packet.
        payload_bytes: What it carried: a frame, and a signature where that is on.
    """

    packet_bytes: int = 0
    payload_bytes: int = 0


class Traffic:
    """Counts the uploads of the round that is on, per device.

    Args:
        known: Device → what the journal has of it for this round.
    """

    def __init__(self, known: Mapping[str, DeviceTraffic] | None = None) -> None:
        self._devices = {name: replace(sent) for name, sent in (known or {}).items()}
        self._unsaved: set[str] = set()

    def count(
        self,
        client_id: str,
        size: UploadSize,
        answers: Collection[UploadOutput],
        *,
        body_bytes: int = 0,
    ) -> None:
        """Count a packet that could be read, by what became of it.

        Args:
            client_id: The device.
            size: The packet's.
            answers: What `Uploads` says to it.
            body_bytes: The segment's, 0 for a manifest.
        """
        device = self._device(client_id)
        if any(isinstance(answer, _NEW) for answer in answers):
            device.payload_bytes += body_bytes
            device.framing_bytes += size.payload_bytes - body_bytes
            device.mqtt_bytes += size.packet_bytes - size.payload_bytes
        elif any(isinstance(answer, UploadRefused) for answer in answers):
            device.refused_bytes += size.packet_bytes
        else:
            device.repeated_bytes += size.packet_bytes
            device.repeated_packets += 1

    def count_unread(self, client_id: str, packet_bytes: int) -> None:
        """Count a packet that was no message, or above the device's quota."""
        self._device(client_id).refused_bytes += packet_bytes

    def unsaved(self, round_id: int) -> list[JournalTraffic]:
        """Return what the journal does not have yet; it belongs beside the round's tally."""
        names, self._unsaved = sorted(self._unsaved), set()
        return [JournalTraffic(round_id, name, replace(self._devices[name])) for name in names]

    def take(self) -> dict[str, DeviceTraffic]:
        """Return device → what it has sent, and begin anew for the next round."""
        taken, self._devices = self._devices, {}
        self._unsaved.clear()
        return taken

    def _device(self, client_id: str) -> DeviceTraffic:
        device = self._devices.setdefault(client_id, DeviceTraffic())
        self._unsaved.add(client_id)
        device.packets += 1
        return device
