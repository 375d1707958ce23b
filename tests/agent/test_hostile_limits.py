"""What hostile bytes may cost an agent: memory, work, and nothing that is raised.

Whoever can write an aggregator's topics is trusted with the run, and still not with the device's
memory: the network process has to stay up on a small board.
"""

from __future__ import annotations

import hashlib
import random
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import zstandard

from agent.commands import Commands
from agent.deliveries import Deliveries
from agent.job import JobPolicy
from agent.outputs import Remembered
from agent.pauses import Pauses
from agent.session import Session
from agent.tasks import TrainerHello
from transport import control, frame, limits
from transport.control import DeviceState, ModelStatus, TrainCommand
from transport.link import Delivery
from transport.messages import Have, Receipt, ReceiptState, Segment, SegmentEntry, Want
from transport.topics import Command, CoordRun, Down, Model, ModelManifest, ModelSegment, Topics
from transport.transfer import TransferPolicy

MIB = 1 << 20
MOST_HELD = 16 * MIB
MOST_CALLS = 300

TOPICS = Topics("fed")
UID = "1" * 32
RUN = TOPICS.topic(CoordRun())
MODEL = TOPICS.topic(Model())
TRAIN = TOPICS.topic(Command("dev-1", "train", "1"))
EVAL = TOPICS.topic(Command("dev-1", "eval", "1"))
DOWN = TOPICS.topic(Down("dev-1", UID))
MANIFEST = TOPICS.topic(ModelManifest(1))
SEGMENT = TOPICS.topic(ModelSegment(1, 0))
DELTA = TOPICS.topic(ModelSegment(1, 0, delta=True))
JSON_TOPICS = (RUN, MODEL, TRAIN, EVAL)


def packed(kind: int, plain: bytes, **options: Any) -> bytes:
    return bytes((1, 0x80 | kind)) + zstandard.ZstdCompressor(**options).compress(plain)


def json_bombs() -> Iterator[tuple[str, bytes]]:
    most = control.MAX_JSON_BYTES
    yield "lists in lists", b"[" * most
    yield "objects in objects", (b'{"plan":' * most)[:most]
    yield "an integer of many digits", b'{"round_id":' + b"9" * (most - 20) + b"}"
    yield "an exponent of many digits", b'{"deadline_s":1e' + b"9" * (most - 20) + b"}"
    yield "NaN", b'{"run":"x","epoch":1,"version":1,"deadline_s":NaN}'
    yield "Infinity", b'{"run":"x","epoch":1,"version":1,"deadline_s":Infinity}'
    yield "keys that stand twice", b'{"run":"a"' + b',"run":"b"' * 6000 + b"}"
    yield "a long text", b'{"run":"' + b"x" * (most - 20) + b'"}'
    yield "zeros", bytes(most)


FOR_SIZE: dict[str, tuple[str, bytes]] = {
    "a zstd bomb": (SEGMENT, packed(2, bytes(200 * MIB), level=1)),
    "a zstd bomb for a delta": (DELTA, packed(2, bytes(200 * MIB), level=1)),
    "a zstd bomb for a manifest": (MANIFEST, packed(6, bytes(200 * MIB), level=1)),
    "a zstd frame that announces no size": (
        MANIFEST,
        packed(6, bytes(MIB), write_content_size=False),
    ),
    "a frame above all limits": (SEGMENT, bytes(8 * MIB)),
    "an array of 2^32 - 1": (MANIFEST, b"\x01\x06\xdd\xff\xff\xff\xff" + bytes(1000)),
    "arrays in arrays": (MANIFEST, b"\x01\x06" + b"\x91" * 90_000),
    "maps in maps": (MANIFEST, b"\x01\x06" + b"\x81" * 90_000),
    "a byte string of 2^32 - 1": (DOWN, b"\x01\x04\x93\x01\xc6\xff\xff\xff\xff" + bytes(100)),
    "a have above all limits": (DOWN, b"\x01\x04" + bytes(100_000)),
    "a topic of 60,000 bytes": (TOPICS.bulk + "/down/" + "a" * 60_000, b"x"),
    **{
        f"JSON above all limits on {topic}": (topic, b'{"run":"' + b"x" * MIB + b'"}')
        for topic in JSON_TOPICS
    },
}

HELD: dict[str, tuple[str, bytes]] = {
    **FOR_SIZE,
    **{f"{name} on {topic}": (topic, some) for name, some in json_bombs() for topic in JSON_TOPICS},
    "a manifest that unpacks to its most": (
        MANIFEST, packed(6, b"\x98" + bytes(limits.MAX_ADAPTER_MANIFEST_BYTES - 1)),
    ),
    "a segment that unpacks to its most": (
        SEGMENT,
        packed(2, b"\x91\xc6" + struct.pack(">I", limits.MAX_SEGMENT_BYTES)
               + bytes(limits.MAX_SEGMENT_BYTES)),
    ),
    "everything accepted": (DOWN, frame.encode(Have(9, frozenset(range(2800)), 2800))),
    "a receipt of an update that is not here": (
        DOWN,
        frame.encode(
            Receipt(9, ReceiptState.ACCEPTED, "", frozenset(range(2800)), 2800)
        ),
    ),
    "a want of an update that is not here": (DOWN, frame.encode(Want(9))),
}  # fmt: skip


