"""Everything that the session can ask of the world around it: one frozen value per effect.

Sending an update's bytes is asked for in the transfer's own words: `SendManifest` and `SendSegment`
of `transport.transfer` pass through the session as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agent.pauses import OperatorHold
from agent.tasks import LayoutRows, TrainerHello
from transport.control import (
    DeviceState,
    EvalCommand,
    EvalResponse,
    OperatorAction,
    OperatorResponse,
    Progress,
    RunAnnouncement,
    TrainCommand,
    TrainResponse,
)
from transport.messages import AdapterManifest, Manifest, Receipt
from transport.transfer import SendManifest, SendSegment


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter version that this device holds, bit-equal to the aggregator's.

    Attributes:
        base_digest: SHA-256 of the base model, hexadecimal.
        layout: Tensor names and dimensions.
        adapter_config: PEFT's adapter_config.json, as text.
        file: Little-endian float32, flat, in layout order.
    """

    run: str
    version: int
    base_digest: str
    layout: LayoutRows
    adapter_config: str
    file: Path


@dataclass(frozen=True, slots=True)
class Upload:
    """One update that is durable here and has no receipt yet."""

    uid: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the disk still knows of a device's past when its agent starts.

    Attributes:
        goodput_bps: Bits per second of accepted segments; None before any was measured.
        train_s: Seconds that training for a round of this run takes; None before the first.
    """

    run: str | None = None
    epoch: int = 0
    adapters: tuple[Adapter, ...] = ()
    uploads: tuple[Upload, ...] = ()
    settled: frozenset[int] = frozenset()
    goodput_bps: float | None = None
    train_s: float | None = None


@dataclass(frozen=True, slots=True)
class PublishStatus:
    """Tell what the device is doing."""

    state: DeviceState
    round_id: int
    reason: str

    @property
    def words(self) -> str:
        """What it says to people: "training round 12", "paused: on battery"."""
        text = self.state.value.replace("-", " ")
        text += f" round {self.round_id}" if self.round_id else ""
        return f"{text}: {self.reason}" if self.reason else text


@dataclass(frozen=True, slots=True)
class PublishProgress:
    """Tell how far the task or the upload is; nobody waits for it."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class PublishProfile:
    """Tell what the device and its trainer are."""

    hello: TrainerHello


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer a command."""

    response: TrainResponse | EvalResponse


@dataclass(frozen=True, slots=True)
class AnswerOperator:
    """Answer an operator's command."""

    action: OperatorAction
    command_id: str
    response: OperatorResponse


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Listen to the frames of one adapter version, or of its delta from the one before."""

    version: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Listen to that adapter version no longer."""

    version: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class PublishWant:
    """Name what is missing of an adapter version; None asks for everything."""

    version: int
    missing: frozenset[int] | None
    delta: bool = False


@dataclass(frozen=True, slots=True)
class StoreAdapter:
    """Decode, check and keep an adapter version; `adapter_stored` or `adapter_refused` follows.

    Attributes:
        base: What the segments are a delta from; None where they are the adapter itself.
    """

    run: RunAnnouncement
    manifest: AdapterManifest
    bodies: tuple[bytes, ...]
    base: Adapter | None = None


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Give the trainer a training task, or the same one again."""

    task_id: str
    command: TrainCommand
    run: RunAnnouncement
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Give the trainer an evaluation task, or the same one again."""

    task_id: str
    command: EvalCommand
    run: RunAnnouncement
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class EndTrainer:
    """End the trainer, which hangs; its loss is told as any other is."""


@dataclass(frozen=True, slots=True)
class CommitPayload:
    """Enter a payload file into the outbox; `committed` or `task_failed` follows."""

    task_id: str
    payload_file: Path


@dataclass(frozen=True, slots=True)
class SettleUpdate:
    """Free the outbox of an update as its receipt says."""

    uid: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class BeginRun:
    """Clear what is left over from another run."""

    run: str


@dataclass(frozen=True, slots=True)
class RememberEpoch:
    """Keep the highest epoch of the run's aggregator over restarts."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RememberGoodput:
    """Keep the goodput that is planned with over restarts."""

    bits_per_second: float


@dataclass(frozen=True, slots=True)
class RememberTraining:
    """Keep the seconds that training for a round of this run takes over restarts."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RememberHold:
    """Keep what an operator said over restarts; None forgets it."""

    hold: OperatorHold | None


Output: TypeAlias = (
    PublishStatus
    | PublishProgress
    | PublishProfile
    | Respond
    | AnswerOperator
    | Subscribe
    | Unsubscribe
    | PublishWant
    | StoreAdapter
    | StartTraining
    | StartEvaluation
    | EndTrainer
    | CommitPayload
    | SettleUpdate
    | BeginRun
    | RememberEpoch
    | RememberGoodput
    | RememberTraining
    | RememberHold
    | SendManifest
    | SendSegment
)
