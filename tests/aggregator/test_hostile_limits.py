"""What hostile bytes may cost the aggregator: memory, work, and nothing that is raised.

Memory is what Python and numpy hold at the most; zstd's own window is bounded by what the frame
announces, which is read first. Work is counted in calls of functions, which no other process on the
machine can make more of; `tests/fuzz/measure.py` tells the milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import msgpack
import pytest
import zstandard

from aggregator.inbound import Unreadable, read
from transport import bitmap, control, frame, limits
from transport.control import EvalResponse, TrainResponse
from transport.link import Delivery
from transport.messages import AdapterWant, Evaluation, Manifest, Segment, SegmentEntry
from transport.topics import (
    Alert,
    DeviceTopic,
    ModelWant,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)

MIB = 1 << 20
# The number: beyond the size of the update, which is not 1 MiB here.
MOST_HELD = 16 * MIB
# [calls] What refusing for size may take, however much is announced.
MOST_CALLS = 300

TOPICS = Topics("lab")
UID = "1" * 32
MANIFEST = TOPICS.topic(UpManifest("evil", UID))
SEGMENT = TOPICS.topic(UpSegment("evil", UID, 0))
WANT = TOPICS.topic(ModelWant("evil", 0))
STATUS = TOPICS.topic(DeviceTopic("evil", "status"))
PROGRESS = TOPICS.topic(DeviceTopic("evil", "progress"))
TRAIN = TOPICS.topic(Response("evil", "train", "1"))
EVAL = TOPICS.topic(Response("evil", "eval", "1"))
JSON_TOPICS = (STATUS, PROGRESS, TRAIN, EVAL)


def packed(plain: bytes, **options: Any) -> bytes:
    """A compressed segment frame of these bytes."""
    return b"\x01\x82" + zstandard.ZstdCompressor(**options).compress(plain)


def announcing(size: int, body: bytes) -> bytes:
    """A zstd frame of one segment whose header says a content size of its own: 8 bytes of it."""
    whole = zstandard.ZstdCompressor(write_content_size=False).compress(body)
    assert whole[4] & 0xE0 == 0  # a window descriptor follows, and no content size
    return b"\x01\x82" + whole[:4] + bytes([whole[4] | 0xC0]) + whole[5:6] + struct.pack(
        "<Q", size
    ) + whole[6:]  # fmt: skip


# Refused for what they announce: nothing is decompressed, and no array is built.
FOR_SIZE: dict[str, tuple[str, bytes]] = {
    "a zstd bomb": (SEGMENT, packed(bytes(200 * MIB), level=1)),
    "a zstd frame that announces 2^60 bytes": (SEGMENT, announcing(1 << 60, b"x" * 500)),
    "a zstd frame that announces no size": (SEGMENT, packed(bytes(MIB), write_content_size=False)),
    "a zstd frame with a window of 128 MiB": (
        SEGMENT,
        b"\x01\x82\x28\xb5\x2f\xfd\x80" + bytes([(27 - 10) << 3]) + struct.pack("<I", 1000)
        + b"\x01\0\0",
    ),
    "a frame above all limits": (SEGMENT, bytes(8 * MIB)),
    "a manifest above all limits": (MANIFEST, bytes(8 * MIB)),
    "a want above all limits": (WANT, b"\x01\x07" + bytes(130_000)),
    "an array of 2^32 - 1": (MANIFEST, b"\x01\x01\xdd\xff\xff\xff\xff" + bytes(1000)),
    "a map of 2^32 - 1": (MANIFEST, b"\x01\x01\xdf\xff\xff\xff\xff" + bytes(1000)),
    "a byte string of 2^32 - 1": (SEGMENT, b"\x01\x02\x91\xc6\xff\xff\xff\xff" + bytes(1000)),
    "a text of 2^32 - 1": (MANIFEST, b"\x01\x01\x9e\xdb\xff\xff\xff\xff" + bytes(1000)),
    "an extension of 2^32 - 1": (MANIFEST, b"\x01\x01\x9e\xc9\xff\xff\xff\xff\x01" + bytes(1000)),
    "arrays in arrays": (MANIFEST, b"\x01\x01" + b"\x91" * 90_000),
    "arrays of the longest in arrays": (
        MANIFEST, b"\x01\x01" + b"\xdc\x00\x0e" * 30_000 + bytes(10),
    ),
    "maps in maps": (MANIFEST, b"\x01\x01" + b"\x81" * 90_000),
    "90,000 empty maps": (MANIFEST, b"\x01\x01\xdd" + struct.pack(">I", 90_000) + b"\x80" * 90_000),
    "a topic of 60,000 bytes": (TOPICS.bulk + "/up/" + "a" * 60_000, b""),
    "a topic of 30,000 levels": (TOPICS.bulk + "/up" * 30_000, b""),
    **{
        f"JSON above all limits on {topic}": (topic, b'{"state":"' + b"x" * MIB + b'"}')
        for topic in (STATUS, TRAIN, EVAL)  # of progress nothing is read but that there is some
    },
}  # fmt: skip


def json_bombs() -> Iterator[tuple[str, bytes]]:
    most = control.MAX_JSON_BYTES
    yield "lists in lists", b"[" * most
    yield "closed lists in lists", b"[" * (most // 2) + b"]" * (most // 2)
    yield "objects in objects", (b'{"state":' * most)[:most]
    yield "an integer of many digits", b'{"round_id":' + b"9" * (most - 20) + b"}"
    yield "a negative one", b'{"tokens":-' + b"9" * (most - 20) + b"}"
    yield "an exponent of many digits", b'{"loss":1e' + b"9" * (most - 20) + b"}"
    yield "a fraction of many digits", b'{"loss":0.' + b"9" * (most - 20) + b"}"
    yield "NaN", b'{"run":"x","version":1,"loss":NaN,"tokens":1,"correct":0}'
    yield "Infinity", b'{"run":"x","version":1,"loss":-Infinity,"tokens":1,"correct":0}'
    yield (
        "a float beyond the largest",
        b'{"run":"x","version":1,"loss":1e999,"tokens":1,"correct":0}',
    )
    yield "keys that stand twice", b'{"state":"idle",' * 1 + b'"state":"lost",' * 4000 + b'"x":1}'
    yield "many unknown keys", json.dumps({f"k{i}": i for i in range(5000)}).encode()
    yield "a long text", b'{"state":"' + b"\xc3\xa4" * (most // 2 - 20) + b'"}'
    yield "lone surrogates", b'{"state":"idle","session":"' + b"\\ud800" * 10_000 + b'"}'
    yield "half a character", b'{"state":"idle","session":"\xc3"}'
    yield "zeros", bytes(most)


def longest_manifest() -> Manifest:
    entries = tuple(
        SegmentEntry(200, hashlib.sha256(str(index).encode()).digest())
        for index in range(limits.MAX_SEGMENTS)
    )
    digest, evaluation = bytes(32), Evaluation(1.0, 1, 0)
    return Manifest(
        "0" * 32, 1, 0, digest, digest, "evil", 1, "fp32", 1, entries, 1.0, 1, 1.0, evaluation
    )


HELD: dict[str, tuple[str, bytes]] = {
    **FOR_SIZE,
    **{f"{name} on {topic}": (topic, some) for name, some in json_bombs() for topic in JSON_TOPICS},
    "a zstd frame that holds more than it announces": (SEGMENT, announcing(600, bytes(64 * MIB))),
    "a zstd frame that holds less": (SEGMENT, announcing(60_000, b"x" * 500)),
    "the most that a zstd frame may hold": (SEGMENT, packed(bytes(limits.MAX_SEGMENT_BYTES))),
    "an integer beyond 64 bits": (WANT, b"\x01\x07\x91\xc4\x01\x01"),
    "all bits of a bitmap": (WANT, frame.encode(AdapterWant(frozenset(range(2800))))),
    "more bits than there are segments": (
        WANT,
        b"\x01\x07" + msgpack.packb([b"\xff" * ((limits.MAX_SEGMENTS + 7) // 8)]),
    ),
    "a bitmap above all limits": (WANT, b"\x01\x07" + msgpack.packb([b"\xff" * 60_000])),
    "a table of half an entry": (
        MANIFEST, b"\x01\x01" + msgpack.packb([*["x"] * 9, b"\x01" * 90_001, 1.0, 1, 1.0, None]),
    ),
    "the most segments": (MANIFEST, frame.encode(longest_manifest())),
    "an unknown compressed manifest": (MANIFEST, b"\x01\x81" + zstandard.compress(bytes(90_000))),
}  # fmt: skip


@pytest.fixture
def rig(make_rig: Any) -> Any:
    """A round in which `evil` was asked."""
    rig = make_rig(goal=2, quorum=1, min_devices=2, rounds=1).start()
    for device in rig.add("a", "evil"):
        device.silent = device.client_id == "evil"
        device.most_segments = 0
        device.join()
    rig.settle()
    return rig


def deliver(rig: Any, topic: str, payload: bytes) -> None:
    rig.service._process([Delivery(topic, payload, qos=1, retain=False, mid=1)])


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


def calls_of(action: Callable[[], None]) -> int:
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", HELD)
def test_one_hostile_message_raises_nothing_and_holds_little(rig: Any, name: str) -> None:
    topic, payload = HELD[name]
    for _ in range(2):  # what is made once, as a validator, is there the second time
        held = held_by(lambda: deliver(rig, topic, payload))
    assert held < 2 * MIB + 4 * len(payload) < MOST_HELD or held < MOST_HELD // 2
    rig.settle()
    assert rig.service._coordinator.state.value == "training"


@pytest.mark.parametrize("name", FOR_SIZE)
def test_what_is_too_large_is_refused_for_what_it_announces(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nothing is decompressed, and as little is done for a gigabyte as for a byte too many."""
    topic, payload = FOR_SIZE[name]
    found: list[Any] = []

    def refuse() -> None:
        found.append(read(TOPICS, topic, payload, qos=1, mqtt_version="5"))

    def decompress(*_: Any, **__: Any) -> None:
        raise AssertionError("it was decompressed")

    refuse()
    with monkeypatch.context() as patch:
        patch.setattr(zstandard, "ZstdDecompressor", decompress)
        held = held_by(refuse)
        calls = calls_of(refuse)
    for one in found:
        assert isinstance(one, Unreadable)
        assert one.reason in {"oversized", "malformed", "topic"}
    assert calls <= MOST_CALLS
    # A payload's copy without its header, a topic's levels, and an error's text.
    assert held <= 100_000 + 2 * min(len(payload), limits.MAX_FRAME_BYTES) + 60 * len(topic)


