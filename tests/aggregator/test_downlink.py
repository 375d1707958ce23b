"""Versions as deltas: both ends bit-equal, over crashes, and no further from the exact adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from aggregator.config import AggregatorConfig
from codec.layout import Layout
from codec.registry import codec_named
from codec.update import decode, move
from transport import control, frame
from transport.control import ModelStatus, RunAnnouncement
from transport.messages import AdapterManifest, AdapterWant, Segment
from transport.topics import CoordRun, Model, ModelManifest, ModelSegment, ModelWant

DOWN = {"downlink_codec": "fstq", "downlink_bits_per_coordinate": 6}


def fetched(rig: Any, version: int, *, delta: bool) -> tuple[AdapterManifest, dict[int, bytes]]:
    """Return what was published of a version."""
    said = {address: payload for address, payload, _ in rig.published if payload}
    manifest = frame.decode(AdapterManifest, said[ModelManifest(version, delta)])
    bodies = {
        index: frame.decode(Segment, said[ModelSegment(version, index, delta)]).body
        for index in range(len(manifest.segments))
    }
    return manifest, bodies


def follow(rig: Any, flat: Any, version: int, layout: Layout) -> None:
    """Do what a device does that holds the version before."""
    manifest, bodies = fetched(rig, version, delta=True)
    move(manifest.codec, bodies, base=flat, layout=layout)
    assert hashlib.sha256(flat.astype("<f4").tobytes()).digest() == manifest.sha256


@pytest.mark.parametrize("down", [DOWN, {"downlink_codec": "fp16"}])
def test_a_device_that_follows_the_deltas_holds_every_version_to_the_bit(
    make_rig: Callable[..., Any], layout: Layout, down: dict[str, Any]
) -> None:
    rig = make_rig(rounds=3, **down).start()
    flat = rig.initial.copy()
    for device in rig.add("nano-1", "nano-2"):
        device.join()
    rig.finish()
    for version in (1, 2, 3):
        follow(rig, flat, version, layout)
        np.testing.assert_array_equal(flat, rig.adapter(version))


def test_the_exact_adapter_is_never_further_than_one_deltas_error(
    make_rig: Callable[..., Any],
) -> None:
    plain, coded = make_rig(rounds=4).start(), make_rig(rounds=4, **DOWN).start()
    for rig in (plain, coded):
        for device in rig.add("nano-1", "nano-2"):
            device.join()
        rig.finish()
    delta = coded.state.delta(4)
    assert delta is not None
    # The devices here send the same updates whatever they start from, so the masters agree.
    np.testing.assert_allclose(delta.master, plain.adapter(4), atol=1e-6)
    missed = np.linalg.norm(coded.adapter(4) - delta.master)
    assert missed < 0.5 * np.linalg.norm(plain.adapter(4) - plain.adapter(3))


def play(make_rig: Callable[..., Any], rounds: int, **changes: Any) -> Any:
    rig = make_rig(rounds=rounds, **(DOWN | changes)).start()
    for device in rig.add("nano-1", "nano-2"):
        device.join()
    rig.finish()
    return rig


def model_of(rig: Any) -> ModelStatus:
    return control.decode(ModelStatus, rig.said(Model)[-1][1])


def retained(rig: Any) -> dict[tuple[int, bool], set[str]]:
    """Return the topics that the broker keeps, by version and whether they are its delta's."""
    forms: dict[tuple[int, bool], set[str]] = {}
    for topic in rig.retained:
        if topic.startswith("flx/v1/lab/model/"):
            version, rest = topic.removeprefix("flx/v1/lab/model/").split("/", maxsplit=1)
            forms.setdefault((int(version), rest.startswith("d/")), set()).add(rest)
    return forms


