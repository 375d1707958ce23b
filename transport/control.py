"""Every JSON message under `fl/`: flat, numeric where it can be, units in the names.

People and monitoring read these; commands to devices travel here as well, so that an operator sees
who was asked to do what. Unknown keys are ignored (newer writers), missing or wrong ones refused.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from transport.errors import MalformedMessage, OversizedMessage

# The longest legitimate message is a run announcement of some 2 KB; more is an attack or a bug.
MAX_JSON_BYTES = 64 * 1024

_STRICT = ConfigDict(extra="ignore", allow_inf_nan=False, strict=True)


class DeviceState(str, Enum):
    """What a device is doing."""

    IDLE = "idle"
    FETCHING = "fetching"
    TRAINING = "training"
    UPLOADING = "uploading"
    AWAITING_RECEIPT = "awaiting-receipt"
    PAUSED = "paused"
    OFFLINE = "offline"  # said goodbye
    LOST = "lost"  # said by the last will


class ServiceState(str, Enum):
    """What the aggregator is doing."""

    STARTING = "starting"  # it asks whether another one leads; never retained
    WAITING = "waiting"  # for enough devices
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    OFFLINE = "offline"
    LOST = "lost"


class OperatorAction(str, Enum):
    """What an operator may ask of a device."""

    PING = "ping"  # answer
    PAUSE = "pause"  # take no new task until resumed, also after a restart
    DRAIN = "drain"  # the same, to be switched off once nothing waits
    RESUME = "resume"  # take tasks again
    EVALUATE = "evaluate"  # evaluate the newest adapter version now; the result is an EvalResponse


class Outcome(str, Enum):
    """What became of an operator's command."""

    OK = "ok"
    REFUSED = "refused"
    EXPIRED = "expired"


