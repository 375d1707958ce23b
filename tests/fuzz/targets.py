"""Every decoder as a function of bytes that may fail with typed errors of the sender only.

What a target lets out is a finding: another error, a sum that is touched by bytes that were
refused, a message that cannot be written again. `seeds.py` has true bytes for each of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.commands import Commands
from agent.deliveries import Deliveries
from agent.job import JobPolicy
from agent.outputs import Remembered
from agent.pauses import Pauses
from agent.payload import MAGIC, PayloadError, read_encoded, read_header, read_segment
from agent.session import Session
from agent.tasks import MalformedLine, TrainerHello, decode_line, encode_line
from aggregator.announcements import AdapterFacts, RunFacts
from aggregator.config import AggregatorConfig
from aggregator.coordinator import Coordinator
from aggregator.fencing import read_overheard
from aggregator.gate import encode
from aggregator.inbound import Inbound, Unreadable, read
from aggregator.journal import Snapshot
from aggregator.outputs import Freeze, JournalSegment, Publish
from codec.codec import Codec
from codec.errors import CodecError
from codec.layout import Layout
from codec.registry import CODECS, codec_named, name_of
from codec.segment import HEADER_BYTES, pack
from codec.update import move
from transport import bitmap, control, envelope, frame
from transport.errors import MalformedMessage, MessageError
from transport.link import Delivery
from transport.messages import (
    AdapterManifest,
    AdapterWant,
    Have,
    Manifest,
    Receipt,
    Segment,
    Want,
)
from transport.signing import Signatures
from transport.topics import DeviceTopic, Topics
from transport.transfer import TransferPolicy
from transport.trust import Trust, load_authorities, read_signer

TOPICS: Final = Topics("lab")
DEVICE: Final = "dev-1"
RUN: Final = "0123456789abcdef" * 2
LAYOUT: Final = Layout.from_shapes(
    {f"layers.{place}.weight": [size] for place, size in enumerate((300, 1, 70))}
)
FRAMES: Final[tuple[Any, ...]] = (
    Manifest,
    Segment,
    Want,
    Have,
    Receipt,
    AdapterManifest,
    AdapterWant,
)
CONTROLS: Final[tuple[Any, ...]] = (
    control.DeviceStatus,
    control.TrainResponse,
    control.EvalResponse,
    control.RunAnnouncement,
    control.ModelStatus,
    control.TrainCommand,
    control.EvalCommand,
    control.ServiceStatus,
    control.RoundStatus,
    control.RoundSummary,
    control.AlertNotice,
    control.DeviceProfile,
    control.Telemetry,
    control.Progress,
    control.OperatorCommand,
    control.OperatorResponse,
)
# One codec per format: names that share a number share the decoder, too.
FORMATS: Final = tuple(name for name in CODECS if name_of(codec_named(name).codec_id) == name)
PLAIN: Final = ("fp32", "fp16", "bf16")
PAPERS: Final = ("fstq", "fstq+", "fstq-r", "eden")
OTHERS: Final = tuple(name for name in FORMATS if name not in {*PLAIN, *PAPERS})

# First bytes of what codec targets read: how the segment comes about.
AS_IT_IS: Final = 0
SEALED: Final = 1  # the rest is a payload: header, length and checksum are made for it
MENDED: Final = 2  # the rest is a segment whose checksum is mended
# The segments that an update has here.
COUNT: Final = 4

Target = Callable[[bytes], None]


# -- transport -------------------------------------------------------------------------------------


def frame_bytes(raw: bytes) -> None:
    """A frame of each kind; what is read can be written, and read again as the same."""
    kind, payload = FRAMES[raw[0] % len(FRAMES)] if raw else Want, raw[1:]
    with contextlib.suppress(MessageError):
        message = frame.decode(kind, payload)
        assert frame.decode(kind, frame.encode(message)) == message
    with contextlib.suppress(MessageError):
        frame.describe(payload)


def topic(raw: bytes) -> None:
    """A topic; what is understood is written as it was."""
    text = raw.decode("utf-8", "ignore")
    with contextlib.suppress(MessageError):
        assert TOPICS.topic(TOPICS.parse(text)) == text


def control_bytes(raw: bytes) -> None:
    """JSON of each kind; what is read can be written, and read again as the same."""
    kind, payload = CONTROLS[raw[0] % len(CONTROLS)] if raw else control.Progress, raw[1:]
    with contextlib.suppress(MessageError):
        message = control.decode(kind, payload)
        assert control.decode(kind, control.encode(message)) == message


def bits(raw: bytes) -> None:
    """A bitmap, whose length comes first."""
    if len(raw) < 2:
        return
    (total,) = struct.unpack_from("<H", raw)
    with contextlib.suppress(MalformedMessage):
        assert bitmap.pack(bitmap.unpack(raw[2:], total), total) == raw[2:]


GOLDEN: Final = Path(__file__).parents[1] / "transport" / "golden"


@cache
def golden_authorities() -> Any:
    """Return who has issued the certificates in golden files."""
    return load_authorities(GOLDEN / "signed-authority.crt")


def certificate(raw: bytes) -> None:
    """A certificate; what is believed has the authority's signature, and no fuzzer makes one."""
    with contextlib.suppress(MessageError):
        assert read_signer(raw, golden_authorities()).name in {"coord", DEVICE}


