"""A device follows the aggregator's chain: whatever it holds and is lost, the bits are the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.adapter_store import AdapterRefused, AdapterStore
from agent.fetching import Fetching
from agent.inbox import Inbox
from agent.outputs import Output, PublishWant, StoreAdapter, Subscribe, Unsubscribe
from aggregator.snapshot import whole_frames
from transport import control, frame
from transport.control import ModelStatus, RunAnnouncement
from transport.messages import AdapterManifest, AdapterWant, Segment
from transport.topics import CoordRun, Model, ModelManifest, ModelSegment, ModelWant, Topics
from transport.transfer import TransferPolicy

TOPICS = Topics("lab")
ROUNDS = 7


class Follower:
    """A device, and a broker between it and the rig that loses deliveries by script."""

    def __init__(self, rig: Any, folder: Path, *, losses: list[bool]) -> None:
        self.rig = rig
        self.losses = losses
        self.run = control.decode(RunAnnouncement, rig.said(CoordRun)[-1][1])
        self.inbox = Inbox(run_id=self.run.run, epoch=0)
        self.inbox.announced(self.run)
        self.inbox.model(control.decode(ModelStatus, rig.said(Model)[-1][1]))
        self.store = AdapterStore(folder, kept=2)
        self.subscribed: set[tuple[int, bool]] = set()
        self.received: list[tuple[int, bool]] = []
        self.start()

    def start(self) -> None:
        """Begin as after a power cut, with what is on disk."""
        self.fetching = Fetching(
            self.inbox,
            adapters=self.store.load(self.run.run),
            kept=2,
            policy=TransferPolicy(),
            rng=random.Random(3),
        )
        self.fetching.connected(self.rig.now)

    def hold(self, version: int) -> None:
        """Put a version on this device's disk."""
        state = self.rig.state
        frames = whole_frames(state.read(version), run=self.run.run, version=version,
                              segment_bytes=128)  # fmt: skip
        manifest = frame.decode(AdapterManifest, frames.manifest)
        bodies = frames.bodies
        self.store.put(self.run, manifest, bodies)
        self.start()

    def follow(self, *, cut_after: int | None = None) -> bytes:
        """Fetch the newest version, and return its bytes as they are on disk."""
        for step in range(300):
            if adapter := self.fetching.held(ROUNDS):
                assert not self.subscribed
                return adapter.file.read_bytes()
            if step == cut_after:
                self.subscribed.clear()
                self.start()
            elif wakeup := self.fetching.next_wakeup():
                self.rig.now = max(self.rig.now, wakeup)
                self.do(self.fetching.tick(self.rig.now))
            else:
                self.do(self.fetching.want(ROUNDS, now=self.rig.now))
        raise AssertionError("it never comes")

    def do(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Subscribe(version, delta):
                    self.subscribed.add((version, delta))
                    for topic, payload in sorted(self.rig.retained.items()):
                        if topic.startswith("flx/"):
                            self.deliver(TOPICS.parse(topic), payload)
                case Unsubscribe(version, delta):
                    self.subscribed.discard((version, delta))
                case PublishWant(version, missing, delta):
                    seen = len(self.rig.published)
                    self.rig.say(ModelWant("dev", version, delta=delta), AdapterWant(missing))
                    self.rig.settle()
                    for address, payload, _ in self.rig.published[seen:]:
                        self.deliver(address, payload)
                case StoreAdapter():
                    self.keep(output)

    def deliver(self, address: object, payload: bytes) -> None:
        if not isinstance(address, ModelManifest | ModelSegment) or not payload:
            return
        if (address.version, address.delta) not in self.subscribed:
            return
        if self.losses and self.losses.pop():
            return
        now, delta = self.rig.now, address.delta
        self.received.append((address.version, delta))
        if isinstance(address, ModelManifest):
            manifest = frame.decode(AdapterManifest, payload)
            self.do(self.fetching.manifest(manifest, delta=delta, now=now))
        else:
            body = frame.decode(Segment, payload).body
            outputs = self.fetching.segment(
                address.version, index=address.index, body=body, delta=delta, now=now
            )
            self.do(outputs)

    def keep(self, output: StoreAdapter) -> None:
        try:
            adapter = self.store.put(output.run, output.manifest, output.bodies, base=output.base)
        except AdapterRefused:
            self.do(self.fetching.refused())
        else:
            self.do(self.fetching.stored(adapter, now=self.rig.now))


def play(make_rig: Callable[..., Any]) -> Any:
    rig = make_rig(
        rounds=ROUNDS,
        keep_versions=ROUNDS + 1,
        downlink_codec="fstq+",
        downlink_bits_per_coordinate=9,
        segment_bytes=128,
    ).start()
    for device in rig.add("nano-1", "nano-2"):
        device.join()
    rig.finish()
    assert control.decode(ModelStatus, rig.said(Model)[-1][1]).chain_from in range(1, ROUNDS - 1)
    return rig


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    held=st.none() | st.integers(0, ROUNDS - 1),
    losses=st.lists(st.booleans(), max_size=60),
    cut_after=st.none() | st.integers(0, 10),
)
def check_following(
    rig: Any, *, held: int | None, losses: list[bool], cut_after: int | None
) -> None:
    with TemporaryDirectory() as folder:
        follower = Follower(rig, Path(folder), losses=list(losses))
        if held is not None:
            follower.hold(held)
        content = follower.follow(cut_after=cut_after)
        assert content == rig.adapter(ROUNDS).astype("<f4").tobytes()


def test_any_held_version_and_any_loss_end_with_the_same_bits(make_rig: Callable[..., Any]) -> None:
    check_following(play(make_rig))


def test_without_loss_a_device_on_the_chain_takes_only_deltas(
    make_rig: Callable[..., Any], tmp_path: Path
) -> None:
    rig = play(make_rig)
    first = control.decode(ModelStatus, rig.said(Model)[-1][1]).chain_from
    assert first is not None
    for held in range(ROUNDS):
        follower = Follower(rig, tmp_path / str(held), losses=[])
        follower.hold(held)
        follower.follow()
        hops = [(version, True) for version in range(held + 1, ROUNDS + 1)]
        expected = hops if held >= first else [(ROUNDS, False)]
        assert sorted(set(follower.received)) == expected


def test_a_damaged_base_on_this_device_is_made_up_for_by_the_whole(
    make_rig: Callable[..., Any], tmp_path: Path
) -> None:
    rig = play(make_rig)
    follower = Follower(rig, tmp_path / "device", losses=[])
    follower.hold(ROUNDS - 2)
    base = follower.fetching.held(ROUNDS - 2)
    assert base is not None
    base.file.write_bytes(bytes(base.file.stat().st_size))
    assert follower.follow() == rig.adapter(ROUNDS).astype("<f4").tobytes()
    assert (ROUNDS, False) in follower.received