def test_the_deltas_of_the_chain_are_retained_as_long_as_they_are_less_than_the_whole(
    make_rig: Callable[..., Any],
) -> None:
    rig = play(make_rig, 8)
    status = model_of(rig)
    assert status.chain_from is not None
    chain = range(status.chain_from + 1, 9)
    assert 2 <= len(chain) < 8
    assert retained(rig).keys() == {(version, True) for version in chain}
    sizes = {
        version: sum(len(body) for body in fetched(rig, version, delta=True)[1].values())
        for version in range(1, 9)
    }
    assert status.chain_bytes == sum(sizes[version] for version in chain) < status.bytes
    assert status.chain_bytes + sizes[status.chain_from] >= status.bytes
    assert status.delta_bytes == sizes[8]
    assert all("d/m" in topics and "d/s/0" in topics for topics in retained(rig).values())


@pytest.mark.parametrize("keep", [1, 5])
def test_after_a_restart_the_chain_is_published_again(
    make_rig: Callable[..., Any], keep: int
) -> None:
    rig = play(make_rig, 8, keep_versions=keep)
    before, status, chain = dict(rig.retained), model_of(rig), rig.service._published.facts
    for topic in [topic for topic in rig.retained if topic.startswith("flx")]:
        del rig.retained[topic]
    rig.restart()
    models = {topic for topic in before if topic.startswith("flx")}
    assert {topic: before[topic] for topic in models} == {
        topic: rig.retained[topic] for topic in rig.retained if topic.startswith("flx")
    }
    assert (model_of(rig).chain_from, model_of(rig).chain_bytes) == (
        status.chain_from,
        status.chain_bytes,
    )
    assert rig.service._published.facts == chain
    folders = {int(path.name) for path in (rig.config.state_dir / "adapters").iterdir()}
    oldest = chain.chain.oldest
    assert folders == {0, *range(min(oldest, 9 - keep), 9)}


def test_any_segment_of_any_delta_of_the_chain_may_be_asked_for(
    make_rig: Callable[..., Any],
) -> None:
    rig = play(make_rig, 8)
    first = model_of(rig).chain_from
    assert first is not None
    for version in range(1, 9):
        rig.published.clear()
        want = AdapterWant(frozenset({0}))
        rig.say(ModelWant("nano-3", version, delta=True), want)
        rig.say(ModelWant("nano-4", version, delta=True), want)
        rig.settle()
        sent = rig.said(ModelSegment, delta=True)
        assert [(address.version, address.index) for address, _ in sent] == (
            [(version, 0)] if version > first else []
        )


def test_an_older_whole_is_finished_for_who_has_begun_it_but_not_kept_by_the_broker(
    make_rig: Callable[..., Any], layout: Layout
) -> None:
    rig = play(make_rig, 8, keep_versions=9)
    first = model_of(rig).chain_from
    assert first is not None
    for version in range(9):
        rig.published.clear()
        rig.say(ModelWant("nano-3", version), AdapterWant(None))
        rig.settle()
        if version < first:
            assert not rig.said(ModelManifest)
            continue
        manifest, bodies = fetched(rig, version, delta=False)
        whole = decode(manifest.codec, bodies, layout=layout, segment_count=len(bodies))
        np.testing.assert_array_equal(whole, rig.adapter(version))
    assert {version for version, delta in retained(rig) if not delta} == {8}


def test_a_hop_whose_file_is_damaged_is_not_sent_and_stops_nobody(
    make_rig: Callable[..., Any],
) -> None:
    rig = play(make_rig, 3)
    (rig.config.state_dir / "adapters" / "2" / "delta.bin").write_bytes(b"x")
    rig.published.clear()
    rig.say(ModelWant("nano-3", 2, delta=True), AdapterWant(None))
    rig.say(ModelWant("nano-3", 3, delta=True), AdapterWant(None))
    rig.settle()
    assert [address.version for address, _ in rig.said(ModelManifest)] == [3]


def test_no_frames_are_kept_in_memory(make_rig: Callable[..., Any]) -> None:
    rig = play(make_rig, 3)
    kept = [value for value in vars(rig.service._published).values() if isinstance(value, bytes)]
    assert kept == []
    assert "Frames" not in {type(value).__name__ for value in vars(rig.service).values()}


