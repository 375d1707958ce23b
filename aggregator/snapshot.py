"""An adapter version as what is published of it: a manifest and dense segments."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from aggregator.adapter_folder import Adapter, BadAdapter
from aggregator.announcements import AdapterFacts
from codec.codec import Budget
from codec.registry import codec_named
from transport import frame, limits
from transport.messages import AdapterManifest, Segment, SegmentEntry

# A newcomer must be able to build it bit by bit from nothing.
CODEC = "fp32"


@dataclass(frozen=True, slots=True)
class AdapterSnapshot:
    """Everything that is published of one adapter version.

    Attributes:
        manifest_frame: The manifest, ready to be sent.
        segment_frames: The segments, ready to be sent.
    """

    facts: AdapterFacts
    manifest_frame: bytes
    segment_frames: tuple[bytes, ...]


def make_snapshot(
    adapter: Adapter, *, run: str, version: int, segment_bytes: int
) -> AdapterSnapshot:
    """Return what a device needs to build this adapter version from nothing.

    Raises:
        BadAdapter: It takes more segments than a manifest can name, or a manifest too large.
    """
    bodies = codec_named(CODEC).encode(
        adapter.flat,
        None,
        layout=adapter.layout,
        budget=Budget(update_bytes=None, segment_bytes=segment_bytes),
        seed=0,
    )
    if len(bodies) > limits.MAX_SEGMENTS:
        raise BadAdapter(
            f"the adapter takes {len(bodies)} segments of {segment_bytes} bytes, at most "
            f"{limits.MAX_SEGMENTS} fit a manifest: raise segment_bytes or lower the rank"
        )
    manifest = AdapterManifest(
        run=run,
        version=version,
        base_digest=adapter.base_digest,
        layout=tuple((tensor.name, tensor.shape) for tensor in adapter.layout.tensors),
        codec=CODEC,
        segments=tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies),
        sha256=adapter.sha256,
        adapter_config=adapter.config,
    )
    try:
        manifest_frame = frame.encode(manifest)
    except ValueError as error:
        raise BadAdapter(f"the adapter's manifest does not fit a packet: {error}") from error
    facts = AdapterFacts(
        version=version,
        sha256=adapter.sha256.hex(),
        size_bytes=sum(len(body) for body in bodies),
        segments=len(bodies),
    )
    return AdapterSnapshot(
        facts, manifest_frame, tuple(frame.encode(Segment(body)) for body in bodies)
    )