def test_a_frame_that_lies_is_read_no_further_than_it_announces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """6 KB that hold 200 MB and announce 600 bytes: the reader asks for 601, and stops."""
    asked: list[int] = []
    true = zstandard.ZstdDecompressor

    class Counting:
        def __init__(self, **options: Any) -> None:
            assert options["max_window_size"] <= 8 * MIB
            self._true = true(**options)

        def stream_reader(self, source: Any) -> Any:
            reader = self._true.stream_reader(source)

            class Reader:
                def read(self, size: int) -> bytes:
                    asked.append(size)
                    return bytes(reader.read(size))

            return Reader()

    monkeypatch.setattr(zstandard, "ZstdDecompressor", Counting)
    payload = announcing(600, bytes(200 * MIB))
    assert len(payload) < 20_000
    found = read(TOPICS, SEGMENT, payload, qos=1, mqtt_version="5")
    assert isinstance(found, Unreadable)
    assert asked == [601]


def test_the_longest_manifest_is_taken_and_costs_no_more_than_it_says(
    rig: Any, update_maker: Any
) -> None:
    """2,800 segments, of which the budget would allow none: oversized, with the fewest bytes."""
    update = update_maker(client_id="evil", run=rig.state.run.run, round_id=1)
    manifest = replace(update.manifest, segments=longest_manifest().segments)
    payload = frame.encode(manifest)
    topic = TOPICS.topic(UpManifest("evil", frame.uid(manifest)))
    assert held_by(lambda: deliver(rig, topic, payload)) < 3 * MIB
    rig._carry()
    assert rig.said(Alert, code="refused-oversized")


