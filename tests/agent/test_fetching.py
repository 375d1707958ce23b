"""How adapter versions come to a device, on a virtual clock."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest

from agent.fetching import SILENCES_AFTER, SILENCES_BEFORE, Fetching
from agent.inbox import Inbox
from agent.outputs import Output, PublishWant, StoreAdapter, Subscribe, Unsubscribe
from codec.codec import Budget
from codec.registry import codec_named
from codec.update import move
from transport import control, frame
from transport.control import ModelStatus
from transport.messages import Segment
from transport.topics import Model, ModelManifest, ModelSegment
from transport.transfer import TransferPolicy


class Device:
    """The machine, its clock, and every output so far."""

    def __init__(
        self, small: Any, *, holds: tuple[int, ...] = (), codec: str = "fp32", linked: bool = True
    ) -> None:
        self.small = small
        self.now = 100.0
        self.outputs: list[Output] = []
        self.inbox = Inbox(run_id=small.RUN, epoch=1)
        self.inbox.announced(small.announcement(downlink_codec=codec))
        self.machine = Fetching(
            self.inbox,
            adapters=[small.adapter(version) for version in holds],
            kept=2,
            policy=TransferPolicy(),
            rng=random.Random(1),
        )
        if linked:
            self.machine.connected(self.now)

    def do(self, outputs: list[Output]) -> list[Output]:
        self.outputs.extend(outputs)
        return outputs

    def model(self, version: int, *, chain_from: int | None) -> None:
        run = self.small.RUN
        self.inbox.model(ModelStatus(run, version, "", 900, 3, chain_from=chain_from))

    def want(self, version: int) -> list[Output]:
        return self.do(self.machine.want(version, now=self.now))

    def bring(self, version: int, *, delta: bool = False, begin: int = 0) -> list[Output]:
        """Bring the manifest of a version, or of its delta, and segments from `begin` on."""
        manifest, bodies = self.small.adapter_message(version)
        outputs = self.machine.manifest(manifest, delta=delta, now=self.now)
        for index, body in enumerate(bodies[begin:], start=begin):
            outputs += self.machine.segment(
                version, index=index, body=body, delta=delta, now=self.now
            )
        return self.do(outputs)

    def store(self, version: int) -> list[Output]:
        return self.do(self.machine.stored(self.small.adapter(version), now=self.now))

    def sleep(self) -> list[Output]:
        wakeup = self.machine.next_wakeup()
        assert wakeup is not None
        self.now = wakeup
        return self.do(self.machine.tick(self.now))

    def wants(self) -> list[PublishWant]:
        return [output for output in self.outputs if isinstance(output, PublishWant)]


def test_a_newcomer_takes_the_whole_and_asks_for_it_at_once(small: Any) -> None:
    device = Device(small)
    assert device.want(3) == [Subscribe(3), PublishWant(3, None)]
    (stored,) = device.bring(3)
    assert isinstance(stored, StoreAdapter)
    assert stored.base is None
    assert device.machine.is_storing(3)
    assert device.machine.next_wakeup() is None
    assert device.machine.tick(1e9) == []
    assert device.store(3) == [Unsubscribe(3)]
    assert device.machine.held(3) == small.adapter(3)
    assert not device.machine.busy


@pytest.mark.parametrize("codec", ["", "fstq-9+"])
def test_without_a_codec_that_is_known_here_there_is_no_chain(small: Any, codec: str) -> None:
    device = Device(small, holds=(2,), codec=codec)
    device.model(3, chain_from=0)
    assert device.want(3)[0] == Subscribe(3)
    assert len(device.wants()) == (codec != "")


def test_the_chain_begins_at_the_newest_version_that_is_held(small: Any) -> None:
    device = Device(small, holds=(1, 2))
    device.model(4, chain_from=0)
    assert device.want(4) == [Subscribe(3, delta=True)]
    (stored,) = device.bring(3, delta=True)
    assert isinstance(stored, StoreAdapter)
    assert stored.base == small.adapter(2)
    assert device.store(3) == [Unsubscribe(3, delta=True), Subscribe(4, delta=True)]
    device.bring(4, delta=True)
    assert device.store(4) == [Unsubscribe(4, delta=True)]
    assert [device.machine.held(version) is not None for version in (1, 2, 3, 4)] == [
        False, False, True, True,
    ]  # fmt: skip


def test_a_delta_that_cannot_be_used_is_followed_by_the_whole(small: Any) -> None:
    device = Device(small, holds=(2,))
    device.model(4, chain_from=2)
    device.want(4)
    device.bring(3, delta=True)
    assert device.machine.refused() == [Unsubscribe(3, delta=True)]
    assert device.want(4) == [Subscribe(4), PublishWant(4, None)]
    device.bring(4)
    assert device.machine.refused() == [Unsubscribe(4)]
    assert device.want(4)[0] == Subscribe(4)
    device.do(device.machine.release())
    assert device.want(4) == [Subscribe(3, delta=True)], "another job begins as if nothing was"


@pytest.mark.parametrize("begun", [False, True])
def test_a_delta_that_falls_silent_is_given_up_in_the_end(small: Any, *, begun: bool) -> None:
    device = Device(small, holds=(2,))
    device.model(4, chain_from=2)
    device.want(4)
    if begun:
        device.bring(3, delta=True, begin=2)
    while Unsubscribe(3, delta=True) not in device.outputs:
        device.sleep()
    asked = frozenset({0, 1}) if begun else None
    assert device.wants() == [
        *[PublishWant(3, asked, delta=True)] * (SILENCES_AFTER if begun else SILENCES_BEFORE),
        PublishWant(4, None),
    ]


def test_a_fetch_that_makes_progress_is_never_given_up(small: Any) -> None:
    """However often it must ask for each segment, as long as one comes in the end."""
    device = Device(small, holds=(2,))
    device.model(4, chain_from=2)
    device.want(4)
    manifest, bodies = small.adapter_message(3)
    device.do(device.machine.manifest(manifest, delta=True, now=device.now))
    for index, body in enumerate(bodies):
        for _ in range(SILENCES_AFTER - 1):
            device.sleep()
        assert device.machine.stalled
        device.do(device.machine.segment(3, index=index, body=body, delta=True, now=device.now))
        assert not device.machine.stalled
    assert device.machine.is_storing(3)


def test_nothing_is_given_up_for_a_lost_link(small: Any) -> None:
    device = Device(small, holds=(2,))
    device.model(4, chain_from=2)
    device.want(4)
    device.bring(3, delta=True, begin=2)
    device.machine.disconnected()
    for _ in range(10):
        assert device.sleep() == []
    assert not device.machine.stalled
    assert device.do(device.machine.connected(device.now)) == []
    assert device.sleep() == [PublishWant(3, frozenset({0, 1}), delta=True)]


def test_the_whole_of_the_wanted_version_is_asked_for_for_ever(small: Any) -> None:
    device = Device(small)
    device.want(4)
    for _ in range(20):
        device.sleep()
    assert device.wants() == [PublishWant(4, None)] * 21
    assert device.outputs.count(Subscribe(4)) == 1 + 20 // SILENCES_AFTER
    assert device.machine.stalled


def test_what_nobody_wants_ends_unless_it_has_begun(small: Any) -> None:
    device = Device(small)
    device.want(4)
    assert device.machine.release() == [Unsubscribe(4)]
    device.want(4)
    device.bring(4, begin=2)
    assert device.machine.release() == []
    for _ in range(SILENCES_AFTER):
        assert device.machine.busy
        device.sleep()
    assert not device.machine.busy
    assert device.outputs[-1] == Unsubscribe(4)


def test_a_version_that_came_for_nobody_is_held(small: Any) -> None:
    device = Device(small)
    device.want(4)
    device.bring(4, begin=2)
    device.do(device.machine.release())
    device.bring(4)
    assert device.store(4) == [Unsubscribe(4)]
    assert device.machine.held(4) == small.adapter(4)


@pytest.mark.parametrize(("chain_from", "goes_on"), [(3, True), (4, True), (5, False)])
def test_a_whole_goes_on_while_the_chain_leads_on_from_it(
    small: Any, chain_from: int, *, goes_on: bool
) -> None:
    device = Device(small)
    device.want(4)
    device.bring(4, begin=2)
    device.model(6, chain_from=chain_from)
    device.want(6)
    assert (Unsubscribe(4) not in device.outputs) == goes_on
    assert (Subscribe(6) in device.outputs) != goes_on


def test_a_hop_that_has_left_the_chain_is_given_up(small: Any) -> None:
    device = Device(small, holds=(2,))
    device.model(4, chain_from=2)
    device.want(4)
    device.bring(3, delta=True, begin=2)
    device.model(6, chain_from=3)
    assert device.want(6) == [Unsubscribe(3, delta=True), Subscribe(6), PublishWant(6, None)]


def test_frames_of_another_version_or_form_are_not_taken(small: Any) -> None:
    device = Device(small, holds=(2,))
    assert device.bring(3) == []
    device.model(3, chain_from=2)
    device.want(3)
    assert device.bring(3) == []
    assert device.bring(4, delta=True) == []
    assert not device.machine.is_storing(3)


def test_another_run_forgets_everything(small: Any) -> None:
    device = Device(small, holds=(2,))
    device.model(3, chain_from=2)
    device.want(3)
    assert device.machine.clear() == [Unsubscribe(3, delta=True)]
    assert device.machine.held(2) is None
    assert device.machine.clear() == []
    assert device.machine.next_wakeup() is None


def test_a_damaged_segment_stays_missing(small: Any) -> None:
    device = Device(small)
    device.want(0)
    device.bring(0, begin=3)
    assert device.machine.segment(0, index=0, body=b"x", delta=False, now=device.now) == []
    device.sleep()
    assert device.wants() == [PublishWant(0, frozenset({0, 1, 2}))]


def publish_delta(aggregator: Any, small: Any, version: int, flat: Any) -> None:
    """Make the next version of a flat adapter in place, and publish the delta that makes it."""
    bodies = codec_named("fp32").encode(
        small.adapter_numbers(100 + version),
        None,
        layout=small.LAYOUT,
        budget=Budget(None, small.SEGMENT_BYTES),
        seed=0,
    )
    move("fp32", dict(enumerate(bodies)), base=flat, layout=small.LAYOUT)
    digest = hashlib.sha256(flat.astype("<f4").tobytes()).digest()
    manifest, _ = small.adapter_message(version, segments=small.entries(bodies), sha256=digest)
    aggregator.publish(ModelManifest(version, delta=True), frame.encode(manifest), retain=True)
    for index, body in enumerate(bodies):
        address = ModelSegment(version, index, delta=True)
        aggregator.publish(address, frame.encode(Segment(body)), retain=True)


@pytest.mark.broker
def test_a_power_cut_in_the_middle_of_the_chain_costs_one_hop(
    aggregator: Any, agent_process: Any, small: Any
) -> None:
    """Real broker, real process; nobody ever publishes the newest version whole."""
    agent_process.start()
    aggregator.begin(small.announcement(downlink_codec="fp32"))
    aggregator.until(lambda: aggregator.profiles)
    aggregator.command_eval(0)
    aggregator.until(lambda: aggregator.evals)

    flat = small.adapter_numbers(0).astype(np.float32)
    publish_delta(aggregator, small, 1, flat)
    publish_delta(aggregator, small, 2, flat)
    status = ModelStatus(small.RUN, 3, "", 900, 3, chain_from=0, chain_bytes=800)
    aggregator.publish(Model(), control.encode(status), retain=True)
    aggregator.command_eval(3)
    aggregator.until(lambda: aggregator.wants)  # the third has not been published
    agent_process.kill()
    adapters = agent_process.state_dir / "adapters"
    assert sorted(path.name for path in adapters.glob("*.f32")) == ["1.f32", "2.f32"]

    publish_delta(aggregator, small, 3, flat)
    agent_process.start()
    aggregator.until(lambda: len(aggregator.profiles) > 1)
    aggregator.command_eval(3)
    aggregator.until(lambda: len(aggregator.evals) > 1)
    assert aggregator.evals[-1].version == 3
    assert (adapters / "3.f32").read_bytes() == flat.astype("<f4").tobytes()
    assert sorted(path.name for path in adapters.glob("*.f32")) == ["2.f32", "3.f32"]
