"""What agent and trainer say to each other: one JSON object a line, over a Unix socket.

Both are of one installation and one user, so a line that cannot be read is a fault of this program
or of whoever else found the socket: the reader refuses it with `MalformedLine` and closes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from transport.control import TrainingPlan

# The longest line is a task: a layout of some thousand tensors and a PEFT configuration that names
# every module take about 200 KB.
MAX_LINE_BYTES = 1 << 20

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

LayoutRows: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


class MalformedLine(Exception):
    """A line that is no message of this protocol, or longer than any."""


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Leftover:
    """An update whose receipt left something behind for the next one.

    Attributes:
        number: Its number in the outbox, never used twice.
        payload_file: The update, as the trainer left it.
        accepted: Indices of the segments that the receipt names.
    """

    number: int
    payload_file: Path
    accepted: tuple[int, ...]


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TrainTask:
    """Asks the trainer to train one client update and to leave it in `payload_file`.

    Attributes:
        task_id: The same for the same work: a repeated task whose payload file exists already is
            answered at once.
        base_digest: SHA-256 of the base model, hexadecimal.
        adapter_file: The adapter to start from: little-endian float32, flat, in layout order.
        adapter_config: PEFT's adapter_config.json, as text.
        layout: Tensor names and dimensions.
        update_bytes: The update's byte budget; None for dense codecs.
        seed: The run's seed with this device's name and the round mixed in, below 2**63.
        leftovers: What earlier updates left behind; it is added to the delta before encoding, and
            the payload's header names the numbers.
        error_feedback: Whether what encoding drops is kept for the next update: the payload file
            then holds what was encoded, beside its segments.
        residual_decay: What each leftover is multiplied by.
        payload_file: Where the trained and encoded update goes.
    """

    task_id: str
    run: str
    round_id: int
    base_version: int
    base_digest: str
    adapter_file: Path
    adapter_config: str
    layout: LayoutRows
    codec: str
    update_bytes: int | None
    segment_bytes: int
    plan: TrainingPlan
    seed: int
    leftovers: tuple[Leftover, ...]
    error_feedback: bool
    residual_decay: Annotated[float, Field(ge=0, le=1)]
    payload_file: Path
    type: Literal["TrainTask"] = "TrainTask"


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class EvalTask:
    """Asks the trainer how an adapter version does on the held-out text."""

    task_id: str
    run: str
    version: int
    base_digest: str
    adapter_file: Path
    adapter_config: str
    layout: LayoutRows
    plan: TrainingPlan
    type: Literal["EvalTask"] = "EvalTask"


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TrainerHello:
    """The trainer is ready: model and examples are loaded (its first line to every connection).

    Attributes:
        cuda: The version of CUDA that torch uses, "" on a CPU.
        base_digest: SHA-256 of the base model, hexadecimal.
        base_precision: In which numbers the base model is held, such as bfloat16, int8 or nf4.
        base_precision_reason: Why in these.
        base_mb: What the base model takes, in MiB.
        micro_batch: The most examples that are known to fit into memory at once; 0 where no
            training has ever run out of it.
        out_of_memory: How often memory ran out on this device.
    """

    pid: int
    torch: str
    cuda: str
    examples: int
    heldout_examples: int
    base_digest: str
    base_precision: str = ""
    base_precision_reason: str = ""
    base_mb: int = 0
    micro_batch: int = 0
    out_of_memory: int = 0
    type: Literal["TrainerHello"] = "TrainerHello"


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TaskProgress:
    """How far the trainer is; the loss is None where it is not known or not finite.

    Attributes:
        micro_batch: Examples that go through the model at once.
        out_of_memory: How often memory has run out in this task.
    """

    task_id: str
    step: int
    steps: int
    loss: float | None
    eta_s: float | None
    micro_batch: int = 0
    out_of_memory: int = 0
    type: Literal["TaskProgress"] = "TaskProgress"


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TrainResult:
    """The update is trained, encoded and durable in `payload_file`.

    Attributes:
        micro_batch: Examples that went through the model at once in the end; 0 where the update
            was there already.
        out_of_memory: How often memory ran out.
    """

    task_id: str
    payload_file: Path
    micro_batch: int = 0
    out_of_memory: int = 0
    type: Literal["TrainResult"] = "TrainResult"


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class EvalResult:
    """Mean held-out loss per token in nats, tokens predicted, and how many of them right."""

    task_id: str
    loss: float
    tokens: int
    correct: int
    type: Literal["EvalResult"] = "EvalResult"


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TaskFailed:
    """The trainer could not do a task.

    Attributes:
        reason: A typed reason, `[a-z0-9-]`.
        text: One line for people.
        retryable: The same task may succeed later (memory was short), or never will.
    """

    task_id: str
    reason: str
    text: str
    retryable: bool
    type: Literal["TaskFailed"] = "TaskFailed"


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class TrainerRefusal:
    """The trainer cannot work, and ends: its last line to whoever waits for it.

    Attributes:
        reason: A typed reason, `[a-z0-9-]`.
        text: One line for people.
        retryable: Starting it again may help (memory was short), or only a person can.
    """

    reason: str
    text: str
    retryable: bool
    type: Literal["TrainerRefusal"] = "TrainerRefusal"


Task: TypeAlias = TrainTask | EvalTask
TrainerMessage: TypeAlias = (
    TrainTask
    | EvalTask
    | TrainerHello
    | TrainerRefusal
    | TaskProgress
    | TrainResult
    | EvalResult
    | TaskFailed
)

_MESSAGES: TypeAdapter[TrainerMessage] = TypeAdapter(
    Annotated[TrainerMessage, Field(discriminator="type")]
)


def encode_line(message: TrainerMessage) -> bytes:
    """Return a message as one line of JSON, its newline included.

    Raises:
        ValueError: The line would be longer than the other side reads.
    """
    line = _MESSAGES.dump_json(message) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes, at most {MAX_LINE_BYTES} are read")
    return line


def decode_line(line: bytes) -> TrainerMessage:
    """Return the message that one line holds; the newline may be there or not.

    Raises:
        MalformedLine: It is too long, no JSON, or no message of this protocol.
    """
    if len(line) > MAX_LINE_BYTES:
        raise MalformedLine(f"a line of {len(line)} bytes, at most {MAX_LINE_BYTES} are read")
    try:
        return _MESSAGES.validate_json(line)
    except (ValidationError, ValueError, RecursionError) as error:
        raise MalformedLine(f"not a trainer message: {str(error).splitlines()[0]}") from error
