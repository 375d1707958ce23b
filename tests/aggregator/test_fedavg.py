"""Streaming averages against plain dense arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.fedavg import Average, ClientUpdate, federated_average
from aggregator.norms import NormPolicy
from codec.codec import Budget
from codec.layout import Layout
from codec.registry import codec_named
from codec.update import decode

LAYOUT = Layout.from_shapes({"a": (5, 9), "b": (40,), "c": ()})


def encoded(codec: Any, rng: Any, *, segment_bytes: Any = 96) -> tuple[bytes, ...]:
    delta = rng.normal(0, 0.01, LAYOUT.size).astype(np.float32)
    fisher = rng.random(LAYOUT.size).astype(np.float32)
    update_bytes = None if codec == "fp32" else 400
    budget = Budget(update_bytes=update_bytes, segment_bytes=segment_bytes)
    return codec_named(codec).encode(delta, fisher, layout=LAYOUT, budget=budget, seed=1)


def average(updates: Any, codec: Any = "fp32", max_delta_abs: Any = 100.0) -> Average:
    return federated_average(
        updates, codec=codec_named(codec), layout=LAYOUT, max_delta_abs=max_delta_abs
    )


@given(
    st.sampled_from(["fp32", "fstq"]),
    st.lists(st.tuples(st.integers(1, 10_000), st.data()), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=30)
def test_it_is_the_weighted_mean_of_what_arrived(codec: Any, clients: Any, seed: Any) -> None:
    rng = np.random.default_rng(seed)
    updates, weights, deltas = [], [], []
    for number, (weight, choice) in enumerate(clients):
        bodies = encoded(codec, rng)
        indices = choice.draw(st.sets(st.integers(0, len(bodies) - 1), min_size=1))
        segments = {index: bodies[index] for index in indices}
        updates.append(ClientUpdate(f"uid-{number}", weight, len(bodies), segments))
        weights.append(weight)
        deltas.append(decode(codec, segments, layout=LAYOUT, segment_count=len(bodies)))
    result = average(updates, codec)
    wanted = np.average(np.stack(deltas).astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(result.mean, wanted, rtol=1e-12, atol=1e-15)
    assert result.included == tuple(update.uid for update in updates)


def test_the_same_frozen_set_gives_the_same_bytes() -> None:
    def once() -> bytes:
        rng = np.random.default_rng(3)
        updates = []
        for number in range(5):
            bodies = encoded("fstq", rng)
            segments = dict(reversed(list(enumerate(bodies))))  # the order of a dict must not show
            if number % 2:
                segments = dict(enumerate(bodies))
            updates.append(ClientUpdate(f"{number}", 7 + number, len(bodies), segments))
        return average(iter(updates), "fstq").mean.tobytes()

    assert once() == once()


def test_an_update_that_does_not_decode_is_left_out_and_the_weights_are_renormalised() -> None:
    rng = np.random.default_rng(1)
    good, bad = encoded("fp32", rng), list(encoded("fp32", rng))
    bad[0] = bad[0][:-1] + bytes([bad[0][-1] ^ 1])
    result = average(
        [
            ClientUpdate("a", 3, len(good), dict(enumerate(good))),
            ClientUpdate("b", 1000, len(bad), dict(enumerate(bad))),
        ]
    )
    alone = decode("fp32", dict(enumerate(good)), layout=LAYOUT, segment_count=len(good))
    np.testing.assert_array_equal(result.mean.astype(np.float32), alone)
    assert (result.included, dict(result.refused)) == (("a",), {"b": "corrupt"})


@pytest.mark.parametrize("sign", [1, -1])
def test_an_update_that_moves_a_coordinate_absurdly_far_is_left_out(sign: Any) -> None:
    delta = np.zeros(LAYOUT.size, dtype=np.float32)
    delta[17] = sign * 100.5
    budget = Budget(update_bytes=None, segment_bytes=96)
    bodies = codec_named("fp32").encode(delta, None, layout=LAYOUT, budget=budget, seed=1)
    result = average([ClientUpdate("a", 1, len(bodies), dict(enumerate(bodies)))])
    assert result.refused == {"a": "magnitude"}
    assert not result.mean.any()


def test_sums_that_overflow_are_refused() -> None:
    class Overflowing:
        name = "overflowing"

        def accumulate(self, *_: Any, total: Any, **__: Any) -> None:
            total[0] = np.inf

    codec: Any = Overflowing()
    result = federated_average(
        [ClientUpdate("a", 1, 1, {0: b""})],
        codec=codec,
        layout=LAYOUT,
        max_delta_abs=1.0,
    )
    assert result.refused == {"a": "non-finite"}


def test_nothing_at_all_has_a_mean_of_zeros() -> None:
    result = average([])
    assert (result.included, dict(result.refused), result.mean.any()) == ((), {}, False)


def test_uids_out_of_order_are_a_fault_of_this_side() -> None:
    with pytest.raises(AssertionError, match="ascending"):
        average([ClientUpdate("b", 1, 1, {}), ClientUpdate("a", 1, 1, {})])


WIDE = Layout.from_shapes({"a": (64, 64)})


def rotated(delta: Any, *, seed: int) -> tuple[bytes, ...]:
    budget = Budget(update_bytes=900, segment_bytes=160)
    bodies = codec_named("eden").encode(delta, None, layout=WIDE, budget=budget, seed=seed)
    assert len(bodies) > 2
    return bodies


def wide_average(*parts: tuple[int, int, Any]) -> Any:
    updates = [
        ClientUpdate(f"uid-{number}", weight, count, segments)
        for number, (weight, count, segments) in enumerate(parts)
    ]
    codec = codec_named("eden")
    return federated_average(updates, codec=codec, layout=WIDE, max_delta_abs=100.0).mean


def test_a_part_of_an_exchangeable_update_weighs_as_its_share_of_the_examples() -> None:
    """Its variance is larger by the same factor."""
    delta = np.random.default_rng(5).normal(0, 0.01, WIDE.size).astype(np.float32)
    first, second = rotated(delta, seed=1), rotated(-delta, seed=2)
    count = len(first)
    parts = [dict(enumerate(first)), {1: second[1]}]
    deltas = [decode("eden", part, layout=WIDE, segment_count=count) for part in parts]
    wanted = np.average(np.stack(deltas).astype(np.float64), axis=0, weights=[30, 30 / count])
    mean = wide_average((30, count, parts[0]), (30, count, parts[1]))
    np.testing.assert_allclose(mean, wanted, rtol=1e-5, atol=1e-8)


def test_parts_of_updates_count_as_parts_and_their_bits_as_those_of_the_whole() -> None:
    delta = np.random.default_rng(5).normal(0, 0.01, WIDE.size).astype(np.float32)
    bodies = rotated(delta, seed=1)
    count = len(bodies)
    whole = ClientUpdate("uid-0", 30, count, dict(enumerate(bodies)))
    part = ClientUpdate("uid-1", 9, count, {0: bodies[0]})
    found = federated_average(
        [whole, part], codec=codec_named("eden"), layout=WIDE, max_delta_abs=100.0
    )
    assert found.arrived == pytest.approx(1 + 1 / count)
    bits = 8 * (sum(map(len, bodies)) + len(bodies[0]) * count) / 2 / WIDE.size
    assert found.bits_per_coordinate == pytest.approx(bits)
    nothing = average([])
    assert (nothing.arrived, nothing.bits_per_coordinate) == (0, 0)


def test_partial_exchangeable_updates_leave_the_mean_unbiased() -> None:
    rng = np.random.default_rng(6)
    delta = rng.normal(0, 0.01, WIDE.size).astype(np.float32)
    tries, total = 200, np.zeros(WIDE.size)
    for seed in range(tries):
        part, whole = rotated(delta, seed=seed), rotated(delta, seed=seed + tries)
        kept = int(rng.integers(len(part)))
        total += wide_average(
            (10, len(part), {kept: part[kept]}), (20, len(whole), dict(enumerate(whole)))
        )
    projected = float(total @ delta) / tries / float(delta @ delta)
    assert projected == pytest.approx(1.0, abs=0.03)
    error = total / tries - delta
    # An unbiased mean of so many tries errs by the root of variance / tries, and by no more.
    assert float(np.linalg.norm(error) / np.linalg.norm(delta)) < 3 / tries**0.5


def long_and_short(codec: str = "fp32") -> list[ClientUpdate]:
    rng = np.random.default_rng(5)
    updates = []
    for number, scale in enumerate((1.0, 50.0, 2.0)):
        delta = (scale * rng.normal(0, 0.01, LAYOUT.size)).astype(np.float32)
        update_bytes = None if codec == "fp32" else 4 * LAYOUT.size
        budget = Budget(update_bytes=update_bytes, segment_bytes=96)
        bodies = codec_named(codec).encode(delta, None, layout=LAYOUT, budget=budget, seed=1)
        updates.append(ClientUpdate(f"{number}", 1.0, len(bodies), dict(enumerate(bodies))))
    return updates


def bounded(updates: Any, bound: float | None, policy: NormPolicy) -> Average:
    return federated_average(
        updates,
        codec=codec_named("fp32"),
        layout=LAYOUT,
        max_delta_abs=100.0,
        norm_bound=bound,
        norm_policy=policy,
    )


def test_an_update_above_the_bound_is_scaled_down_to_it() -> None:
    updates = long_and_short()
    deltas = [
        decode("fp32", update.segments, layout=LAYOUT, segment_count=update.segment_count)
        for update in updates
    ]
    result = bounded(updates, 1.0, NormPolicy.CLIP)
    deltas[1] = deltas[1] / np.linalg.norm(deltas[1])
    np.testing.assert_allclose(result.mean, np.mean(deltas, axis=0), rtol=1e-5, atol=1e-9)
    assert (result.included, result.clipped) == (("0", "1", "2"), ("1",))
    assert result.norms["1"] == 1.0
    assert result.norms["0"] == pytest.approx(np.linalg.norm(deltas[0]))


def test_an_update_above_the_bound_is_refused_where_that_is_the_policy() -> None:
    result = bounded(long_and_short(), 1.0, NormPolicy.REFUSE)
    assert (result.included, dict(result.refused)) == (("0", "2"), {"1": "norm"})
    assert sorted(result.norms) == ["0", "2"]


def test_without_a_bound_nothing_is_clipped() -> None:
    result = bounded(long_and_short(), None, NormPolicy.REFUSE)
    assert (len(result.included), result.clipped) == (3, ())
