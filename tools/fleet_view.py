"""What an observer knows of a fleet from its monitoring topics: a pure fold over messages."""

from __future__ import annotations

from dataclasses import dataclass, field

from transport import control, topics
from transport.errors import MessageError


@dataclass(slots=True)
class DeviceView:
    """What was last heard of one device."""

    client_id: str
    status: control.DeviceStatus | None = None
    progress: control.Progress | None = None
    telemetry: control.Telemetry | None = None
    profile: control.DeviceProfile | None = None
    energy: control.EnergyReport | None = None


@dataclass(slots=True)
class FleetView:
    """What was last heard of a fleet; `receive` folds one message in.

    Attributes:
        summaries: The summary of each closed round, by round id.
        malformed: Messages that could not be read.
    """

    names: topics.Topics
    service: control.ServiceStatus | None = None
    run: control.RunAnnouncement | None = None
    round: control.RoundStatus | None = None
    model: control.ModelStatus | None = None
    devices: dict[str, DeviceView] = field(default_factory=dict)
    summaries: dict[int, control.RoundSummary] = field(default_factory=dict)
    alerts: dict[str, control.AlertNotice] = field(default_factory=dict)
    malformed: int = 0

    def receive(self, topic: str, payload: bytes) -> None:
        """Fold in one message; what cannot be read is counted and left out."""
        try:
            self._fold(self.names.parse(topic), payload)
        except MessageError:
            self.malformed += 1

    @property
    def bytes_up(self) -> int:
        """Bytes of MQTT packets that all closed rounds took on the uplink."""
        return sum(summary.bytes_up for summary in self.summaries.values())

    @property
    def bytes_up_fp32(self) -> int:
        """What dense fp32 updates of the same participants would have taken."""
        return sum(summary.bytes_up_fp32 for summary in self.summaries.values())

    @property
    def energy_j(self) -> float | None:
        """What devices have told that all closed rounds took; None where none has."""
        told = [one.energy_j for one in self.summaries.values() if one.energy_j is not None]
        return sum(told) if told else None

    def _fold(self, address: topics.Address, payload: bytes) -> None:
        match address:
            case topics.CoordStatus():
                self.service = control.decode(control.ServiceStatus, payload)
            case topics.CoordRun():
                self.run = control.decode(control.RunAnnouncement, payload)
            case topics.RoundNow():
                self.round = control.decode(control.RoundStatus, payload)
            case topics.RoundLast():
                summary = control.decode(control.RoundSummary, payload)
                self.summaries[summary.round_id] = summary
            case topics.Model():
                self.model = control.decode(control.ModelStatus, payload)
            case topics.Alert(code):
                self._fold_alert(code, payload)
            case topics.DeviceTopic(client_id, leaf):
                self._fold_device(client_id, leaf, payload)
            case _:
                pass

    def _fold_alert(self, code: str, payload: bytes) -> None:
        if payload:
            self.alerts[code] = control.decode(control.AlertNotice, payload)
        else:
            self.alerts.pop(code, None)

    def _fold_device(self, client_id: str, leaf: str, payload: bytes) -> None:
        device = self.devices.setdefault(client_id, DeviceView(client_id))
        match leaf:
            case "status":
                device.status = control.decode(control.DeviceStatus, payload)
            case "progress":
                device.progress = control.decode(control.Progress, payload)
            case "telemetry":
                device.telemetry = control.decode(control.Telemetry, payload)
            case "energy":
                device.energy = control.decode(control.EnergyReport, payload) if payload else None
            case _:
                device.profile = control.decode(control.DeviceProfile, payload)