def flood(rig: Any, messages: Iterator[tuple[str, bytes]], *, warm_up: int) -> tuple[int, int]:
    """Return the bytes that some messages leave behind, and those that all the others leave."""

    def take(count: int | None = None) -> None:
        batch: list[Delivery] = []
        for number, (topic, payload) in enumerate(messages, start=1):
            batch.append(Delivery(topic, payload, qos=1, retain=False, mid=1))
            if len(batch) == 128 or number == count:
                rig.service._process(batch)
                rig.link.published.clear()
                rig.link.acknowledged.clear()
                rig.now += 1.0  # a quota that fills again lets more of the flood in
                batch = []
            if number == count:
                return
        rig.service._process(batch)

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        take(warm_up)
        middle, _ = tracemalloc.get_traced_memory()
        take()
        after, _ = tracemalloc.get_traced_memory()
        return middle - before, after - middle
    finally:
        tracemalloc.stop()


@pytest.fixture
def open_rig(make_rig: Any) -> Any:
    """A rig whose quotas let a flood in, so that it meets what is behind them."""
    rig = make_rig(
        goal=2,
        quorum=1,
        min_devices=2,
        rounds=1,
        deadline_s=50_000.0,
        quota_segments_per_s=100_000.0,
        quota_burst_segments=100_000,
    ).start()
    for device in rig.add("a", "evil"):
        device.silent = True
        device.join()
    rig.settle()
    return rig


