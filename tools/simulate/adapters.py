"""Adapter versions as the model publishes them: 32 bytes, whole or as what changed."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.announcements import AdapterFacts
from aggregator.chain import DeltaFacts, chain_of
from aggregator.config import AggregatorConfig
from tools.simulate import payloads
from transport.messages import AdapterManifest

WHOLE_BYTES = 32
WHOLE_SEGMENTS = 2
# What the chain is told of a delta, so that one of some deltas is shorter than the whole.
DELTA_BYTES = 4
DELTA_SEGMENTS = 1
# Versions whose deltas are still on the disk.
DELTAS_KEPT = 40


def facts_of(version: int, content: bytes, *, config: AggregatorConfig) -> AdapterFacts:
    """Return what the aggregator's machine is told of a version."""
    known = {}
    if config.downlink_codec is not None:
        known = {
            number: DeltaFacts(number, DELTA_BYTES, DELTA_SEGMENTS)
            for number in range(max(1, version - DELTAS_KEPT), version + 1)
        }
    chain = chain_of(known, newest=version, whole_bytes=WHOLE_BYTES)
    begins_at = chain.begins_at
    wholes: frozenset[int] = frozenset()
    if begins_at is not None:
        kept = {0, *range(version - config.keep_versions + 1, version)}
        wholes = frozenset(number for number in kept if begins_at <= number < version)
    return AdapterFacts(
        version=version,
        sha256=content.hex(),
        size_bytes=WHOLE_BYTES,
        segments=WHOLE_SEGMENTS,
        chain=chain,
        wholes=wholes,
    )


def frames_of(
    contents: Mapping[int, bytes], version: int, *, delta: bool, run: str
) -> tuple[AdapterManifest, tuple[bytes, ...]]:
    """Return the manifest and the segments of a version, or of its delta."""
    content = contents[version]
    codec, bodies = "fp32", payloads.cut(content, segments=WHOLE_SEGMENTS)
    if delta:
        change = payloads.difference(content, contents[version - 1])
        codec, bodies = "fstq+", payloads.cut(change, segments=DELTA_SEGMENTS)
    manifest = payloads.adapter_manifest(content, bodies, run=run, version=version, codec=codec)
    return manifest, bodies