@cache
def believer() -> Signatures:
    """Return a device that demands signatures."""
    return Signatures(
        TOPICS,
        aggregator="coord",
        key=Ed25519PrivateKey.generate(),
        certificate=b"",
        trust=Trust(golden_authorities(), None),
        clock=lambda: 1.8e9,
    )


@cache
def truly_signed() -> frozenset[bytes]:
    """Return what the golden files hold."""
    frames = (envelope.split_frame(path.read_bytes()) for path in GOLDEN.glob("signed-*.frame"))
    objects = (envelope.split_json(path.read_bytes()) for path in GOLDEN.glob("signed-*.json"))
    return frozenset(sealed.content for sealed in (*frames, *objects) if sealed is not None)


def signed(raw: bytes) -> None:
    """A topic and what came there: nothing else is believed than what was truly signed."""
    where, payload = addressed(raw)
    with contextlib.suppress(MessageError):
        content = believer().unseal(where, payload)
        is_of_nobody = content == payload  # not signed, on a topic where nobody signs
        assert is_of_nobody or content in truly_signed()


# -- codec -----------------------------------------------------------------------------------------


def codecs(*names: str) -> Target:
    """Return a target for the decoders of these codecs; the first byte chooses among them."""
    chosen = tuple(codec_named(name) for name in names)

    def decode(raw: bytes) -> None:
        if len(raw) >= 3:
            codec = chosen[raw[0] % len(chosen)]
            add(codec, segment_of(codec, raw[1:]), index=raw[2] % COUNT)

    return decode


def segment_of(codec: Codec, raw: bytes) -> bytes:
    """Return the segment that a form, an index and the rest of the bytes describe."""
    form, index, rest = raw[0], raw[1] % COUNT, raw[2:]
    if form == SEALED:
        return pack(rest, codec_id=codec.codec_id, index=index, count=COUNT, layout=LAYOUT)
    if form == MENDED and len(rest) >= HEADER_BYTES:
        head, payload = rest[: HEADER_BYTES - 4], rest[HEADER_BYTES:]
        return head + struct.pack("<I", zlib.crc32(head + payload)) + payload
    return rest


def add(codec: Codec, segment: bytes, *, index: int) -> None:
    """Add a forged segment to a sum, alone and in the company of true ones."""
    for others in ({}, true_segments(codec.name)):
        total = np.zeros(LAYOUT.size)
        try:
            share = codec.accumulate(
                {**others, index: segment},
                layout=LAYOUT,
                segment_count=COUNT,
                weight=1.0,
                total=total,
            )
        except CodecError as error:
            if not error.reason or total.any():
                raise AssertionError("refused without a reason, or yet added") from error
        else:
            assert 0 < share <= 1
            assert np.abs(total).max() <= np.finfo(np.float32).max, "no float32"


@cache
def true_segments(codec_name: str) -> dict[int, bytes]:
    """Return a true segment or more of an update of `COUNT`."""
    from seeds import update_of  # noqa: PLC0415 - seeds are made with what is above

    return dict(enumerate(update_of(codec_name)[:1]))


def downlink(raw: bytes) -> None:
    """A delta that is added to an adapter as devices do it."""
    if len(raw) < 3:
        return
    codec = codec_named(FORMATS[raw[0] % len(FORMATS)])
    base = np.ones(LAYOUT.size, dtype=np.float32)
    # A sum in float32 may overflow; its digest is not the manifest's then.
    with contextlib.suppress(CodecError), np.errstate(over="ignore"):
        move(codec.name, {0: segment_of(codec, raw[1:])}, base=base, layout=LAYOUT)


def layout(raw: bytes) -> None:
    """A layout as JSON; what is read has a digest, and can be written."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(CodecError):
        read_layout = Layout.from_json(value)
        assert Layout.from_json(json.loads(json.dumps(read_layout.to_json()))) == read_layout


# -- agent -----------------------------------------------------------------------------------------


@cache
def scratch() -> Path:
    """Return a file that every payload is written to, in memory where there is such a folder."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="fedfstq-fuzz-", dir=memory if memory.is_dir() else None)
    return Path(folder) / f"{RUN}-1.upd"


def payload_file(raw: bytes) -> None:
    """A payload file, as it is or with a mended header (the first byte says which)."""
    mend, content = raw[:1] == b"\x01", raw[1:]
    start = len(MAGIC) + 4
    if mend and len(content) >= start:
        (length,) = struct.unpack_from("<I", content, len(MAGIC))
        end = start + min(length, len(content))
        head = content[:end]
        content = head + struct.pack("<I", zlib.crc32(head)) + content[end + 4 :]
    path = scratch()
    path.write_bytes(content)
    with contextlib.suppress(PayloadError):
        header = read_header(path)
        for index in range(min(len(header.lengths), 8)):
            with contextlib.suppress(PayloadError):
                assert len(read_segment(path, header, index)) == header.lengths[index]
        read_encoded(path, header)


