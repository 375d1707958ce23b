"""The aggregator's configuration: one frozen value per process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from aggregator.admission import LatePolicy
from aggregator.budget import BitsSchedule, update_bytes
from aggregator.journal import EARLIER_ROUNDS
from aggregator.metrics_config import MetricsConfig
from aggregator.norms import NormPolicy
from aggregator.quotas import QuotaPolicy
from codec.codec import Order
from codec.limits import MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES
from codec.registry import codec_named
from transport.broker import BrokerConfig
from transport.control import TrainingPlan
from transport.signing import SigningConfig
from transport.topics import identifier

# [bytes] What a packet needs besides a segment: MQTT's header, the longest topic and the frame's.
PACKET_OVERHEAD_BYTES = 256

# With it, the codecs of docs/evidence.md took fewer rounds and ended lower than without.
DEFAULT_SERVER_MOMENTUM = 0.5

# With `fstq-r`, the schedule that reaches every target of docs/benchmarks.md, early and late ones.
DEFAULT_BITS_PER_COORDINATE = BitsSchedule(first=0.15, last=0.8)

# A third of what a run begins with: still an update, in a third of the time.
DEFAULT_MIN_BITS_PER_COORDINATE = 0.05

# The bits of the demo, whose figures are in docs/demo.md.
DEFAULT_DOWNLINK_BITS = 4.0

# What the server's momentum goes by: the newest version and the one before.
MOMENTUM_VERSIONS = 2

# What the paper's payload has against fp32: 153.6 of 1024 MB (arXiv 2604.25421).
PAPER_CODECS = ("fstq", "fstq-percentile")
PAPER_BITS_PER_COORDINATE = 4.8


class AggregatorConfig(BaseModel):
    """One run of one federation, and where its aggregator lives.

    Attributes:
        signing: Signs receipts and adapter versions, and takes no update that its device has not
            signed; `off`, `sign` or `required`, alone or as `mode` beside files.
        initial_adapter: A PEFT folder with `fedfstq.json`; copied to the state folder as version 0
            when the run begins, and not read again.
        rounds: Adapter versions to make.
        goal: Complete updates that close a round at once.
        quorum: Updates, complete or partial, without which a deadline abandons the round; half of
            the goal where it is not given.
        over_selection: The cohort has ⌈goal · over_selection⌉ devices where so many are online.
        deadline_s: Seconds from a round's opening to its deadline.
        max_device_w: More than so many watts no device of the fleet takes: claims of a round's
            energy that are above it are not believed.
        stall_s: Seconds without a segment, a step or an answer after which the alert `stalled`
            names a device that is awaited; set it above the time of the slowest training step.
        answer_timeout_s: Seconds that a device has to say whether it trains, before another one is
            asked in its place and nobody waits for it; it counts again as soon as it answers. Set
            it above the time that a trainer takes to load the base model: until then a device
            cannot answer.
        min_devices: Devices that must be online before a round opens; None takes the quorum.
        codec: Any codec that `codec.registry` knows.
        bits_per_coordinate: Uplink budget of one update, for all rounds or as a schedule over
            them; at most one of this and `update_bytes`, and neither for dense codecs.
        update_bytes: The same in bytes, headers of segments counted.
        min_bits_per_coordinate: To so few a device on a slow link may cut that budget; None takes
            0.05, and dense codecs have none. The budget itself where that is less.
        error_feedback: Devices keep what the codec dropped, for their next update; only ordered
            codecs. It costs a device the adapter's size in float32 on its disk.
        residual_decay: What a residual is multiplied by when an update leaves it behind: devices
            that are seldom asked have stale ones.
        segment_bytes: Most bytes that one segment has; devices on slow links cut shorter ones, down
            to 8 KiB.
        downlink_codec: Publishes each version's delta from the one before in this codec, for the
            devices that hold one of the last versions; all others fetch the whole adapter. Ordered
            codecs only: what the codec drops goes into the next delta, and that grows without bound
            where a codec's error is larger than what it encodes. None publishes whole adapters.
        downlink_bits_per_coordinate: The delta's budget; None takes 4 where the codec takes one.
        server_step: η in Θ ← Θ + η · mean.
        step_by_arrivals: A round that fewer updates reached than its goal takes a shorter step, as
            far as its codec's bits are few enough to be noise; `docs/evidence.md`, section 5.
        server_momentum: β of FedAvgM: so much of the last step is taken again with the next one; 0
            is plain averaging. `docs/evidence.md` says what the default gains.
        seed: Seeds the choice of cohorts and the training of devices.
        final_eval_timeout_s: Seconds that devices have to evaluate the last adapter version.
        exit_when_finished: The process ends after the last round; otherwise it goes on serving the
            final adapter.
        keep_versions: The newest adapter versions that stay in the state folder; version 0, from
            which a run can be begun again, always stays.
        late: What becomes of an update of which nothing had come when its round was committed:
            `stale` takes it into a later round with less weight, `merge` leaves it to its device's
            next update, `drop` throws it away.
        max_staleness: How many rounds after its own an update may still take part.
        max_examples: Most weight that one device can claim by its number of examples.
        max_delta_abs: An update that moves any coordinate further than this is refused: LoRA
            weights are of the order of 0.01 to 1.
        norm_factor: An update's norm may be so many times the median of the rounds before; None
            lets any length in.
        norm_policy: What becomes of a longer one: `clip` scales it down, `refuse` leaves it out.
        quota_segments_per_s: Messages of uploads that one device may send in a second over a long
            time: of 32 KiB each, what a link of 130 Mbit/s brings.
        quota_burst_segments: How many it may send at once before that holds: two of the largest
            updates that there can be.
        quota_round_factor: Bytes that one device may send in a round, as a multiple of what an
            update may take: late updates and repeats are in it. At the least 8 MiB.
        max_open_updates: Updates of one device that may wait for their last word.
        journal_max_bytes: Bytes of segments that may wait in the journal, of all devices together;
            keep it below what the disk has free.
        broker_log: Whether to read of refused logins in the log that mosquitto publishes.
        metrics: Where Prometheus reads `/metrics` and `/healthz`; None serves neither.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    federation: str
    client_id: str = "coord"
    broker: BrokerConfig = BrokerConfig()
    signing: SigningConfig = SigningConfig()
    state_dir: Path
    initial_adapter: Path
    rounds: int = Field(default=20, ge=1, le=1_000_000)
    goal: int = Field(default=4, ge=1, le=10_000)
    quorum: int = Field(default=0, ge=1, le=10_000)  # filled by `_half_of_the_goal`
    over_selection: float = Field(default=1.3, ge=1.0, le=10.0)
    deadline_s: float = Field(default=1800.0, gt=0, le=30 * 86_400)
    max_device_w: float = Field(default=1000.0, gt=0, le=100_000)
    stall_s: float = Field(default=120.0, gt=0, le=86_400)
    answer_timeout_s: float = Field(default=30.0, gt=0, le=86_400)
    min_devices: int | None = Field(default=None, ge=1, le=10_000)
    codec: str = "fstq-r"
    bits_per_coordinate: Annotated[float, Field(gt=0, le=64)] | BitsSchedule | None = None
    update_bytes: int | None = Field(default=None, ge=MIN_SEGMENT_BYTES)
    min_bits_per_coordinate: float | None = Field(default=None, gt=0, le=64)
    segment_bytes: int = Field(default=65_536, ge=MIN_SEGMENT_BYTES, le=MAX_SEGMENT_BYTES)
    error_feedback: bool = False
    residual_decay: float = Field(default=1.0, ge=0.0, le=1.0)
    plan: TrainingPlan = TrainingPlan()
    downlink_codec: str | None = "fstq+"
    downlink_bits_per_coordinate: float | None = Field(default=None, gt=0, le=64)
    server_step: float = Field(default=1.0, gt=0, le=100)
    step_by_arrivals: bool = True
    server_momentum: float = Field(default=DEFAULT_SERVER_MOMENTUM, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    final_eval_timeout_s: float = Field(default=120.0, gt=0)
    exit_when_finished: bool = False
    keep_versions: int = Field(default=5, ge=1)
    late: LatePolicy = LatePolicy.STALE
    max_staleness: int = Field(default=4, ge=1, le=EARLIER_ROUNDS)
    max_examples: int = Field(default=100_000, ge=1)
    max_delta_abs: float = Field(default=100.0, gt=0, le=1e6)
    norm_factor: float | None = Field(default=10.0, ge=1.0, le=1e6)
    norm_policy: NormPolicy = NormPolicy.CLIP
    quota_segments_per_s: float = Field(default=500.0, gt=0, le=1e6)
    quota_burst_segments: int = Field(default=6_000, ge=1)
    quota_round_factor: float = Field(default=16.0, ge=1.0, le=1e6)
    max_open_updates: int = Field(default=8, ge=1, le=1_000)
    journal_max_bytes: int = Field(default=16 << 30, ge=1 << 20)
    broker_log: bool = True
    metrics: MetricsConfig | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="before")
    @classmethod
    def _half_of_the_goal(cls, values: object) -> object:
        if not isinstance(values, Mapping) or values.get("quorum") is not None:
            return values
        goal = values.get("goal", cls.model_fields["goal"].default)
        # What is no number, the field itself refuses.
        number = int(goal) if str(goal).isdecimal() else 1
        return {**values, "quorum": max(1, -(-number // 2))}

    @field_validator("federation", "client_id")
    @classmethod
    def _identifiers(cls, text: str) -> str:
        return identifier(text)

    @field_validator("plan", mode="before")
    @classmethod
    def _known_plan_keys(cls, value: object) -> object:
        # The plan is also a message, and messages ignore what newer writers add; a configuration
        # must not, or a misspelt learning rate would train at the default one.
        if isinstance(value, Mapping):
            known = [field.name for field in fields(TrainingPlan)]
            for key in value:
                if key not in known:
                    raise ValueError(f"unknown key {key!r}; known are {', '.join(known)}")
            try:
                return TrainingPlan(**value)
            except ValidationError as error:
                wrong = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
                raise ValueError(wrong) from error
        return value

    @model_validator(mode="after")
    def _consistent(self) -> AggregatorConfig:
        if self.quorum > self.goal:
            raise ValueError(f"quorum {self.quorum} is above goal {self.goal}: lower the quorum")
        if self.bits_per_coordinate is not None and self.update_bytes is not None:
            raise ValueError("bits_per_coordinate and update_bytes say the same: give one of them")
        budget = self.bits_per_coordinate is not None or self.update_bytes is not None
        if self.segment_bytes + PACKET_OVERHEAD_BYTES > self.broker.max_packet_bytes:
            raise ValueError(
                f"a segment of {self.segment_bytes} bytes fits no packet of "
                f"{self.broker.max_packet_bytes}: lower segment_bytes to "
                f"{self.broker.max_packet_bytes - PACKET_OVERHEAD_BYTES}, or raise "
                "broker.max_packet_bytes"
            )
        if self.server_momentum and self.keep_versions < MOMENTUM_VERSIONS:
            raise ValueError(
                "server_momentum goes by the last versions: set keep_versions to at least "
                f"{MOMENTUM_VERSIONS}, or server_momentum to 0"
            )
        codec = codec_named(self.codec)
        if codec.order is Order.EXCHANGEABLE and self.error_feedback:
            raise ValueError(
                f"codec {self.codec} is exchangeable: what arrives stands for the whole, and "
                "nothing is left to feed back; leave error_feedback out"
            )
        check_downlink(self.downlink_codec, self.downlink_bits_per_coordinate)
        if codec.dense and self.min_bits_per_coordinate is not None:
            raise ValueError(f"codec {self.codec} is dense: leave min_bits_per_coordinate out")
        if codec.dense and budget:
            raise ValueError(
                f"codec {self.codec} is dense: its size follows from the adapter, so that "
                "bits_per_coordinate and update_bytes must be left out"
            )
        return self

    @property
    def quotas(self) -> QuotaPolicy:
        """What one device may cost."""
        return QuotaPolicy(
            segments_per_s=self.quota_segments_per_s,
            burst_segments=self.quota_burst_segments,
            round_factor=self.quota_round_factor,
            disk_bytes=self.journal_max_bytes,
        )

    def downlink_bytes(self, coordinates: int) -> int | None:
        """Return the bytes that the delta of a version may take; None for dense codecs."""
        if self.downlink_codec is None or codec_named(self.downlink_codec).dense:
            return None
        bits = self.downlink_bits_per_coordinate or DEFAULT_DOWNLINK_BITS
        return update_bytes(bits, coordinates=coordinates, round_id=1, rounds=1)

    @property
    def devices_to_open(self) -> int:
        """Devices that must be online before a round opens."""
        return self.quorum if self.min_devices is None else self.min_devices

    def budget_bytes(self, coordinates: int, *, round_id: int) -> int | None:
        """Return the bytes that one update of so many coordinates may take; None for dense."""
        if codec_named(self.codec).dense:
            return None
        if self.update_bytes is not None:
            return self.update_bytes
        bits = self.bits_per_coordinate or default_bits(self.codec)
        return update_bytes(bits, coordinates=coordinates, round_id=round_id, rounds=self.rounds)

    def least_bytes(self, coordinates: int, *, round_id: int) -> int | None:
        """Return the bytes to which a device may cut that budget; None for dense codecs."""
        most = self.budget_bytes(coordinates, round_id=round_id)
        if most is None:
            return None
        bits = self.min_bits_per_coordinate or DEFAULT_MIN_BITS_PER_COORDINATE
        return min(most, update_bytes(bits, coordinates=coordinates, round_id=1, rounds=1))


def default_bits(codec: str) -> float | BitsSchedule:
    """Return the bits per coordinate of a run that names none, for a codec that takes a budget."""
    return PAPER_BITS_PER_COORDINATE if codec in PAPER_CODECS else DEFAULT_BITS_PER_COORDINATE


def check_downlink(
    downlink_codec: str | None = None, downlink_bits_per_coordinate: float | None = None
) -> None:
    """Raise `ValueError` where versions cannot be published as deltas like this."""
    bits = downlink_bits_per_coordinate
    if downlink_codec is None:
        if bits is not None:
            raise ValueError("downlink_bits_per_coordinate needs a downlink_codec")
        return
    codec = codec_named(downlink_codec)
    if codec.order is Order.EXCHANGEABLE:
        raise ValueError(
            f"downlink_codec {codec.name} is exchangeable: its errors would grow from version to "
            "version; take an ordered one"
        )
    if codec.dense and bits is not None:
        raise ValueError(f"downlink_codec {codec.name} takes no downlink_bits_per_coordinate")
