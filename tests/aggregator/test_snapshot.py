from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

import aggregator.snapshot as snapshot_file
from aggregator.adapter_folder import BadAdapter, read_adapter
from aggregator.snapshot import delta_frames, whole_frames
from codec.update import decode
from transport import frame, limits
from transport.messages import AdapterManifest, Segment

RUN = "c" * 32


def test_a_device_can_build_the_adapter_bit_by_bit_from_what_is_published(
    initial_adapter: Any,
) -> None:
    adapter = read_adapter(initial_adapter)
    shown = whole_frames(adapter, run=RUN, version=4, segment_bytes=128)
    manifest = frame.decode(AdapterManifest, shown.manifest)
    bodies = [
        frame.decode(Segment, shown.segment(index)).body for index in range(len(shown.bodies))
    ]
    for entry, body in zip(manifest.segments, bodies, strict=True):
        assert (entry.length, entry.sha256) == (len(body), hashlib.sha256(body).digest())
    flat = decode(
        manifest.codec,
        dict(enumerate(bodies)),
        layout=adapter.layout,
        segment_count=len(bodies),
    )
    np.testing.assert_array_equal(flat, adapter.flat)
    assert hashlib.sha256(flat.astype("<f4").tobytes()).digest() == manifest.sha256
    assert dict(manifest.layout) == {tensor.name: tensor.shape for tensor in adapter.layout.tensors}
    assert (manifest.run, manifest.version, manifest.adapter_config) == (RUN, 4, adapter.config)
    assert shown.size_bytes == sum(len(body) for body in bodies)


def test_a_delta_names_the_version_that_it_makes(initial_adapter: Any) -> None:
    adapter = read_adapter(initial_adapter)
    digest = hashlib.sha256(b"the version after").digest()
    shown = delta_frames(
        adapter, run=RUN, version=5, sha256=digest, codec="fstq+", bodies=(b"one", b"two two")
    )
    manifest = frame.decode(AdapterManifest, shown.manifest)
    assert (manifest.version, manifest.sha256, manifest.codec) == (5, digest, "fstq+")
    assert [entry.length for entry in manifest.segments] == [3, 7]
    assert [
        frame.decode(Segment, shown.segment(index)).body for index in range(len(shown.bodies))
    ] == [
        b"one",
        b"two two",
    ]
    assert shown.size_bytes == 10


def test_an_adapter_of_too_many_segments_names_the_settings(
    initial_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file.limits, "MAX_SEGMENTS", 2)
    with pytest.raises(BadAdapter, match="raise segment_bytes"):
        whole_frames(read_adapter(initial_adapter), run=RUN, version=0, segment_bytes=128)


def test_a_manifest_that_fits_no_packet_is_an_error(
    initial_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_FRAME_BYTES", 100)
    with pytest.raises(BadAdapter, match="does not fit"):
        whole_frames(read_adapter(initial_adapter), run=RUN, version=0, segment_bytes=512)