def test_a_flood_of_unknown_updates_leaves_a_bounded_memory(open_rig: Any) -> None:
    body = frame.encode(Segment(b"what is this" * 50))
    messages = (
        (TOPICS.topic(UpSegment("evil", f"{number:032x}", 0)), body) for number in range(9_000)
    )
    first, more = flood(open_rig, messages, warm_up=5_000)
    assert first < 4 * MIB
    assert more < MIB, "it grows with every name that is made up"


def test_a_flood_of_late_manifests_leaves_a_bounded_memory(
    open_rig: Any, update_maker: Any
) -> None:
    """Each of another round or sequence number, and so of another name."""
    update = update_maker(client_id="evil", run=open_rig.state.run.run, round_id=1)

    def messages() -> Iterator[tuple[str, bytes]]:
        for number in range(4_000):
            manifest = replace(
                update.manifest, round_id=2 + number % 7, seq=number + 2, run="0" * 32
            )
            yield TOPICS.topic(UpManifest("evil", f"{number:032x}")), frame.encode(manifest)

    first, more = flood(open_rig, messages(), warm_up=1_500)
    assert first < 4 * MIB
    assert more < MIB


@pytest.mark.parametrize("length", [8, 60_000], ids=["short", "long"])
def test_a_flood_of_made_up_devices_leaves_little_for_each(open_rig: Any, length: int) -> None:
    """Statuses as long as JSON may be, in the names of devices that there are not."""

    def messages() -> Iterator[tuple[str, bytes]]:
        for number in range(3_000):
            status = {"state": "paused", "session": f"{number:08}".ljust(length, "s")}
            topic = TOPICS.topic(DeviceTopic(f"x{number}", "status"))
            yield topic, json.dumps({**status, "reason": "r" * 100}).encode()
            yield TOPICS.topic(DeviceTopic(f"x{number}", "progress")), b'{"round_id": 1}'

    first, more = flood(open_rig, messages(), warm_up=2_000)
    assert first < 1_000 * 2_048 + MIB
    assert more < 2_000 * 2_048, "a made-up device takes more than 2 KiB"


def test_answers_of_devices_that_were_not_asked_leave_nothing(open_rig: Any) -> None:
    run = open_rig.state.run.run

    def messages() -> Iterator[tuple[str, bytes]]:
        for number in range(600):
            name = f"x{number}"
            answer = TrainResponse(run, 1, number % 2 == 0, "r" * 1000)
            yield TOPICS.topic(Response(name, "train", "1")), control.encode(answer)
            report = EvalResponse(run, number % 3, 1.0, 10, 5)
            yield TOPICS.topic(Response(name, "eval", str(number % 3))), control.encode(report)
            want = frame.encode(AdapterWant(frozenset(range(number % 2800 + 1))))
            yield TOPICS.topic(ModelWant(name, number)), want
            yield TOPICS.topic(ModelWant(name, 0)), want

    first, more = flood(open_rig, messages(), warm_up=800)
    assert first < 4 * MIB
    assert more < MIB


def test_alerts_are_as_many_as_there_are_reasons_however_inventive_the_sender(
    open_rig: Any, update_maker: Any
) -> None:
    """A retained topic for every made-up word would fill the broker."""
    rig = open_rig
    update = update_maker(client_id="evil", run=rig.state.run.run, round_id=1)
    for topic, payload in HELD.values():
        deliver(rig, topic, payload)
    for number in range(500):
        name = f"evil-{number}"
        deliver(rig, TOPICS.topic(DeviceTopic(name, "status")), b"nonsense %d" % number)
        deliver(rig, TOPICS.topic(UpSegment(name, f"{number:032x}", number)), b"\x01\x02\x90")
        deliver(rig, f"{TOPICS.bulk}/up/{name}/nowhere/{number}", b"")
        manifest = replace(update.manifest, codec=f"codec-{number}", seq=number + 1)
        deliver(rig, TOPICS.topic(UpManifest("evil", frame.uid(manifest))), frame.encode(manifest))
        rig.now += 1.1
    rig.settle()
    rig._carry()
    codes = {address.code for address, _ in rig.said(Alert)}
    assert 3 <= len(codes) <= 12
    assert all(len(json.loads(payload)["text"]) <= 200 for _, payload in rig.said(Alert) if payload)


def test_bitmaps_are_as_long_as_what_they_stand_for() -> None:
    """The number that a bitmap becomes is no longer than the message was."""
    most = bitmap.pack(range(limits.MAX_SEGMENTS), limits.MAX_SEGMENTS)
    assert held_by(lambda: bitmap.unpack(most, limits.MAX_SEGMENTS)) < MIB // 2