class RoundPhase(str, Enum):
    """How far a round is."""

    OPEN = "open"
    CLOSED = "closed"
    ABANDONED = "abandoned"  # the quorum was not reached; the same round is opened again


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TrainingPlan:
    """How every device of a run trains: the same for all, so that rounds can be compared.

    Attributes:
        local_steps: Optimizer steps per round.
        batch_size: Examples per step and accumulation step.
        accumulation_steps: Backward passes per optimizer step.
        max_tokens: Tokens at which an example is cut.
        learning_rate: AdamW's.
        weight_decay: AdamW's.
        clip_norm: Gradient norm at which a step is clipped; 0 turns clipping off.
        mask: Token mask for the loss: "off", "hard" (top ratio) or "soft" (weights).
        mask_interval: Steps between refreshes of the token scores (the paper's H).
        token_ratio: Share of tokens that a mask keeps (the paper's r_tok).
        score_decay: EMA decay of token scores and Fisher (the paper's rho).
        gradient_checkpointing: Recompute activations to save memory.
        eval_examples: Held-out examples that a device evaluates per adapter version; 0 turns
            federated evaluation off.
    """

    local_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 1
    max_tokens: Annotated[int, Field(ge=2, le=1 << 20)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    mask: Literal["off", "hard", "soft"] = "off"
    mask_interval: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    token_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    score_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    gradient_checkpointing: bool = False
    eval_examples: Annotated[int, Field(ge=0, le=1_000_000)] = 64


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class RunAnnouncement:
    """The run that is on: what a device must know before it can take part (retained).

    Attributes:
        error_feedback: Devices keep what the codec dropped for their next update.
        residual_decay: What a residual is multiplied by when an update leaves it behind.
        downlink_codec: The codec of the delta from each adapter version to the next, which a device
            that holds the one before may fetch instead of the whole; "" where there are none.
    """

    run: str
    base_model: str
    base_digest: str
    layout_digest: str
    codec: str
    rounds: int
    segment_bytes: int
    plan: TrainingPlan
    error_feedback: bool = False
    residual_decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    downlink_codec: str = ""


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class ServiceStatus:
    """What the aggregator is doing (retained, last will).

    Attributes:
        session: Random per start of the aggregator.
        run: The run that it leads.
        epoch: Its start's number in that run: of two aggregators that hold the same version of it,
            the lower one is fenced off.
        adapter_version: The newest adapter version that it holds; -1 where it does not say.
        adapter_sha256: That version's digest, as in ModelStatus.
    """

    state: ServiceState
    session: str
    version: str
    reason: str = ""
    ts: float = 0.0
    run: str = ""
    epoch: int = 0
    adapter_version: int = -1
    adapter_sha256: str = ""


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class RoundStatus:
    """The open round (retained); its bytes are counted as in `RoundSummary`.

    Attributes:
        stalled: Devices that are awaited and make no progress; the alert `stalled` names them.
    """

    run: str
    round_id: int
    phase: RoundPhase
    deadline_s: float
    cohort: int
    goal: int
    quorum: int
    complete: int
    partial: int
    late: int
    bytes_up: int
    bytes_down: int
    stalled: int = 0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class RoundSummary:
    """What the last round gave and cost (retained).

    Attributes:
        version: The adapter version that it made.
        eval_version: The adapter version that `eval_loss` speaks of (the one trained from).
        eval_loss: Mean held-out loss over devices, weighted by tokens; None without evaluations.
        eval_accuracy: Share of held-out tokens predicted right, weighted alike.
        train_loss: Mean training loss, weighted by examples.
        bytes_up: Whole MQTT PUBLISH packets (header, topic and frame, after zstd) with a manifest
            or a segment that reached the aggregator from the last commit to this one; repeats and
            refused ones counted. Not counted: acknowledgements and other MQTT packets, TLS, TCP,
            what was lost on the way, and what came between the last journal entry and a crash.
        bytes_up_payload: Segments of the included updates that were accepted, each once, as the
            codec wrote them: with their 32-byte headers, before zstd, without frame and topic. It
            may be above `bytes_up` where zstd saves more than topics and repeats cost.
        bytes_up_fp32: What the segments of as many `fp32` updates take, counted alike: before zstd,
            without frames, topics, manifests and repeats.
        bytes_down: Whole MQTT PUBLISH packets under `flx/` that the aggregator sent in that time:
            adapter versions, retained and repeated, and answers to devices. Each is counted once,
            however many devices the broker gives it to.
        refused: Reason → count of what was not let in.
        stale: Updates of earlier rounds among the participants.
        dropped: Late updates that the run's policy threw away.
        clipped: Updates whose norm was cut to the bound.
        energy_j: What the devices that were asked say the round has taken, up to their last word
            before the commit; None where none of them measures it.
        energy_above_idle_j: The same beyond idling; None unless all of them know what idling takes.
        energy_devices: How many devices said so.
    """

    run: str
    round_id: int
    version: int
    participants: int
    complete: int
    partial: int
    late: int
    seconds: float
    bytes_up: int
    bytes_up_payload: int
    bytes_up_fp32: int
    bytes_down: int
    train_loss: float | None
    eval_version: int
    eval_loss: float | None
    eval_accuracy: float | None
    eval_tokens: int
    refused: dict[str, int]
    stale: int = 0
    dropped: int = 0
    clipped: int = 0
    energy_j: float | None = None
    energy_above_idle_j: float | None = None
    energy_devices: int = 0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class ModelStatus:
    """The newest adapter version (retained).

    Attributes:
        bytes: Of the whole adapter's segments.
        eval_loss: Its own held-out loss where devices have reported it, else None.
        delta_bytes: Of the segments of its delta from the version before; 0 where there is none.
        chain_from: The oldest version from which published deltas lead here, one after the other;
            None where there are none.
        chain_bytes: Of the segments of all these deltas.
    """

    run: str
    version: int
    sha256: str
    bytes: int
    segments: int
    eval_loss: float | None = None
    eval_accuracy: float | None = None
    eval_tokens: int = 0
    delta_bytes: int = 0
    delta_segments: int = 0
    chain_from: int | None = None
    chain_bytes: int = 0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class AlertNotice:
    """Something that an operator should know (retained; an empty payload clears it)."""

    severity: str
    text: str
    count: int = 1
    client_id: str = ""
    since: float = 0.0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class DeviceStatus:
    """What a device is doing (retained, last will).

    Attributes:
        session: Random per start of the agent, so that a restart can be told from a reconnect;
            short, since the aggregator keeps some of each device.
        round_id: The round it works on, 0 for none.
    """

    state: DeviceState
    session: Annotated[str, Field(max_length=64)]
    round_id: int = 0
    reason: str = ""
    ts: float = 0.0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class DeviceProfile:
    """What a device is (retained).

    Attributes:
        jetpack: JetPack's major version, "" elsewhere than on a Jetson.
        l4t: Jetson Linux's version, such as 36.4.3, "" elsewhere.
        power_mode: The Jetson's at the agent's start, "" elsewhere; telemetry has the present one.
        base_precision: In which numbers its base model is held, such as bfloat16, int8 or nf4.
        base_precision_reason: Why in these.
        base_mb: What the base model takes, in MiB.
        micro_batch: The most examples that are known to fit into its memory at once; 0 where no
            training has ever run out of it.
        out_of_memory: How often its memory ran out in a task.
    """

    board: str
    agent_version: str
    python: str
    torch: str
    cuda: str
    ram_mb: int
    examples: int
    heldout_examples: int
    base_digest: str
    jetpack: str = ""
    l4t: str = ""
    power_mode: str = ""
    base_precision: str = ""
    base_precision_reason: str = ""
    base_mb: int = 0
    micro_batch: int = 0
    out_of_memory: int = 0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Telemetry:
    """How a device feels; what it cannot measure is None.

    Attributes:
        temp_c: Of the hottest place that has a sensor.
        power_w: What the board takes, or what of it is measured: see `power_source`.
        power_source: "ina" (the board's monitors), "tegrastats" (the same), "rapl" (a PC's
            processors and memory alone) or "".
        rails_w: Rail → watts; some rails are parts of others.
        energy_j: What the board has taken since the agent's start.
        on_mains: Whether power comes from outside; None on boards that cannot know.
    """

    ts: float
    ram_used_mb: int | None = None
    cpu_pct: float | None = None
    temp_c: float | None = None
    disk_free_mb: int | None = None
    goodput_bps: float | None = None
    swap_used_mb: int | None = None
    gpu_pct: float | None = None
    gpu_temp_c: float | None = None
    cpu_temp_c: float | None = None
    soc_temp_c: float | None = None
    power_w: float | None = None
    power_source: str = ""
    rails_w: dict[str, float] = Field(default_factory=dict)
    energy_j: float | None = None
    power_mode: str | None = None
    on_mains: bool | None = None
    battery_pct: float | None = None


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class EnergyReport:
    """What a round has taken of a device's power so far (retained).

    Attributes:
        round_id: The newest round that it worked for; what goes on behind that is counted there.
        energy_j: The board's energy while it fetched, trained and uploaded, since its agent began.
        energy_above_idle_j: The same beyond what idling takes; None before that is known.
        idle_w: What idling takes: the 10th percentile of the newest samples while nothing was on.
        covered_s: The time in which it was measured.
        uncovered_s: The time in which it was not, and for which no energy is counted.
        source: What measured it, as in Telemetry.
    """

    run: Annotated[str, Field(max_length=64)]
    round_id: int
    energy_j: float
    energy_above_idle_j: float | None
    idle_w: float | None
    fetching_j: float
    training_j: float
    uploading_j: float
    covered_s: float
    uncovered_s: float
    source: Annotated[str, Field(max_length=16)] = ""


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Progress:
    """How far a device is with its task.

    Attributes:
        micro_batch: Examples that go through its model at once; 0 while it does not train.
        out_of_memory: How often memory has run out in this training.
        stalled_s: Seconds since anything of its updates was accepted, once that is too long; the
            status says why. 0 while they move.
    """

    round_id: int
    step: int = 0
    steps: int = 0
    loss: float | None = None
    eta_s: float | None = None
    micro_batch: int = 0
    out_of_memory: int = 0
    segments: int = 0
    segments_sent: int = 0
    segments_accepted: int = 0
    segments_resent: int = 0
    bytes_sent: int = 0
    stalled_s: float = 0.0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TrainCommand:
    """Asks a device to train for a round (`cmd/train/<round>`); the same round may be asked again.

    Attributes:
        epoch: The aggregator's epoch.
        base_version: The adapter version to start from.
        deadline_s: Seconds from sending until the round closes.
        seed: The run's seed; a device mixes its own id and the round into it.
        update_bytes: Most bytes that this round's update may take; None for dense codecs.
        min_update_bytes: To so few a device on a slow link may cut that; None takes `update_bytes`.
    """

    run: str
    epoch: int
    round_id: int
    base_version: int
    deadline_s: float
    seed: int
    update_bytes: int | None
    min_update_bytes: int | None = None


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class EvalCommand:
    """Asks a device to evaluate an adapter version (`cmd/eval/<version>`)."""

    run: str
    epoch: int
    version: int
    deadline_s: float


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TrainResponse:
    """A device takes or declines a round (`rsp/train/<round>`).

    Attributes:
        update_bytes: What its update will take at the most, fitted to its link.
        upload_s: How long that takes at the present goodput; None before anything was measured.
        goodput_bps: That goodput, in bits per second of accepted segments.
        epoch: That of the command which it declines with the reason `epoch`; -1 otherwise.
    """

    run: str
    round_id: int
    accepted: bool
    reason: str = ""
    update_bytes: int | None = None
    upload_s: float | None = None
    goodput_bps: float | None = None
    epoch: int = -1


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class EvalResponse:
    """A device's evaluation (`rsp/eval/<version>`); `tokens` is 0 where it could not.

    Attributes:
        epoch: As in TrainResponse.
    """

    run: str
    version: int
    loss: float
    tokens: int
    correct: int
    reason: str = ""
    epoch: int = -1


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class OperatorCommand:
    """An operator asks something of a device (`cmd/<action>/<id>`); see `OperatorAction`.

    Attributes:
        session: The device's session, from its answer to a ping: a command that was queued for an
            earlier one is expired.
        until_s: Expired when the device's own clock shows more, which a ping tells as `clock_s`: so
            no wall clock is trusted, and no queue makes an old command new. A ping needs neither.
        words: Why, for people; told in the device's status while it is paused.
    """

    session: str = ""
    until_s: float = 0.0
    words: Annotated[str, Field(max_length=200)] = ""


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class OperatorResponse:
    """A device's answer to an operator (`rsp/<action>/<id>`); the same id gets the same again.

    Attributes:
        reason: Why it was refused or is expired, or what still keeps a device that was resumed.
        clock_s: The device's own clock, which counts on while it sleeps and says nothing of dates.
        state: What it was doing when it answered, as its status tells.
        waiting: Updates without a receipt and tasks without an update: 0 where it is dry.
        version: The newest adapter version that it knows of, -1 for none.
    """

    outcome: Outcome
    session: str
    clock_s: float
    state: DeviceState
    waiting: int
    version: int
    reason: str = ""


C = TypeVar("C")

_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    # Building one takes milliseconds, using one microseconds.
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        adapter = _ADAPTERS[kind] = TypeAdapter(kind)
    return adapter


def encode(message: object) -> bytes:
    """Return a message's JSON bytes, keys in the order of its fields."""
    return _adapter(type(message)).dump_json(message)


def check_size(payload: bytes) -> None:
    """Raise `OversizedMessage` where the payload is longer than any legitimate one."""
    if len(payload) > MAX_JSON_BYTES:
        raise OversizedMessage(f"{len(payload)} bytes of JSON, at most {MAX_JSON_BYTES} are read")


def decode(kind: type[C], payload: bytes) -> C:
    """Return the message of this kind that the payload holds.

    Raises:
        OversizedMessage: The payload is longer than any legitimate one.
        MalformedMessage: It is no JSON, or not of this kind.
    """
    check_size(payload)
    try:
        # validate_json applies JSON's own reading of strictness: enums by value, int as float.
        message: C = _adapter(kind).validate_json(payload)
    except (ValidationError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"not a {kind.__name__}: {str(error).splitlines()[0]}") from error
    return message
