"""A round's account, as values: what devices have sent, what is in the mean, how tensors moved.

For reports alone: the aggregator writes it in the transaction that commits the round, and never
reads it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aggregator.tensors import TensorFigures


@dataclass(slots=True)
class DeviceTraffic:
    """What one device has sent of its uploads while a round was on; `bytes_up` is all of it.

    Attributes:
        payload_bytes: What the codec wrote, of segments that were new.
        framing_bytes: Manifests that were new, and what frames and signatures add to segments.
        mqtt_bytes: Fixed header, topic, identifier and properties of packets that were new.
        repeated_bytes: Whole packets of what was held already, or came in vain for another reason.
        refused_bytes: Whole packets of what was not let in.
        packets: All of them.
        repeated_packets: Those of `repeated_bytes`.
    """

    payload_bytes: int = 0
    framing_bytes: int = 0
    mqtt_bytes: int = 0
    repeated_bytes: int = 0
    refused_bytes: int = 0
    packets: int = 0
    repeated_packets: int = 0

    @property
    def bytes_up(self) -> int:
        """All bytes."""
        parts = (self.payload_bytes, self.framing_bytes, self.mqtt_bytes)
        return sum(parts) + self.repeated_bytes + self.refused_bytes


@dataclass(frozen=True, slots=True)
class Spent:
    """What a device says that the round has taken of its power, in joules."""

    energy_j: float
    above_idle_j: float | None


@dataclass(frozen=True, slots=True)
class Contribution:
    """One update that is in the mean.

    Attributes:
        trained_for: The update's own round; less than the round where it is stale.
        weight: As `FrozenUpdate` has it: before the share that arrived is taken into account.
        examples: The device's claim.
        accepted: Segments that count, of `segments`.
        payload_bytes: Bytes of those.
        eval_loss: Of the version that training started from; None where it was not evaluated.
        norm: Of the decoded update, clipped or not.
    """

    uid: str
    client_id: str
    trained_for: int
    weight: float
    examples: int
    steps: int
    train_s: float
    train_loss: float
    eval_loss: float | None
    eval_tokens: int
    accepted: int
    segments: int
    payload_bytes: int
    norm: float
    clipped: bool


@dataclass(frozen=True, slots=True)
class RoundAccount:
    """All of it, of one round.

    Attributes:
        about: What the run is, for who has nothing but the journal.
        asked: The devices that any attempt has asked.
        traffic: Device → what it has sent since the aggregator started or the round began.
        spent: Device → its last claim.
        contributions: Sorted by uid.
        tensors: None where they were not counted.
    """

    about: Mapping[str, str | int | None] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    traffic: Mapping[str, DeviceTraffic] = field(default_factory=dict)
    spent: Mapping[str, Spent] = field(default_factory=dict)
    contributions: tuple[Contribution, ...] = ()
    tensors: TensorFigures | None = None