def task_line(raw: bytes) -> None:
    """A line between agent and trainer."""
    with contextlib.suppress(MalformedLine):
        message = decode_line(raw)
        assert decode_line(encode_line(message)) == message


def addressed(raw: bytes) -> tuple[str, bytes]:
    """Return a topic and a payload: a line, and the rest."""
    line, _, payload = raw.partition(b"\n")
    return line.decode("utf-8", "ignore"), payload


def deliveries(raw: bytes) -> None:
    """What the broker hands to an agent, several at a time: nothing is raised at all."""
    pauses = Pauses()
    session = Session(
        DEVICE,
        remembered=Remembered(run=RUN),
        jobs=JobPolicy(),
        transfer=TransferPolicy(),
        rng=random.Random(1),
        pauses=pauses,
    )
    session.connected(0.0)
    session.trainer_ready(TrainerHello(1, "2.4", "", 90, 10, hashlib.sha256().hexdigest()), now=0.0)
    # The session and the moment that the seeds' commands are for.
    commands = Commands(session, pauses=pauses, boot=RUN)
    inbox = Deliveries(
        TOPICS, client_id=DEVICE, session=session, commands=commands, clock=lambda: 0.0
    )
    for now, one in enumerate(raw.split(b"\r\r\r")[:8], start=1):
        where, payload = addressed(one)
        inbox.take(Delivery(where, payload, 1, retain=False, mid=1), now=float(now))
        session.tick(float(now))


# -- aggregator ------------------------------------------------------------------------------------


def inbound(raw: bytes) -> None:
    """What the broker hands to an aggregator: nothing is raised at all."""
    where, payload = addressed(raw)
    read_overheard(TOPICS, where, payload)
    for mqtt_version in ("5", "3.1.1"):
        found = read(TOPICS, where, payload, qos=1, mqtt_version=mqtt_version)
        match found:
            case Inbound():
                assert found.packet_bytes > len(payload)
            case Unreadable():
                assert found.reason


@cache
def aggregator_config() -> AggregatorConfig:
    """Return a configuration whose files nobody opens."""
    return AggregatorConfig.model_validate(
        {
            "federation": "lab",
            "state_dir": "/nowhere",
            "initial_adapter": "/nowhere",
            "rounds": 2,
            "goal": 2,
            "quorum": 1,
            "codec": "fp32",
            "segment_bytes": 110,
        }
    )


def coordinator(raw: bytes) -> None:
    """What devices say in an open round, several messages at a time.

    Nothing is raised, and what is answered can be written.
    """
    core = Coordinator(
        aggregator_config(),
        RunFacts(
            run=RUN,
            epoch=1,
            session="s",
            base_model="tiny",
            base_digest=hashlib.sha256().digest(),
            layout=LAYOUT,
        ),
        adapter=AdapterFacts(version=0, sha256="0" * 64, size_bytes=1484, segments=3),
        snapshot=Snapshot(),
        version="0",
    )
    outputs = [*core.start(0.0), *core.connected(0.0)]
    status = control.encode(control.DeviceStatus(control.DeviceState.IDLE, "s"))
    hello = [(TOPICS.topic(DeviceTopic(name, "status")), status) for name in (DEVICE, "dev-2")]
    said = [addressed(one) for one in raw.split(b"\r\r\r")[:8]]
    for now, (where, payload) in enumerate(hello + said, start=1):
        found = read(TOPICS, where, payload, qos=1, mqtt_version="5")
        match found:
            case Inbound():
                outputs += core.receive(found, now=now)
            case Unreadable():
                outputs += core.unreadable(found, now=now)
        for output in list(outputs):
            if isinstance(output, JournalSegment):
                outputs += core.stored({output.uid: {output.index}}, now=now)
        outputs += core.tick(now)
        for output in outputs:
            if isinstance(output, Publish):
                encode(TOPICS.topic(output.address), output.message)
        if any(isinstance(output, Freeze) for output in outputs):
            return  # what follows is the shell's
        outputs = []


TARGETS: Final[dict[str, Target]] = {
    "frame": frame_bytes,
    "topic": topic,
    "control": control_bytes,
    "bitmap": bits,
    "certificate": certificate,
    "signed": signed,
    "codec-fstq": codecs("fstq"),
    "codec-fstq-plus": codecs("fstq+"),
    "codec-fstq-r": codecs("fstq-r", "eden"),
    "codec-dense": codecs(*PLAIN),
    "codec-reference": codecs(*OTHERS),
    "downlink": downlink,
    "layout": layout,
    "payload": payload_file,
    "task-line": task_line,
    "deliveries": deliveries,
    "inbound": inbound,
    "coordinator": coordinator,
}

# What numpy only warns about is an error in a decoder.
warnings.simplefilter("error", RuntimeWarning)
logging.disable(logging.CRITICAL)