class Agent:
    """What an agent does with deliveries, in the middle of fetching version 1."""

    def __init__(self, small: Any) -> None:
        pauses = Pauses()
        session = Session(
            "dev-1",
            remembered=Remembered(run=small.RUN, uploads=(small.upload(1),)),
            jobs=JobPolicy(),
            transfer=TransferPolicy(),
            rng=random.Random(1),
            pauses=pauses,
        )
        session.connected(0.0)
        session.trainer_ready(TrainerHello(1, "2.4", "", 90, 10, small.BASE.hex()), now=0.0)
        self.session = session
        self.deliveries = Deliveries(
            TOPICS,
            client_id="dev-1",
            session=session,
            commands=Commands(session, pauses=pauses, boot="b07d"),
            clock=lambda: 500.0,
        )
        self.take(RUN, control.encode(small.announcement()))
        train = TrainCommand(small.RUN, 1, 2, 1, 600.0, 7, None)
        self.take(TOPICS.topic(Command("dev-1", "train", "2")), control.encode(train))
        assert session.state is DeviceState.FETCHING

    def take(self, topic: str, payload: bytes, *, now: float = 1.0) -> None:
        self.deliveries.take(Delivery(topic, payload, 1, retain=False, mid=1), now=now)


@pytest.fixture
def agent(small: Any) -> Agent:
    return Agent(small)


def held_by(action: Callable[[], None]) -> int:
    """Return the most bytes that were held at once."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def left_by(action: Callable[[], None]) -> int:
    """Return the bytes that are held afterwards."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        action()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HELD)
def test_one_hostile_message_raises_nothing_and_holds_little(agent: Agent, name: str) -> None:
    topic, payload = HELD[name]
    for _ in range(2):  # what is made once, as a validator, is there the second time
        held = held_by(lambda: agent.take(topic, payload))
    assert held < MOST_HELD // 2
    agent.session.tick(2.0)


@pytest.mark.parametrize("name", FOR_SIZE)
def test_what_is_too_large_is_refused_for_what_it_announces(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    topic, payload = FOR_SIZE[name]
    for _ in range(8):  # from then on it is logged ever more rarely
        agent.take(topic, payload)
    refused = sum(agent.deliveries.refused.values())
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    def decompress(*_: Any, **__: Any) -> None:
        raise AssertionError("it was decompressed")

    with monkeypatch.context() as patch:
        patch.setattr(zstandard, "ZstdDecompressor", decompress)
        sys.setprofile(count)
        try:
            agent.take(topic, payload)
        finally:
            sys.setprofile(None)
    assert sum(agent.deliveries.refused.values()) == refused + 1
    assert calls <= MOST_CALLS


def test_segments_without_a_manifest_are_kept_up_to_a_limit(agent: Agent) -> None:
    """And of each place only the last."""
    body = random.Random(1).randbytes(100_000)
    frames = [frame.encode(Segment(body[:-4] + struct.pack("<I", index))) for index in range(400)]
    topics = [TOPICS.topic(ModelSegment(1, index)) for index in range(400)]

    def flood() -> None:
        for _ in range(2):
            for topic, payload in zip(topics, frames, strict=True):
                agent.take(topic, payload)

    assert left_by(flood) < limits.MAX_EARLY_BYTES + 2 * MIB


def test_segments_that_the_manifest_does_not_name_leave_nothing(agent: Agent, small: Any) -> None:
    manifest, _ = small.adapter_message(1)
    agent.take(MANIFEST, frame.encode(manifest))
    frames = [frame.encode(Segment(bytes([index]) * 90_000)) for index in range(200)]

    def flood() -> None:
        for number, payload in enumerate(frames):
            agent.take(TOPICS.topic(ModelSegment(1, number % 3)), payload)
            agent.take(TOPICS.topic(ModelSegment(1, 2000 + number)), payload)

    assert left_by(flood) < MIB


def test_messages_about_updates_and_versions_that_are_not_here_leave_nothing(
    agent: Agent, small: Any
) -> None:
    have = frame.encode(Have(3, frozenset(range(2000)), 2800))
    body = frame.encode(Segment(b"x" * 20_000))

    def flood() -> None:
        for number in range(300):
            agent.take(TOPICS.topic(Down("dev-1", f"{number:032x}")), have)
            agent.take(TOPICS.topic(ModelSegment(number + 5, number % 2000)), body)
            status = ModelStatus(small.OTHER_RUN, number, "f" * 64, 10, 1)
            agent.take(MODEL, control.encode(status))
            agent.take(f"{TOPICS.monitoring}/d/dev-1/cmd/word-{number}/1", b"{}")

    assert left_by(flood) < MIB
    assert len(agent.deliveries.refused) <= 4


def test_manifests_that_follow_one_another_leave_one(agent: Agent, small: Any) -> None:
    """Each of the most segments that there may be."""

    def flood() -> None:
        for number in range(12):
            entries = tuple(
                SegmentEntry(9, hashlib.sha256(f"{number}/{index}".encode()).digest())
                for index in range(limits.MAX_SEGMENTS)
            )
            manifest, _ = small.adapter_message(1, segments=entries)
            agent.take(MANIFEST, frame.encode(manifest))

    assert left_by(flood) < 3 * MIB
