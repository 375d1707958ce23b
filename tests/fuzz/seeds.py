"""True bytes for every target: golden files, and messages as they are sent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import targets

from agent.payload import PayloadHeader, write_payload
from agent.tasks import EvalTask, Leftover, TaskFailed, TrainerHello, TrainTask, encode_line
from codec.codec import Budget
from codec.registry import CODECS, codec_named
from codec.segment import HEADER_BYTES
from codec.update import decode
from transport import bitmap, control, envelope, frame
from transport.messages import (
    AdapterManifest,
    AdapterWant,
    Evaluation,
    Have,
    Manifest,
    Receipt,
    ReceiptState,
    Segment,
    SegmentEntry,
    Want,
)
from transport.topics import (
    Command,
    CoordRun,
    CoordStatus,
    DeviceTopic,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
    ModelWant,
    Response,
    UpManifest,
    UpSegment,
)

GOLDEN = Path(__file__).parents[1]
DIGEST = bytes(range(32))
UID = "0123456789abcdef" * 2
ROWS = tuple((tensor.name, tensor.shape) for tensor in targets.LAYOUT.tensors)


def entries(bodies: tuple[bytes, ...]) -> tuple[SegmentEntry, ...]:
    return tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies)


@cache
def update_of(codec_name: str) -> tuple[bytes, ...]:
    """Return an update of a few segments, with every kind of field in it."""
    random = np.random.default_rng(1)
    size = targets.LAYOUT.size
    delta = (random.standard_normal(size) * 1e-2).astype(np.float32)
    delta[::50] *= 300
    fisher = random.lognormal(0, 2, size).astype(np.float32)
    codec = codec_named(codec_name)
    budget = Budget(None if codec.dense else 70 + size // 4, 110)
    return codec.encode(delta, fisher, layout=targets.LAYOUT, budget=budget, seed=1)


@cache
def messages() -> tuple[Any, ...]:
    """Return one frame message of each kind, and the odd ones."""
    bodies = update_of("fp32")
    manifest = Manifest(
        targets.RUN, 1, 0, DIGEST, targets.LAYOUT.digest, targets.DEVICE, 1, "fp32", 90,
        entries(bodies), 2.0, 8, 1.5, Evaluation(2.5, 100, 40),
    )  # fmt: skip
    flat = decode(
        "fp32",
        dict(enumerate(bodies)),
        layout=targets.LAYOUT,
        segment_count=len(bodies),
    )
    adapter = AdapterManifest(
        targets.RUN, 0, hashlib.sha256().digest(), ROWS, "fp32", entries(bodies),
        hashlib.sha256(flat.tobytes()).digest(), '{"r": 4}',
    )  # fmt: skip
    return (
        manifest,
        dataclasses.replace(manifest, evaluation=None),
        Segment(bodies[0]),
        Segment(b"the same again " * 40),
        Want(5),
        Have(5, frozenset({0, 2}), 9),
        Receipt(5, ReceiptState.ACCEPTED, "", frozenset(range(9)), 9),
        Receipt(5, ReceiptState.PARTIAL, "partial", frozenset({1}), 9),
        Receipt(5, ReceiptState.REFUSED, "layout", frozenset(), 0),
        adapter,
        AdapterWant(frozenset({0, 2, 8})),
        AdapterWant(None),
    )


def control_message(kind: Any) -> Any:
    """Return a message of a JSON kind whose fields hold something of their types."""
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: a_value(hints[field.name]) for field in dataclasses.fields(kind)})


def a_value(hint: Any) -> Any:
    if hint is control.TrainingPlan:
        return hint()
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return options[0]
    if typing.get_origin(hint) is dict:
        return {"malformed": 3}
    if options:
        return a_value(options[0])
    return {str: targets.RUN, int: 1, float: 0.5, bool: True}[hint]


def control_seeds() -> Iterator[bytes]:
    for number, kind in enumerate(targets.CONTROLS):
        yield bytes([number]) + control.encode(control_message(kind))


def frame_seeds() -> Iterator[bytes]:
    kinds = {kind: number for number, kind in enumerate(targets.FRAMES)}
    for message in messages():
        yield bytes([kinds[type(message)]]) + frame.encode(message)
    for path in sorted((GOLDEN / "transport/golden").glob("*.frame")):
        payload = path.read_bytes()
        yield bytes([(payload[1] & 0x7F) - 1]) + payload


def codec_seeds(*names: str) -> Iterator[bytes]:
    for number, name in enumerate(names):
        for index, segment in enumerate(update_of(name)[: targets.COUNT]):
            yield bytes((number, targets.AS_IT_IS, index)) + segment
            yield bytes((number, targets.MENDED, index)) + segment
            yield bytes((number, targets.SEALED, index)) + segment[HEADER_BYTES:]
        # Names that share a format have golden files of their own.
        alike = [
            other for other in CODECS if codec_named(other).codec_id == codec_named(name).codec_id
        ]
        for golden in alike:
            paths = sorted((GOLDEN / "codec/golden").glob(f"v*-{golden}.json"))
            for path in paths:
                length = json.loads(path.read_text())["segment_lengths"][0]
                segment = path.with_suffix(".bin").read_bytes()[:length]
                yield bytes((number, targets.SEALED, 0)) + segment[HEADER_BYTES:]


def payload_seeds() -> Iterator[bytes]:
    bodies = update_of("fp32")
    values = np.zeros(targets.LAYOUT.size, dtype=np.float32)
    for encoded in (None, values):
        header = PayloadHeader(
            targets.RUN, 1, 0, DIGEST.hex(), DIGEST.hex(), "fp32", 90, 1.5, 2, 0.5,
            Evaluation(2.5, 100, 40), tuple(len(body) for body in bodies), (1, 2),
            0 if encoded is None else values.size,
        )  # fmt: skip
        path = targets.scratch()
        write_payload(path, header, bodies, encoded=encoded)
        yield from (mend + path.read_bytes() for mend in (b"\0", b"\1"))


def line_seeds() -> Iterator[bytes]:
    plan = control.TrainingPlan()
    left = Leftover(3, Path("/p/1.upd"), (0, 2))
    yield encode_line(TrainerHello(1, "2.4", "12.6", 90, 10, DIGEST.hex()))
    yield encode_line(TaskFailed("t", "memory", "no memory", retryable=True))
    yield encode_line(
        TrainTask(
            "t", targets.RUN, 1, 0, DIGEST.hex(), Path("/a"), "{}", ROWS, "fstq", 900, 32768,
            plan, 7, (left,), error_feedback=True, residual_decay=1.0, payload_file=Path("/p"),
        )
    )  # fmt: skip
    yield encode_line(EvalTask("t", targets.RUN, 1, DIGEST.hex(), Path("/a"), "{}", ROWS, plan))


def to_aggregator() -> Iterator[bytes]:
    device = targets.DEVICE
    for kind, address in (
        (control.DeviceStatus, DeviceTopic(device, "status")),
        (control.Progress, DeviceTopic(device, "progress")),
        (control.ServiceStatus, CoordStatus()),
        (control.RunAnnouncement, CoordRun()),
        (control.ModelStatus, Model()),
        (control.TrainResponse, Response(device, "train", "1")),
        (control.EvalResponse, Response(device, "eval", "1")),
    ):
        yield addressed(address, control.encode(control_message(kind)))
    for message in messages():
        match message:
            case Manifest():
                yield addressed(UpManifest(device, UID), frame.encode(message))
            case Segment():
                yield addressed(UpSegment(device, UID, 0), frame.encode(message))
            case AdapterWant():
                yield addressed(ModelWant(device, 1), frame.encode(message))
                yield addressed(ModelWant(device, 1, delta=True), frame.encode(message))


def to_coordinator() -> Iterator[bytes]:
    """An update that is let in, part by part, and whatever else an aggregator hears."""
    device, bodies = targets.DEVICE, update_of("fp32")
    manifest = dataclasses.replace(
        messages()[0], base_digest=hashlib.sha256().digest(), train_loss=2.0
    )
    uid = frame.uid(manifest)
    yes = control.TrainResponse(targets.RUN, 1, accepted=True)
    accepted = addressed(Response(device, "train", "1"), control.encode(yes))
    no = control.encode(dataclasses.replace(yes, accepted=False, reason="battery"))
    announced = addressed(UpManifest(device, uid), frame.encode(manifest))
    parts = [
        addressed(UpSegment(device, uid, index), frame.encode(Segment(body)))
        for index, body in enumerate(bodies)
    ]
    yield b"\r\r\r".join((accepted, announced, *parts[:3]))
    yield b"\r\r\r".join((announced, *parts))
    yield b"\r\r\r".join((parts[0], announced, addressed(Response(device, "train", "1"), no)))
    yield from to_aggregator()


def to_agent() -> Iterator[bytes]:
    run = dataclasses.replace(
        control_message(control.RunAnnouncement),
        base_digest=hashlib.sha256().hexdigest(),
        layout_digest=targets.LAYOUT.digest.hex(),
        codec="fp32",
        segment_bytes=110,
    )
    announced = addressed(CoordRun(), control.encode(run))
    status = dataclasses.replace(control_message(control.ModelStatus), version=0)
    model = addressed(Model(), control.encode(status))
    command = dataclasses.replace(
        control_message(control.TrainCommand), base_version=0, update_bytes=None
    )
    train = addressed(Command(targets.DEVICE, "train", "1"), control.encode(command))
    judge = addressed(
        Command(targets.DEVICE, "eval", "1"), control.encode(control_message(control.EvalCommand))
    )
    frames = [
        addressed(ModelManifest(0), frame.encode(message))
        for message in messages()
        if isinstance(message, AdapterManifest)
    ]
    frames += [
        addressed(ModelSegment(0, index), frame.encode(Segment(body)))
        for index, body in enumerate(update_of("fp32")[:3])
    ]
    answers = [
        addressed(Down(targets.DEVICE, UID), frame.encode(message))
        for message in messages()
        if isinstance(message, Have | Want | Receipt)
    ]
    asked = control.encode(control_message(control.OperatorCommand))
    operator = [
        addressed(Command(targets.DEVICE, action.value, "1"), asked)
        for action in control.OperatorAction
    ]
    yield from (announced, model, train, judge, *frames, *answers, *operator)
    yield b"\r\r\r".join((announced, model, *operator, train))
    yield b"\r\r\r".join((announced, model, train, *frames))
    yield b"\r\r\r".join((announced, judge, *answers))


def addressed(address: Any, payload: bytes) -> bytes:
    return targets.TOPICS.topic(address).encode() + b"\n" + payload


def signed_seeds() -> Iterator[bytes]:
    """Return what was truly signed, where it was said."""
    golden = {path.name: path.read_bytes() for path in targets.GOLDEN.glob("signed-*")}
    sealed = envelope.split_frame(golden["signed-manifest.frame"])
    assert sealed is not None
    uid = frame.uid(frame.decode(Manifest, sealed.content))
    yield addressed(UpManifest(targets.DEVICE, uid), golden["signed-manifest.frame"])
    yield addressed(Down(targets.DEVICE, "0" * 32), golden["signed-receipt.frame"])
    yield addressed(CoordRun(), golden["signed-run.json"])


def certificate_seeds() -> Iterator[bytes]:
    for name in ("signed-manifest.frame", "signed-receipt.frame"):
        sealed = envelope.split_frame((targets.GOLDEN / name).read_bytes())
        assert sealed is not None
        yield sealed.certificate


def topic_seeds() -> Iterator[bytes]:
    for seed in (*to_agent(), *to_aggregator()):
        yield seed.partition(b"\n")[0]


def seeds(target: str) -> tuple[bytes, ...]:
    """Return a target's seed corpus."""
    made: dict[str, Any] = {
        "frame": frame_seeds,
        "topic": topic_seeds,
        "control": control_seeds,
        "bitmap": lambda: (
            b"\x09\0" + bitmap.pack({0, 2, 8}, 9),
            b"\0\0",
            b"\xf0\x0a" + bytes(350),
        ),
        "certificate": certificate_seeds,
        "signed": signed_seeds,
        "codec-fstq": lambda: codec_seeds("fstq"),
        "codec-fstq-plus": lambda: codec_seeds("fstq+"),
        "codec-fstq-r": lambda: codec_seeds("fstq-r", "eden"),
        "codec-dense": lambda: codec_seeds(*targets.PLAIN),
        "codec-reference": lambda: codec_seeds(*targets.OTHERS),
        "downlink": lambda: codec_seeds(*targets.FORMATS),
        "layout": lambda: (json.dumps(targets.LAYOUT.to_json()).encode(), b'[["a", [2, 3]]]'),
        "payload": payload_seeds,
        "task-line": line_seeds,
        "deliveries": to_agent,
        "inbound": to_aggregator,
        "coordinator": to_coordinator,
    }
    return tuple(made[target]())
