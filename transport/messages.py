"""Every message under `flx/`: a frozen value each, written and read by `transport.frame`.

Units and shapes stand beside each field. A message's fields are checked when it is read from bytes
(`transport.frame`), so that whoever holds a message may trust types, ranges and lengths, but not
the sender's claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PROTOCOL = 1


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """What a manifest says of one segment: its length in bytes and its SHA-256 (32 bytes)."""

    length: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How an adapter version does on a device's held-out text.

    Attributes:
        loss: Mean cross-entropy per token in nats, finite, ≥ 0.
        tokens: Tokens that were predicted, ≥ 1.
        correct: Tokens whose most probable prediction was right, 0 to tokens.
    """

    loss: float
    tokens: int
    correct: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a device says of a client update; its canonical bytes name the update.

    Attributes:
        run: The run's id, 32 hexadecimal digits.
        round_id: The round that the update was trained for, ≥ 1.
        base_version: The adapter version that training started from, ≥ 0.
        base_digest: SHA-256 of the base model, 32 bytes.
        layout_digest: SHA-256 of the layout, 32 bytes.
        client_id: The device.
        seq: The device's own count of updates, ≥ 1, never reused.
        codec: The codec's name.
        num_examples: Examples that were trained on, ≥ 1: a claim, capped by admission.
        segments: Length and SHA-256 of each segment, in the order of sending.
        train_loss: Mean training loss over the local steps in nats.
        steps: Local optimizer steps.
        train_s: Seconds of training.
        evaluation: How `base_version` does on the device's held-out text; None where it has none.
    """

    run: str
    round_id: int
    base_version: int
    base_digest: bytes
    layout_digest: bytes
    client_id: str
    seq: int
    codec: str
    num_examples: int
    segments: tuple[SegmentEntry, ...]
    train_loss: float
    steps: int
    train_s: float
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment's bytes, as the codec wrote them; topic and manifest say which."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Want:
    """The aggregator asks a device for the manifest of an update whose segments it got."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Have:
    """The aggregator has durably journaled these segments of an update.

    Attributes:
        epoch: The aggregator's epoch; lower ones are of a fenced-off aggregator.
        accepted: Indices of the journaled segments.
        total: Segments that the update has.
    """

    epoch: int
    accepted: frozenset[int]
    total: int


class ReceiptState(str, Enum):
    """How an update ended. Every state is terminal: the device may free its outbox."""

    ACCEPTED = "accepted"  # all of it is in the adapter
    PARTIAL = "partial"  # the segments named are in the adapter
    LATE = "late"  # its round closed without any of it
    REFUSED = "refused"  # it does not belong; `reason` says why


@dataclass(frozen=True, slots=True)
class Receipt:
    """The aggregator's last word on an update.

    Attributes:
        epoch: The aggregator's epoch.
        state: How it ended.
        reason: A typed reason (an identifier) for what is not ACCEPTED, else empty.
        accepted: Indices of the segments that count.
        total: Segments that the update has.
    """

    epoch: int
    state: ReceiptState
    reason: str
    accepted: frozenset[int]
    total: int


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """What the aggregator says of an adapter version, enough to build it from nothing.

    Attributes:
        run: The run's id.
        version: The adapter version; 0 is the initial adapter.
        base_digest: SHA-256 of the base model, 32 bytes.
        layout: Tensor names and shapes.
        codec: The codec of the segments; they stand for the adapter itself, not for a delta.
        segments: Length and SHA-256 of each segment.
        sha256: SHA-256 of the flat little-endian float32 adapter, 32 bytes.
        adapter_config: PEFT's adapter_config.json, as text.
    """

    run: str
    version: int
    base_digest: bytes
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    codec: str
    segments: tuple[SegmentEntry, ...]
    sha256: bytes
    adapter_config: str


@dataclass(frozen=True, slots=True)
class AdapterWant:
    """A device names what it misses of an adapter version.

    Attributes:
        missing: Indices of missing segments; None asks for the manifest and everything.
    """

    missing: frozenset[int] | None


Message = Manifest | Segment | Want | Have | Receipt | AdapterManifest | AdapterWant