def test_a_delta_as_large_as_the_adapter_is_not_published(make_rig: Callable[..., Any]) -> None:
    rig = play(make_rig, 2, downlink_codec="fp32", downlink_bits_per_coordinate=None)
    assert retained(rig).keys() == {(2, False)}
    assert (model_of(rig).chain_from, model_of(rig).delta_segments) == (None, 0)


def test_versions_go_down_as_deltas_unless_it_is_said_that_they_do_not(
    make_rig: Callable[..., Any],
) -> None:
    fields = AggregatorConfig.model_fields
    assert fields["downlink_codec"].default == "fstq+"
    config = make_rig(downlink_codec="fstq+").config
    assert config.downlink_bytes(8000) == 4000
    assert make_rig().config.downlink_bytes(8000) is None
    assert make_rig(downlink_codec="fp16").config.downlink_bytes(8000) is None


def test_the_whole_of_a_version_is_sent_when_somebody_asks(
    make_rig: Callable[..., Any], layout: Layout
) -> None:
    rig = make_rig(rounds=2, **DOWN).start()
    assert "flx/v1/lab/model/0/m" in rig.retained
    for device in rig.add("nano-1", "nano-2"):
        device.join()
    rig.finish()
    assert retained(rig).keys() == {(1, True), (2, True)}
    rig.say(ModelWant("nano-3", 2), AdapterWant(None))
    rig.settle()
    manifest, bodies = fetched(rig, 2, delta=False)
    whole = decode(manifest.codec, bodies, layout=layout, segment_count=len(bodies))
    np.testing.assert_array_equal(whole, rig.adapter(2))
    before = len(rig.said(ModelSegment, version=2, delta=True))
    rig.say(ModelWant("nano-3", 2, delta=True), AdapterWant(frozenset({0})))
    rig.settle()
    assert len(rig.said(ModelSegment, version=2, delta=True)) == before + 1
    status = model_of(rig)
    assert status.delta_segments == len(fetched(rig, 2, delta=True)[1])
    assert 0 < status.delta_bytes < status.bytes


@pytest.mark.parametrize(
    "moment",
    ["before state.commit", "before store.commit", "after store.commit", "after state.commit"],
)
def test_a_crash_at_the_commit_makes_the_same_delta_again(
    make_rig: Callable[..., Any], crash: type[BaseException], layout: Layout, moment: str
) -> None:
    expected, rig = make_rig(rounds=3, **DOWN).start(), make_rig(rounds=3, **DOWN).start()
    for each in (expected, rig):
        for device in each.add("nano-1", "nano-2"):
            device.join()
    expected.finish()
    moments: list[str] = []

    def die(now: str) -> None:
        moments.append(now)
        if now == moment and moments.count(moment) == 2:
            raise crash

    rig.crash_at = die
    with pytest.raises(crash):
        rig.finish()
    rig.restart()
    rig.finish()
    for version in (2, 3):
        np.testing.assert_array_equal(rig.adapter(version), expected.adapter(version))
    ours, theirs = rig.state.delta(3), expected.state.delta(3)
    assert ours.segments == theirs.segments
    np.testing.assert_array_equal(ours.master, theirs.master)
    follow(rig, rig.adapter(2), 3, layout)


def test_the_run_says_that_there_are_deltas(make_rig: Callable[..., Any]) -> None:
    for down, told in ((DOWN, "fstq"), ({}, "")):
        rig = make_rig(**down).start()
        run = control.decode(RunAnnouncement, rig.said(CoordRun)[-1][1])
        assert run.downlink_codec == told
        assert rig.said(ModelManifest)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"downlink_codec": "zip"}, "no codec"),
        ({"downlink_codec": "eden", "downlink_bits_per_coordinate": 1}, "ordered"),
        ({"downlink_codec": "fp16", "downlink_bits_per_coordinate": 1}, "takes no"),
        ({"downlink_bits_per_coordinate": 1}, "needs a downlink_codec"),
    ],
)
def test_a_downlink_that_cannot_be_is_refused(
    make_rig: Callable[..., Any], changes: dict[str, Any], hint: str
) -> None:
    assert codec_named("fp16").dense
    with pytest.raises(ValidationError, match=hint):
        make_rig(**changes)
