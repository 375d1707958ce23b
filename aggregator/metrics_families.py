"""Every metric that the aggregator serves: its name, kind, labels and meaning, in one table.

Names follow Prometheus: the unit stands in the name and is the base unit (seconds, bytes, joules,
watts, ratios of 1), what only grows ends in `_total`. No label holds what a stranger can choose
freely, but for device names, and of those there are only so many (`MetricsConfig.device_labels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """How a metric moves."""

    GAUGE = "gauge"
    COUNTER = "counter"  # since this start of the aggregator; its name ends in `_total`


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, over all values of its labels."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"fedfstq_{name}", Kind.GAUGE, text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(f"fedfstq_{name}_total", Kind.COUNTER, text, labels)


FAMILIES = (
    # The service
    _gauge("build_info", "The aggregator's software version; always 1.", "version"),
    _gauge("run_info", "The run that is on; always 1.", "run", "codec", "downlink_codec"),
    _gauge("run_rounds", "Adapter versions that the run makes."),
    _gauge("epoch", "The number of this start of the aggregator in the run."),
    _gauge("leading", "1 while this aggregator leads, 0 while another one may."),
    _gauge("connected", "1 while the broker is reached."),
    _gauge("state", "1 for what the aggregator is doing, 0 for the other states.", "state"),
    # The open round
    _gauge("round_id", "The round that was announced last."),
    _gauge("round_deadline_seconds", "Time until the open round's deadline; 0 while none is open."),
    _gauge("round_cohort_devices", "Devices that are asked in the announced round."),
    _gauge("round_goal_updates", "Complete updates that close a round at once."),
    _gauge("round_quorum_updates", "Updates without which a deadline abandons the round."),
    _gauge("round_updates", "Updates of the announced round, by how much is here.", "state"),
    _gauge("round_stalled_devices", "Awaited devices that make no progress."),
    _gauge("round_bytes_up", "MQTT packets of uploads that came in the announced round."),
    _gauge("round_bytes_down", "MQTT packets under flx/ that were sent in the announced round."),
    # Rounds that are over
    _counter("rounds", "Rounds by how they ended.", "outcome"),
    _gauge("round_seconds", "How long the last committed round took."),
    _gauge("round_participants", "Updates in the last committed round's mean."),
    _gauge("round_energy_joules", "What devices say the last committed round took of their power."),
    _counter("updates", "Updates of committed rounds.", "state"),
    _counter("updates_stale", "Updates of earlier rounds that took part in a later one."),
    _counter("updates_dropped", "Late updates that the run's policy threw away."),
    _counter("updates_clipped", "Updates whose norm was cut to the bound."),
    _counter("energy_joules", "What devices say that committed rounds took of their power."),
    _counter("energy_above_idle_joules", "The same beyond what idling takes."),
    # Traffic
    _counter("bytes_up", "MQTT packets of uploads that reached the aggregator, repeats counted."),
    _counter("bytes_down", "MQTT packets under flx/ that the aggregator sent."),
    _counter("bytes_up_payload", "Accepted segments of committed rounds' updates, each once."),
    _counter("bytes_up_fp32", "What as many dense fp32 updates would have taken."),
    _counter("segments_received", "Segments of updates that came, repeats counted."),
    _counter("segments_accepted", "Segments of updates that were written to the journal."),
    # The adapter, and what it is worth
    _gauge("adapter_version", "The newest adapter version."),
    _gauge("adapter_bytes", "Size of the whole adapter."),
    _gauge("adapter_delta_bytes", "Size of its delta from the version before; 0 without one."),
    _gauge("adapter_chain_bytes", "Size of all published deltas that lead to it."),
    _gauge("train_loss", "Mean training loss of the last committed round, weighted by examples."),
    _gauge("eval_loss", "Mean held-out loss, weighted by tokens."),
    _gauge("eval_accuracy_ratio", "Share of held-out tokens that were predicted right."),
    _gauge("eval_tokens", "Held-out tokens that this rests on."),
    _gauge("eval_version", "The adapter version that held-out loss and accuracy speak of."),
    # What an operator should know
    _counter("refused", "What was not let in, by the typed reason.", "reason"),
    _gauge("alert", "1 for an alert that stands and that the aggregator clears itself.", "code"),
    # Devices
    _gauge("devices", "Devices by what their status says.", "state"),
    _gauge("devices_without_label", "Devices that have no series of their own."),
    _counter("answers", "Answers of devices to the question whether they train.", "answer"),
    _gauge("goodput_bytes_per_second", "Goodput that this share of devices has at most.",
           "share"),
    _gauge("device_up", "1 while a device is online.", "device"),
    _gauge("device_goodput_bytes_per_second", "A device's goodput on its uplink.", "device"),
    _gauge("device_upload_seconds", "How long a device says that its update will take.", "device"),
    _counter("device_bytes_up", "MQTT packets of a device's uploads, repeats counted.", "device"),
    _gauge("device_round_energy_joules", "What the round has taken of a device so far.", "device"),
    _gauge("device_idle_watts", "What a device says that idling takes.", "device"),
)  # fmt: skip

BY_NAME = {family.name: family for family in FAMILIES}
