"""An adapter version as what is published of it: a manifest and segments, dense or as a delta."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from aggregator.adapter_folder import Adapter, BadAdapter
from codec.codec import Budget
from codec.registry import codec_named
from transport import frame, limits
from transport.messages import AdapterManifest, Segment, SegmentEntry

# A newcomer must be able to build it bit by bit from nothing.
CODEC = "fp32"


@dataclass(frozen=True, slots=True)
class Frames:
    """What is sent: a manifest, and the segments that it names.

    Attributes:
        manifest: Its frame.
        bodies: The segments, as the codec wrote them.
    """

    manifest: bytes
    bodies: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the segments, as the codec wrote them."""
        return sum(len(body) for body in self.bodies)

    def segment(self, index: int) -> bytes:
        """Return a segment's frame, compressed only now: most questions are for few segments."""
        return frame.encode(Segment(self.bodies[index]))


def whole_frames(adapter: Adapter, *, run: str, version: int, segment_bytes: int) -> Frames:
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
    return _frames(
        adapter, run=run, version=version, sha256=adapter.sha256, codec=CODEC, bodies=bodies
    )


def delta_frames(
    like: Adapter,
    *,
    run: str,
    version: int,
    sha256: bytes,
    codec: str,
    bodies: Sequence[bytes],
) -> Frames:
    """Return what a device needs to build a version from the one before.

    Args:
        like: Any version of the run: they have layout, base model and configuration in common.
        run: The run's id.
        version: What the delta makes.
        sha256: That version's digest.
        codec: What wrote the delta.
        bodies: Its segments.

    Raises:
        BadAdapter: It takes more segments than a manifest can name, or a manifest too large.
    """
    return _frames(like, run=run, version=version, sha256=sha256, codec=codec, bodies=bodies)


def _frames(
    adapter: Adapter,
    *,
    run: str,
    version: int,
    sha256: bytes,
    codec: str,
    bodies: Sequence[bytes],
) -> Frames:
    if len(bodies) > limits.MAX_SEGMENTS:
        raise BadAdapter(
            f"the adapter takes {len(bodies)} segments, at most {limits.MAX_SEGMENTS} fit a "
            "manifest: raise segment_bytes or lower the rank"
        )
    manifest = AdapterManifest(
        run=run,
        version=version,
        base_digest=adapter.base_digest,
        layout=tuple((tensor.name, tensor.shape) for tensor in adapter.layout.tensors),
        codec=codec,
        segments=tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies),
        sha256=sha256,
        adapter_config=adapter.config,
    )
    try:
        manifest_frame = frame.encode(manifest)
    except ValueError as error:
        raise BadAdapter(f"the adapter's manifest does not fit a packet: {error}") from error
    return Frames(manifest_frame, tuple(bodies))
