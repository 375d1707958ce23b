"""What a frozen set becomes, and when it is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator import averaging
from aggregator.fedavg import Average, federated_average
from aggregator.outputs import Aggregate, Commit
from aggregator.server_optimizer import arrivals_factor
from codec.codec import Order


def die_after_commits(rig: Any, crash: Any) -> None:
    """Play to the end, with a crash after each version."""

    def die(where: str) -> None:
        if where == "after state.commit":
            raise crash

    rig.crash_at = die
    for _ in range(rig.config.rounds):
        with pytest.raises(crash):
            rig.finish()
        rig.restart()
    rig.finish()


@pytest.mark.parametrize("downlink", [None, "fstq+"])
def test_momentum_takes_of_the_last_step_again_whatever_crashes_lie_between(
    make_rig: Any, crash: Any, downlink: str | None
) -> None:
    """The devices here send the same updates whatever they start from."""
    plain = make_rig(rounds=4, keep_versions=9).start()
    rig = make_rig(rounds=4, downlink_codec=downlink, server_momentum=0.5).start()
    for each in (plain, rig):
        for device in each.add("a", "b"):
            device.join()
    plain.finish()
    die_after_commits(rig, crash)
    velocity, expected = 0.0, plain.adapter(0)
    for version in range(1, 5):
        velocity = 0.5 * velocity + plain.adapter(version) - plain.adapter(version - 1)
        expected = expected + velocity
    np.testing.assert_allclose(rig.state.exact(4), expected, atol=1e-6)
    assert rig.state.exact(3) is not None
    assert rig.state.exact(2) is None or downlink is None


def test_momentum_that_is_switched_on_begins_with_what_is_kept(make_rig: Any, crash: Any) -> None:
    rig = make_rig(rounds=4, downlink_codec="fstq+", server_momentum=0.5).start()
    for device in rig.add("a", "b"):
        device.join()

    def die_at(where: str) -> None:
        if where == "after state.commit" and rig.current() == 2:
            raise crash

    rig.crash_at = die_at
    with pytest.raises(crash):
        rig.finish()
    rig.crash_at = lambda _: None
    (rig.config.state_dir / "adapters" / "1" / "master.f32").unlink()
    rig.restart()
    rig.finish()
    assert rig.current() == 4


@pytest.mark.parametrize("downlink", [None, "fstq+"])
def test_the_same_frozen_set_gives_the_same_version_and_nothing_stands_before_its_commit(
    make_rig: Any, downlink: str | None
) -> None:
    rig = make_rig(goal=2, quorum=2, rounds=3, downlink_codec=downlink, server_momentum=0.5).start()
    own = rig.service._averaging
    make, commit = own.aggregate, own.commit
    made: list[str] = []
    worked: list[None] = []
    own._works = lambda: worked.append(None)

    def make_twice(aggregate: Aggregate) -> Any:
        first, again = make(aggregate), make(aggregate)
        assert first == again
        assert own._published.facts.version == aggregate.base_version
        return again

    def commit_once(output: Commit) -> Any:
        facts = commit(output)
        made.append(facts.sha256)
        with pytest.raises(AssertionError):
            commit(output)
        return facts

    own.aggregate, own.commit = make_twice, commit_once
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    assert rig.current() == len(made) == 3
    assert own._published.facts.sha256 == made[-1]
    assert len(worked) == 12, "each of two updates, twice a round"


@pytest.mark.parametrize("by_arrivals", [True, False])
def test_a_round_that_few_updates_reach_takes_a_shorter_step(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch, *, by_arrivals: bool
) -> None:
    """One device of two, with fewer bits than this small adapter's segments can have."""
    bits = 0.01
    means = []

    def of_few_bits(*args: Any, **options: Any) -> Average:
        average = replace(federated_average(*args, **options), bits_per_coordinate=bits)
        means.append(average.mean.copy())
        return average

    monkeypatch.setattr(averaging, "federated_average", of_few_bits)
    rig = make_rig(
        rounds=1, goal=2, quorum=1, codec="eden", update_bytes=400, step_by_arrivals=by_arrivals
    ).start()
    for device in rig.add("a"):
        device.codec = "eden"
        device.join()
    rig.finish()
    factor = arrivals_factor(bits, arrived=1, goal=2, order=Order.EXCHANGEABLE)
    assert factor < 0.6
    (mean,) = means
    moved = rig.adapter(1) - rig.adapter(0)
    np.testing.assert_allclose(moved, (factor if by_arrivals else 1) * mean, rtol=1e-4, atol=1e-8)
