from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aggregator import published as published_file
from aggregator import snapshot
from aggregator.adapter_folder import BadAdapter
from aggregator.published import Published
from codec.layout import Layout
from codec.update import decode, move
from transport import frame
from transport.messages import AdapterManifest, Segment

DOWN = {"downlink_codec": "fstq+", "downlink_bits_per_coordinate": 8}


@pytest.fixture
def rig(make_rig: Callable[..., Any]) -> Any:
    rig = make_rig(rounds=3, **DOWN).start()
    for device in rig.add("nano-1", "nano-2"):
        device.join()
    rig.finish()
    return rig


def opened(frames: Any) -> tuple[AdapterManifest, dict[int, bytes]]:
    bodies = [
        frame.decode(Segment, frames.segment(index)).body for index in range(len(frames.bodies))
    ]
    return frame.decode(AdapterManifest, frames.manifest), dict(enumerate(bodies))


def test_both_forms_of_every_version_make_the_same_bits(rig: Any, layout: Layout) -> None:
    published = Published(rig.config, rig.state)
    flat = rig.adapter(0)
    for version in (1, 2, 3):
        manifest, bodies = opened(published.frames(version, delta=True))
        move(manifest.codec, bodies, base=flat, layout=layout)
        assert hashlib.sha256(flat.tobytes()).digest() == manifest.sha256
        manifest, bodies = opened(published.frames(version, delta=False))
        whole = decode(manifest.codec, bodies, layout=layout, segment_count=len(bodies))
        np.testing.assert_array_equal(whole, flat)


def test_what_devices_can_do_without_is_not_made(rig: Any) -> None:
    published = Published(rig.config, rig.state)
    assert published.frames(4, delta=True) is None
    assert published.frames(4, delta=False) is None
    assert published.frames(0, delta=True) is None


def test_the_whole_is_made_only_when_it_is_wanted(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(options["version"])
        return snapshot.whole_frames(*arguments, **options)

    monkeypatch.setattr(published_file, "whole_frames", counted)
    published = Published(rig.config, rig.state)
    assert made == [3], "once, for its size"
    published.frames(3, delta=True)
    assert published.candidate(rig.state.adapter, 4, None).version == 4
    assert made == [3]
    published.frames(2, delta=False)
    assert made == [3, 2]


def test_a_candidate_counts_only_when_it_is_committed(rig: Any) -> None:
    published = Published(rig.config, rig.state)
    delta = rig.state.delta(3)
    candidate = published.candidate(rig.state.adapter, 4, delta)
    assert published.facts.version == 3
    assert candidate.chain.deltas[-1].version == 4
    published.committed(candidate)
    assert published.facts == candidate
    assert (candidate.count(3, delta=True), candidate.count(3, delta=False) > 0) == (1, True)
    assert candidate.size_bytes > sum(each.size_bytes for each in candidate.chain.deltas)


def test_a_damaged_newest_delta_is_refused_before_the_run_goes_on(rig: Any) -> None:
    (rig.config.state_dir / "adapters" / "3" / "delta.bin").write_bytes(b"fstq+ 9\nx")
    with pytest.raises(BadAdapter, match="damaged"):
        Published(rig.config, rig.state)
