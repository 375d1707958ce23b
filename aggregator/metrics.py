"""What the aggregator hears and decides, folded into numbers for Prometheus.

Pure: `Metrics` is told of messages and outputs, and `sample` returns an immutable picture that may
go to another thread. Counters begin at 0 with each start, which Prometheus expects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aggregator.cohort import MAX_DEVICES
from aggregator.inbound import Inbound, Unreadable
from aggregator.metrics_families import BY_NAME, FAMILIES, Family
from aggregator.outputs import Commit, JournalSegment, Output, Publish, Reopen
from transport.control import (
    AlertNotice,
    DeviceState,
    DeviceStatus,
    EnergyReport,
    ModelStatus,
    RoundPhase,
    RoundStatus,
    RoundSummary,
    RunAnnouncement,
    ServiceState,
    ServiceStatus,
    TrainResponse,
)
from transport.messages import Segment
from transport.topics import Alert, UpManifest, UpSegment

# [s] A turn of the loop takes at most half a second, and a commit to a slow card some; the unit's
# watchdog kills after the same time.
FRESH_S = 40.0
# Reasons and codes are typed, and far fewer than this.
MAX_CODES = 64
REFUSED = "refused-"

_SHARES = (0.1, 0.5, 0.9)
_GONE = frozenset({DeviceState.OFFLINE, DeviceState.LOST})
_BITS_PER_BYTE = 8

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One metric at one moment: label values, in the order of its labels, and the number."""

    family: Family
    samples: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of the service's loop.

    Attributes:
        beat_at: When it last came around, monotonic seconds.
        leads: Whether this aggregator leads.
        words: What it does.
    """

    beat_at: float
    leads: bool
    words: str

    def verdict(self, now: float) -> tuple[bool, str]:
        """Return whether the service does its work, and one line on it."""
        age_s = now - self.beat_at
        if age_s > FRESH_S:
            return False, f"the loop has not come around for {age_s:.0f} s"
        return self.leads, self.words


@dataclass(slots=True)
class _Device:
    state: DeviceState | None = None
    goodput: float | None = None  # bytes per second


@dataclass(slots=True)
class _Values:
    """Label values → number, for each metric."""

    of: dict[str, dict[Labels, float]] = field(
        default_factory=lambda: {family.name: {} for family in FAMILIES}
    )

    def set(self, name: str, value: float | None, *labels: str) -> None:
        """Let a metric be this; None takes it away."""
        name = f"fedfstq_{name}"
        assert len(labels) == len(BY_NAME[name].labels), name
        if value is None:
            self.of[name].pop(labels, None)
        else:
            self.of[name][labels] = float(value)

    def add(self, name: str, value: float, *labels: str) -> None:
        """Let a counter grow."""
        name = f"fedfstq_{name}_total"
        assert len(labels) == len(BY_NAME[name].labels), name
        values = self.of[name]
        values[labels] = values.get(labels, 0.0) + value

    def clear(self, name: str) -> None:
        """Take all values of a metric away."""
        self.of[f"fedfstq_{name}"].clear()


class Metrics:
    """Keeps one aggregator's numbers.

    Args:
        device_labels: How many devices have series of their own.
    """

    def __init__(self, *, device_labels: int) -> None:
        self._most_labelled = device_labels
        self._values = _Values()
        self._devices: dict[str, _Device] = {}
        self._labelled: set[str] = set()
        self._deadline: float | None = None
        self._codes: set[str] = set()
        self._is_connected = False
        self._has_new_goodput = False
        for name in ("bytes_up", "bytes_down", "bytes_up_payload", "bytes_up_fp32", "updates_stale",
                     "updates_dropped", "updates_clipped", "segments_received",
                     "segments_accepted"):  # fmt: skip
            self._values.add(name, 0)
        for state in ("complete", "partial", "late"):
            self._values.add("updates", 0, state)
        for outcome in ("committed", "abandoned", "reopened"):
            self._values.add("rounds", 0, outcome)
        for answer in ("accepted", "declined"):
            self._values.add("answers", 0, answer)

    # What comes ---------------------------------------------------------------------------------

    def received(self, inbound: Inbound | Unreadable) -> None:
        """Take what a device has said."""
        if isinstance(inbound, Unreadable):
            self._values.add("bytes_up", inbound.upload_bytes)
            return
        if isinstance(inbound.address, UpManifest | UpSegment):
            self._values.add("bytes_up", inbound.packet_bytes)
            if inbound.client_id in self._labelled:
                self._values.add("device_bytes_up", inbound.packet_bytes, inbound.client_id)
        match inbound.message:
            case Segment():
                self._values.add("segments_received", 1)
            case None:
                self._forget(inbound.client_id)
            case DeviceStatus() as status:
                self._status(inbound.client_id, status)
            case TrainResponse() as answer:
                self._answer(inbound.client_id, answer)
            case EnergyReport() as report if inbound.client_id in self._labelled:
                self._values.set("device_round_energy_joules", report.energy_j, inbound.client_id)
                self._values.set("device_idle_watts", report.idle_w, inbound.client_id)

    def _device(self, client_id: str) -> _Device | None:
        device = self._devices.get(client_id)
        if device is None and len(self._devices) < MAX_DEVICES:
            device = self._devices[client_id] = _Device()
            if len(self._labelled) < self._most_labelled:
                self._labelled.add(client_id)
        return device

    def _status(self, client_id: str, status: DeviceStatus) -> None:
        device = self._device(client_id)
        if device is None:
            return
        device.state = status.state
        if client_id in self._labelled:
            self._values.set("device_up", status.state not in _GONE, client_id)

    def _answer(self, client_id: str, answer: TrainResponse) -> None:
        self._values.add("answers", 1, "accepted" if answer.accepted else "declined")
        device = self._device(client_id)
        if device is None or not answer.accepted:
            return
        bits = answer.goodput_bps
        device.goodput = None if bits is None else bits / _BITS_PER_BYTE
        self._has_new_goodput = True
        if client_id in self._labelled:
            self._values.set("device_goodput_bytes_per_second", device.goodput, client_id)
            self._values.set("device_upload_seconds", answer.upload_s, client_id)

    def _forget(self, client_id: str) -> None:
        self._devices.pop(client_id, None)
        self._has_new_goodput = True
        if client_id in self._labelled:
            self._labelled.remove(client_id)
            for family in FAMILIES:
                if family.labels == ("device",):
                    self._values.of[family.name].pop((client_id,), None)

    # What is decided ----------------------------------------------------------------------------

    def decided(self, outputs: Iterable[object], *, now: float) -> None:
        """Take what the coordinator has decided; what is none of its `Output`s means nothing."""
        for output in outputs:
            if isinstance(output, Output):
                self._decided(output, now=now)

    def _decided(self, output: Output, *, now: float) -> None:
        match output:
            case JournalSegment():
                self._values.add("segments_accepted", 1)
            case Commit():
                self._committed(output.summary)
            case Reopen():
                self._values.add("rounds", 1, "reopened")
            case Publish(Alert(code), message):
                self._alert(code, message)
            case Publish(_, RoundStatus() as status):
                self._round(status, now=now)
            case Publish(_, RoundSummary() as summary):
                self._last_round(summary)
            case Publish(_, ModelStatus() as model):
                self._model(model)
            case Publish(_, RunAnnouncement() as run):
                self._run(run)
            case Publish(_, ServiceStatus() as status):
                self._service(status)

    def sent(self, packet_bytes: int) -> None:
        """Count what was published under `flx/`."""
        self._values.add("bytes_down", packet_bytes)

    def turned(self, *, leads: bool, is_connected: bool) -> None:
        """Note what the link is like; with a connection goes what was known of who is online."""
        self._values.set("leading", leads)
        self._values.set("connected", is_connected)
        if self._is_connected and not is_connected:
            for device in self._devices.values():
                device.state = None
            self._values.clear("device_up")
        self._is_connected = is_connected

    def _service(self, status: ServiceStatus) -> None:
        self._values.clear("build_info")
        self._values.set("build_info", 1, status.version)
        self._values.set("epoch", status.epoch)
        for state in ServiceState:
            self._values.set("state", state is status.state, state.value)

    def _run(self, run: RunAnnouncement) -> None:
        self._values.clear("run_info")
        self._values.set("run_info", 1, run.run, run.codec, run.downlink_codec)
        self._values.set("run_rounds", run.rounds)

    def _round(self, status: RoundStatus, *, now: float) -> None:
        is_open = status.phase is RoundPhase.OPEN
        self._deadline = now + status.deadline_s if is_open else None
        if status.phase is RoundPhase.ABANDONED:
            self._values.add("rounds", 1, "abandoned")
        for name, value in (
            ("round_id", status.round_id),
            ("round_cohort_devices", status.cohort),
            ("round_goal_updates", status.goal),
            ("round_quorum_updates", status.quorum),
            ("round_stalled_devices", status.stalled if is_open else 0),
            ("round_bytes_up", status.bytes_up),
            ("round_bytes_down", status.bytes_down),
        ):
            self._values.set(name, value)
        self._values.set("round_updates", status.complete, "complete")
        self._values.set("round_updates", status.partial, "partial")
        self._values.set("round_updates", status.late, "late")

    def _committed(self, summary: RoundSummary) -> None:
        self._values.add("rounds", 1, "committed")
        for name, value in (
            ("bytes_up_payload", summary.bytes_up_payload),
            ("bytes_up_fp32", summary.bytes_up_fp32),
            ("updates_stale", summary.stale),
            ("updates_dropped", summary.dropped),
            ("updates_clipped", summary.clipped),
        ):
            self._values.add(name, value)
        if summary.energy_j is not None:
            self._values.add("energy_joules", summary.energy_j)
        if summary.energy_above_idle_j is not None:
            self._values.add("energy_above_idle_joules", summary.energy_above_idle_j)
        self._values.add("updates", summary.complete, "complete")
        self._values.add("updates", summary.partial, "partial")
        self._values.add("updates", summary.late, "late")

    def _last_round(self, summary: RoundSummary) -> None:
        self._values.set("round_seconds", summary.seconds)
        self._values.set("round_participants", summary.participants)
        self._values.set("round_energy_joules", summary.energy_j)
        self._values.set("train_loss", summary.train_loss)
        if summary.eval_loss is not None:
            self._evaluated(summary, version=summary.eval_version)

    def _model(self, model: ModelStatus) -> None:
        self._values.set("adapter_version", model.version)
        self._values.set("adapter_bytes", model.bytes)
        self._values.set("adapter_delta_bytes", model.delta_bytes)
        self._values.set("adapter_chain_bytes", model.chain_bytes)
        if model.eval_loss is not None:
            self._evaluated(model, version=model.version)

    def _evaluated(self, result: RoundSummary | ModelStatus, *, version: int) -> None:
        # The older one comes again after each connection, behind the newer.
        if version < self._values.of["fedfstq_eval_version"].get((), -1.0):
            return
        self._values.set("eval_version", version)
        self._values.set("eval_loss", result.eval_loss)
        self._values.set("eval_accuracy_ratio", result.eval_accuracy)
        self._values.set("eval_tokens", result.eval_tokens)

    def _alert(self, code: str, message: object) -> None:
        if code not in self._codes and len(self._codes) >= MAX_CODES:
            return
        self._codes.add(code)
        if not code.startswith(REFUSED):
            self._values.set("alert", None if message is None else 1, code)
        elif isinstance(message, AlertNotice):
            # The notice counts all since the start, and comes at most once a second.
            reason = code.removeprefix(REFUSED)
            self._values.of["fedfstq_refused_total"][(reason,)] = float(message.count)

    # What is told -------------------------------------------------------------------------------

    def sample(self, now: float) -> tuple[Sampled, ...]:
        """Return all metrics as they are at this moment."""
        left_s = 0.0 if self._deadline is None else max(0.0, self._deadline - now)
        self._values.set("round_deadline_seconds", left_s)
        counts = dict.fromkeys(DeviceState, 0)
        for device in self._devices.values():
            if device.state is not None:
                counts[device.state] += 1
        for state, count in counts.items():
            self._values.set("devices", count, state.value)
        self._values.set("devices_without_label", len(self._devices) - len(self._labelled))
        if self._has_new_goodput:
            self._has_new_goodput = False
            self._shares()
        return tuple(
            Sampled(family, tuple(self._values.of[family.name].items())) for family in FAMILIES
        )

    def _shares(self) -> None:
        told = sorted(
            device.goodput for device in self._devices.values() if device.goodput is not None
        )
        for share in _SHARES:
            value = told[min(len(told) - 1, int(share * len(told)))] if told else None
            self._values.set("goodput_bytes_per_second", value, str(share))
