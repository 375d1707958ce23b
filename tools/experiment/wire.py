"""How many bytes updates and adapter versions take over MQTT: whole PUBLISH packets. Pure.

Every message is really made, by the frames and topics that are deployed. What the link adds below
MQTT (TLS, TCP, acknowledgements) is not in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from codec.codec import Budget, FloatArray
from codec.layout import Layout
from codec.registry import codec_named
from transport import frame
from transport.messages import (
    AdapterManifest,
    Evaluation,
    Manifest,
    Message,
    Segment,
    SegmentEntry,
)
from transport.topics import Address, ModelManifest, ModelSegment, Topics, UpManifest, UpSegment
from transport.wire import publish_size

_TOPICS: Final = Topics("experiment")
_RUN: Final = "0" * 32
_DIGEST: Final = bytes(32)
_QOS: Final = 1
# What a manifest says beside sizes and digests; figures of these magnitudes have these lengths.
_EVALUATION: Final = Evaluation(loss=2.5, tokens=3000, correct=1500)
_TRAIN_LOSS: Final = 2.5
_TRAIN_S: Final = 12.5


@dataclass(frozen=True, slots=True)
class Update:
    """What a client's messages of one round say.

    Attributes:
        client_id: The device.
        round_id: The round, ≥ 1.
        codec: The codec's name.
        num_examples: The update's weight.
        steps: Local optimizer steps.
        segments: In the order of sending.
    """

    client_id: str
    round_id: int
    codec: str
    num_examples: int
    steps: int
    segments: Sequence[bytes]


def update_bytes(update: Update) -> int:
    """Return the bytes of an update's manifest and segments, each as its PUBLISH packet."""
    manifest = Manifest(
        run=_RUN,
        round_id=update.round_id,
        base_version=update.round_id - 1,
        base_digest=_DIGEST,
        layout_digest=_DIGEST,
        client_id=update.client_id,
        seq=update.round_id,
        codec=update.codec,
        num_examples=update.num_examples,
        segments=_entries(update.segments),
        train_loss=_TRAIN_LOSS,
        steps=update.steps,
        train_s=_TRAIN_S,
        evaluation=_EVALUATION,
    )
    uid = frame.uid(manifest)
    messages: list[tuple[Address, Message]] = [(UpManifest(update.client_id, uid), manifest)]
    for index, body in enumerate(update.segments):
        messages.append((UpSegment(update.client_id, uid, index), Segment(body)))
    return _published(messages)


def snapshot_bytes(adapter: FloatArray, *, layout: Layout, segment_bytes: int) -> int:
    """Return the bytes of a whole adapter version in fp32, manifest and segments.

    The adapter's PEFT configuration, about a kilobyte, is not in it.

    Args:
        adapter: float32 (layout.size,).
        layout: The adapter's.
        segment_bytes: Most bytes that one segment has.
    """
    bodies = codec_named("fp32").encode(
        adapter,
        None,
        layout=layout,
        budget=Budget(update_bytes=None, segment_bytes=segment_bytes),
        seed=0,
    )
    return _version_bytes(bodies, layout=layout, codec="fp32", version=1, delta=False)


def delta_bytes(segments: Sequence[bytes], *, layout: Layout, codec: str, version: int) -> int:
    """Return the bytes of a version's delta from the one before, manifest and segments.

    Args:
        segments: As the downlink codec made them.
        layout: The adapter's.
        codec: The downlink codec's name.
        version: The version, ≥ 1.
    """
    return _version_bytes(segments, layout=layout, codec=codec, version=version, delta=True)


def _version_bytes(
    bodies: Sequence[bytes], *, layout: Layout, codec: str, version: int, delta: bool
) -> int:
    manifest = AdapterManifest(
        run=_RUN,
        version=version,
        base_digest=_DIGEST,
        layout=tuple((tensor.name, tensor.shape) for tensor in layout.tensors),
        codec=codec,
        segments=_entries(bodies),
        sha256=_DIGEST,
        adapter_config="{}",
    )
    messages: list[tuple[Address, Message]] = [(ModelManifest(version, delta), manifest)]
    messages += [
        (ModelSegment(version, index, delta), Segment(body)) for index, body in enumerate(bodies)
    ]
    return _published(messages)


def _entries(bodies: Iterable[bytes]) -> tuple[SegmentEntry, ...]:
    return tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies)


def _published(messages: Iterable[tuple[Address, Message]]) -> int:
    return sum(
        publish_size(_TOPICS.topic(address), len(frame.encode(message)), qos=_QOS)
        for address, message in messages
    )
