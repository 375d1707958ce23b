from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.codec import Budget, Order
from codec.errors import CorruptSegment, InvalidInput, TruncatedSegment
from codec.fstq_r import FstqR
from codec.hadamard import MAX_BLOCK, transform
from codec.layout import Layout
from codec.limits import MAX_TENSORS, MIN_SEGMENT_BYTES
from codec.operating_points import points_at, pressure_of_rate
from codec.residual import residual_after
from codec.rotated_payload import (
    NO_LEVELS,
    NO_PLACES,
    NO_VALUES,
    pack_shares,
    parse_head,
    parse_shares,
)
from codec.segment import HEADER_BYTES
from codec.shares import Deal, share_sizes
from codec.update import decode
from tools.layouts import layout_named

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]

CODEC = FstqR()
LARGE = 130_048
TIMES = 60

# Of the delta's energy: the most that `SPEC.md` allows the bias of a tensor that is one block of at
# least 64 coordinates with none that dominates, at 0.1 bit. Larger blocks have far less.
BIAS = 0.005


def encode(
    delta: np.ndarray,
    layout: Layout,
    update_bytes: int,
    *,
    fisher: np.ndarray | None = None,
    segment_bytes: int = LARGE,
    seed: int = 1,
) -> tuple[bytes, ...]:
    budget = Budget(update_bytes, segment_bytes)
    return CODEC.encode(delta, fisher, layout=layout, budget=budget, seed=seed)


def decoded(
    segments: Sequence[bytes], layout: Layout, chosen: Sequence[int] | None = None
) -> np.ndarray:
    indices = range(len(segments)) if chosen is None else chosen
    held = {index: segments[index] for index in indices}
    return decode("fstq-r", held, layout=layout, segment_count=len(segments)).astype(np.float64)


def noise(estimate: np.ndarray, delta: np.ndarray) -> float:
    return float(np.square(estimate - delta).sum() / np.square(delta.astype(np.float64)).sum())


def normal(size: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * 1e-3).astype(np.float32)


def like_adamw(size: int, seed: int = 0) -> np.ndarray:
    """Magnitudes within a factor of two of one another: kurtosis under 2."""
    random = np.random.default_rng(seed)
    return (random.choice([-1, 1], size) * random.uniform(0.5, 1, size) * 1e-4).astype(np.float32)


def test_the_codec_is_exchangeable_and_takes_a_budget() -> None:
    assert (CODEC.name, CODEC.codec_id, CODEC.order) == ("fstq-r", 4, Order.EXCHANGEABLE)
    assert not CODEC.dense


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=8),
    update_bytes=st.integers(MIN_SEGMENT_BYTES, 2500),
    segment_bytes=st.sampled_from([MIN_SEGMENT_BYTES, 150, 700, LARGE]),
    kind=st.sampled_from(["normal", "sparse", "heavy", "zero"]),
    seed=st.integers(0, 2**64 - 1),
)
@settings(deadline=None, max_examples=20)
def test_the_budget_is_never_exceeded(
    sizes: list[int], update_bytes: int, segment_bytes: int, kind: str, seed: int
) -> None:
    layout = Layout.from_shapes({f"{place}": [size] for place, size in enumerate(sizes)})
    random = np.random.default_rng(seed)
    delta = {
        "normal": lambda: random.standard_normal(layout.size),
        "sparse": lambda: random.standard_normal(layout.size) * (random.random(layout.size) < 0.01),
        "heavy": lambda: random.standard_t(1.5, layout.size),
        "zero": lambda: np.zeros(layout.size),
    }[kind]().astype(np.float32)
    segments = encode(delta, layout, update_bytes, segment_bytes=segment_bytes, seed=seed)
    assert sum(map(len, segments)) <= update_bytes
    assert max(map(len, segments)) <= segment_bytes
    assert np.isfinite(decoded(segments, layout)).all()


@pytest.mark.parametrize("update_bytes", [4000, 9999, 30_000, 90_000])
@pytest.mark.parametrize("segment_bytes", [3000, LARGE])
def test_nearly_all_of_the_budget_is_used(
    layout_of: LayoutOf, update_bytes: int, segment_bytes: int
) -> None:
    layout = layout_of([16 * 512, 512 * 16, 16 * 1376] * 4)
    segments = encode(normal(layout.size), layout, update_bytes, segment_bytes=segment_bytes)
    assert 0.98 * update_bytes <= sum(map(len, segments)) <= update_bytes


@pytest.mark.parametrize("bits_each", [0.1, 0.25, 1, 2])
@pytest.mark.parametrize("draw_delta", [normal, like_adamw])
def test_the_variance_is_that_of_the_formula(
    layout_of: LayoutOf, bits_each: float, draw_delta: Callable[[int], np.ndarray]
) -> None:
    layout = layout_of([1 << 17])
    delta = draw_delta(layout.size)
    update_bytes = int(layout.size * bits_each / 8)
    segments = encode(delta, layout, update_bytes)
    rate = np.array([(sum(map(len, segments)) - 50 * len(segments)) * 8 / layout.size])
    expected = float(points_at(pressure_of_rate(rate)).noises[0])
    assert noise(decoded(segments, layout), delta) == pytest.approx(expected, rel=0.1)


def bias_of(errors: np.ndarray) -> tuple[float, float]:
    """Return the energy of independent errors' expectation, and that figure's deviation.

    The products of different errors estimate it without bias, however the errors are correlated
    within. What a squared mean is over its expectation has a deviation of √(2 / degrees of
    freedom), and where chance is in which tensors or groups there are, those are as few: a bound
    that is a multiple of the variance would have to be chosen anew for each layout.

    Source: S. X. Chen and Y. Qin, "A two-sample test for means of high-dimensional data", Annals of
    Statistics, 2010.
    """
    times = len(errors)
    products = errors @ errors.T
    apart = products[~np.eye(times, dtype=np.bool_)]
    return float(apart.mean()), float(np.sqrt(2 * apart.var() / apart.size))


def mean_is_unbiased(
    delta: np.ndarray, estimates: Sequence[np.ndarray], *, bias: float = BIAS
) -> None:
    """The bias has no more than this part of the delta's energy, but for chance."""
    errors = np.array(estimates) - delta
    errors /= np.linalg.norm(delta.astype(np.float64))
    found, deviation = bias_of(errors)
    assert found < bias + 5 * deviation
    # Else chance would hide the bias that the bound is there to find.
    assert 5 * deviation < np.square(errors).sum(axis=1).mean() / 5


@pytest.mark.parametrize(("block", "rate"), [(64, 0.1), (64, 0.43), (128, 0.1), (128, 0.3)])
def test_the_bias_of_a_rotation_falls_with_the_square_of_its_block(block: int, rate: float) -> None:
    """A coordinate is in the way of its own noise; what its square is over others' decides.

    To first order in 1 / n, with x in root mean squares, coordinate i is off by
    -(T² - 1) / 3n · (x_i² - mean x⁴) · x_i: T² - 1 is the third derivative over the first at the
    threshold, which enters by the cubic term of x_i and by the variance that the others lack.
    """
    random = np.random.default_rng(11)
    x = random.standard_normal(block)
    x /= np.sqrt(np.square(x).mean())
    times = 2_000_000 // block
    signs = random.choice(np.array([-1, 1], dtype=np.float32), (times, block))
    rotated = (signs * x.astype(np.float32)).reshape(-1)
    transform(rotated, block=block)
    threshold = points_at(pressure_of_rate(np.array([rate]))).thresholds[0]
    magnitudes = np.abs(rotated.reshape(times, block))
    least = np.minimum(threshold, magnitudes.max(axis=1, keepdims=True))
    sent = np.where(magnitudes >= least, np.sign(rotated.reshape(times, block)), 0)
    scales = block / (sent * rotated.reshape(times, block)).sum(axis=1)
    estimates = sent.astype(np.float32).reshape(-1)
    transform(estimates, block=block)
    errors = estimates.reshape(times, block) * signs * scales[:, None] - x
    variance = np.square(errors).sum() / times / block
    found = (np.square(errors.mean(axis=0)).sum() / block - variance / times) * times / (times - 1)
    law = (threshold**2 - 1) / (3 * block) * (np.square(x) - (x**4).mean()) * x
    # The next order is about a third at 64; with so many seeds, chance is under 0.0002.
    assert found == pytest.approx(np.square(law).mean(), rel=0.6, abs=0.0004)
    assert found < min(BIAS * 1.2, 0.001 * variance)


@pytest.mark.parametrize("bits_each", [0.1, 0.5, 2])
def test_along_the_delta_an_estimate_is_as_long_as_the_delta(
    layout_of: LayoutOf, bits_each: float
) -> None:
    """But for the scale's rounding, whose steps are an eighth at most."""
    layout = layout_of([8192])
    delta = normal(layout.size)
    along = [
        float(decoded(encode(delta, layout, int(1024 * bits_each), seed=seed), layout) @ delta)
        for seed in range(8)
    ]
    np.testing.assert_allclose(along, np.square(delta, dtype=np.float64).sum(), rtol=1 / 8)


@pytest.mark.parametrize("sizes", [[64] * 4, [4096], [1536]])
@pytest.mark.parametrize("draw_delta", [normal, like_adamw])
def test_rotated_tensors_are_unbiased_over_seeds(
    layout_of: LayoutOf, sizes: list[int], draw_delta: Callable[[int], np.ndarray]
) -> None:
    layout = layout_of(sizes)
    delta = draw_delta(layout.size)
    update_bytes = 80 + layout.size // 32
    mean_is_unbiased(
        delta,
        [decoded(encode(delta, layout, update_bytes, seed=s), layout) for s in range(TIMES)],
    )


def test_unequal_energies_within_a_block_leave_no_bias(layout_of: LayoutOf) -> None:
    layout = layout_of([4096])
    delta = normal(layout.size)
    delta[2048:] *= 2
    estimates = [decoded(encode(delta, layout, 110, seed=seed), layout) for seed in range(TIMES)]
    mean_is_unbiased(delta, estimates)


def test_unequal_energies_of_a_tensors_blocks_leave_no_bias(layout_of: LayoutOf) -> None:
    layout = layout_of([2 * MAX_BLOCK])
    delta = normal(layout.size)
    delta[MAX_BLOCK:] *= 1.25
    update_bytes = layout.size // 80
    estimates = [decoded(encode(delta, layout, update_bytes, seed=s), layout) for s in range(10)]
    mean_is_unbiased(delta, estimates)


def test_an_update_is_unbiased_over_seeds(layout_of: LayoutOf) -> None:
    layout = layout_of([2048, 700, 64, 5])
    delta = normal(layout.size) * np.repeat([1, 5, 3, 1], [2048, 700, 64, 5]).astype(np.float32)
    estimates = [decoded(encode(delta, layout, 400, seed=seed), layout) for seed in range(TIMES)]
    mean_is_unbiased(delta, estimates)
    along = [float(estimate @ delta) for estimate in estimates]
    deviation = np.std(along) / np.sqrt(len(along))
    assert abs(np.mean(along) - float(delta.astype(float) @ delta)) < 5 * deviation


def test_any_part_of_the_segments_is_unbiased_over_seeds(layout_of: LayoutOf) -> None:
    layout = layout_of([512, 1024, 300])
    delta = normal(layout.size)
    updates = [encode(delta, layout, 800, segment_bytes=250, seed=seed) for seed in range(TIMES)]
    assert {len(segments) for segments in updates} == {len(updates[0])}
    assert len(updates[0]) >= 4
    for chosen in ([0], [2], [1, 3], [0, 1, 2]):
        mean_is_unbiased(delta, [decoded(segments, layout, chosen) for segments in updates])


def test_parts_of_many_small_tensors_in_groups_are_unbiased(layout_of: LayoutOf) -> None:
    layout = layout_of([128] * 24)
    delta = normal(layout.size)
    estimates = []
    for seed in range(TIMES):
        segments = encode(delta, layout, 1000, segment_bytes=300, seed=seed)
        assert parse_head(memoryview(segments[0])[32:])[0].groups >= 4
        estimates.append(decoded(segments, layout, [1, 2]))
    mean_is_unbiased(delta, estimates)


def test_every_tensor_is_as_often_in_each_group(layout_of: LayoutOf) -> None:
    """So the factor G / B makes the deal's part of an estimate unbiased exactly, not nearly."""
    layout = layout_of([128, 7, 300, 300, 64])
    turns = {
        tuple(map(tuple, Deal(seed, 3, 1).members(layout))): Deal(seed, 3, 1) for seed in range(40)
    }
    assert len(turns) == 3
    for group in range(3):
        members = [deal.members(layout)[group] for deal in turns.values()]
        assert sorted(np.concatenate(members)) == list(range(5))


def test_budgets_too_small_for_all_tensors_are_unbiased_still(layout_of: LayoutOf) -> None:
    layout = layout_of([200] * 20)
    delta = normal(layout.size)
    estimates = [decoded(encode(delta, layout, 150, seed=seed), layout) for seed in range(TIMES)]
    assert sum(not estimate[:200].any() for estimate in estimates) > TIMES / 5
    mean_is_unbiased(delta, estimates)


def test_bits_go_where_the_fisher_information_is(layout_of: LayoutOf) -> None:
    layout = layout_of([8192] * 4)
    delta = normal(layout.size)
    fisher = np.repeat([100.0, 1, 1, 0], 8192).astype(np.float32)
    estimate = decoded(encode(delta, layout, 1500, fisher=fisher), layout)
    parts = [
        noise(estimate[start : start + 8192], delta[start : start + 8192])
        for start in range(0, layout.size, 8192)
    ]
    assert parts[0] < parts[1] / 5
    assert parts[3] == 1
    weighted = float((fisher * np.square(estimate - delta)).sum())
    uniform = decoded(encode(delta, layout, 1500), layout)
    assert weighted < 0.7 * float((fisher * np.square(uniform - delta)).sum())


def test_an_absent_and_an_all_zero_fisher_diagonal_are_the_same(layout_of: LayoutOf) -> None:
    layout = layout_of([500, 300])
    delta = normal(layout.size)
    zeros = np.zeros(layout.size, dtype=np.float32)
    assert encode(delta, layout, 300) == encode(delta, layout, 300, fisher=zeros)


@pytest.mark.parametrize("exponent", [-40, -7, 1, 30])
def test_powers_of_two_change_the_reference_and_nothing_else(
    layout_of: LayoutOf, exponent: int
) -> None:
    layout = layout_of([1000, 500, 7])
    delta = normal(layout.size)
    scaled = np.ldexp(delta, exponent).astype(np.float32)
    ours, theirs = encode(delta, layout, 500), encode(scaled, layout, 500)
    assert [len(segment) for segment in ours] == [len(segment) for segment in theirs]
    assert ours[0][39:] == theirs[0][39:]
    np.testing.assert_array_equal(
        decoded(theirs, layout), np.ldexp(decoded(ours, layout), exponent)
    )


def test_the_negative_of_a_delta_decodes_to_the_negative(layout_of: LayoutOf) -> None:
    layout = layout_of([1000, 500, 7])
    delta = normal(layout.size)
    np.testing.assert_array_equal(
        decoded(encode(-delta, layout, 500), layout), -decoded(encode(delta, layout, 500), layout)
    )


@pytest.mark.parametrize(
    "sizes", [[1], [7], [64], [65], [5000], [1] * 1000, [1, 7, 130, 5000, 66_000]]
)
@pytest.mark.parametrize("update_bytes", [64, 333, 20_000])
def test_odd_layouts_stay_in_the_budget_and_decode(
    layout_of: LayoutOf, sizes: list[int], update_bytes: int
) -> None:
    layout = layout_of(sizes)
    delta = normal(layout.size)
    segments = encode(delta, layout, update_bytes)
    assert sum(map(len, segments)) <= update_bytes
    estimate = decoded(segments, layout)
    assert estimate.any()
    if 4 * layout.size + 100 < update_bytes:
        assert noise(estimate, delta) < 1e-5


def test_as_many_tensors_as_there_may_be_take_turns_in_the_least_budget(
    layout_of: LayoutOf,
) -> None:
    layout = layout_of([1] * MAX_TENSORS)
    segments = encode(normal(layout.size), layout, MIN_SEGMENT_BYTES)
    assert sum(map(len, segments)) <= MIN_SEGMENT_BYTES
    assert 1 <= np.count_nonzero(decoded(segments, layout)) <= 8


def described_in(segments: Sequence[bytes], layout: Layout) -> int:
    """Return how many bytes remain of all segments where no tensor sends anything."""
    sizes = np.array([tensor.size for tensor in layout.tensors])
    described = 0
    for index, segment in enumerate(segments):
        head, reader = parse_head(memoryview(segment)[HEADER_BYTES:])
        deal = Deal(head.seed, head.groups, len(segments) // head.groups)
        members = deal.members(layout)[deal.group_of(index)]
        held = share_sizes(sizes[members], share=deal.share_of(index), shares=deal.shares)
        shares = parse_shares(reader, head, members=members, sizes=held)
        assert not any(share.peeled.size for share in shares)
        bare = [
            replace(share, places=NO_PLACES, levels=NO_LEVELS, values=NO_VALUES) for share in shares
        ]
        described += HEADER_BYTES + len(pack_shares(head, bare, members=members))
    return described


@pytest.mark.parametrize(
    ("update_bytes", "most"),
    [(64, 60), (400, 90), (1800, 150), (3500, 190), (9000, 190), (100_000, 500), (200_000, 1000)],
)
def test_what_describes_seventy_tensors_is_little(update_bytes: int, most: int) -> None:
    """At most 190 bytes for all of them, and half of one per cent from 100 kB on."""
    layout = layout_named("demo-r8-all")
    assert len(layout.tensors) == 70
    fisher = np.concatenate(
        [
            np.full(tensor.size, weight, dtype=np.float32)
            for tensor, weight in zip(
                layout.tensors, np.random.default_rng(2).lognormal(0, 1, 70), strict=True
            )
        ]
    )
    segments = encode(normal(layout.size), layout, update_bytes, fisher=fisher)
    assert described_in(segments, layout) <= most


def test_what_describes_a_real_adapter_in_many_segments_is_one_per_cent() -> None:
    layout = layout_named("qwen2.5-0.5b-r8-qv")
    segments = encode(normal(layout.size), layout, 100_000, segment_bytes=16_384)
    assert len(segments) > 6
    assert described_in(segments, layout) <= 1000


def test_seventy_tensors_are_described_in_less_than_190_bytes(layout_of: LayoutOf) -> None:
    """By what the same coordinates take as one tensor, at 3.5 kB."""
    random = np.random.default_rng(3)
    layout, whole = layout_of([1185] * 70), layout_of([1185 * 70])
    delta = normal(layout.size)
    fisher = np.repeat(random.lognormal(0, 1, 70), 1185).astype(np.float32)
    lengths = []
    for each in (layout, whole):
        (segment,) = encode(delta, each, 3500, fisher=fisher)
        lengths.append(len(segment))
    best = noise(decoded(encode(delta, whole, 3500 - 190 + 60), whole), delta)
    spread = noise(decoded(encode(delta, layout, 3500), layout), delta)
    assert spread < 1.05 * best


def test_heavy_tails_cost_less_than_gaussians_and_signs_need_nothing_apart(
    layout_of: LayoutOf,
) -> None:
    layout = layout_of([65_536])
    heavy = np.random.default_rng(5).standard_t(2.2, layout.size).astype(np.float32)
    update_bytes = layout.size // 16
    gaussian = noise(
        decoded(encode(normal(layout.size), layout, update_bytes), layout), normal(65_536)
    )
    assert noise(decoded(encode(heavy, layout, update_bytes), layout), heavy) < 0.8 * gaussian
    for delta in (normal(layout.size), like_adamw(layout.size)):
        # After head and list of tensors: none raw, none with coordinates apart.
        (segment,) = encode(delta, layout, update_bytes)
        assert segment[32 + 8 : 32 + 11] == b"\x01\x00\x00"


def test_a_few_spikes_are_sent_exactly(layout_of: LayoutOf) -> None:
    layout = layout_of([4096, 4096])
    delta = np.zeros(layout.size, dtype=np.float32)
    delta[[5, 4000, 8000]] = [0.1, -0.25, 3]
    np.testing.assert_array_equal(decoded(encode(delta, layout, 300), layout), delta)


def test_few_coordinates_that_are_not_zero_fit_any_budget(layout_of: LayoutOf) -> None:
    """Rotated, they make many equal magnitudes, of which only a part is sent."""
    layout = layout_of([4096] * 8)
    delta = np.zeros(layout.size, dtype=np.float32)
    delta[::1500] = 1
    estimates = [decoded(encode(delta, layout, 120, seed=seed), layout) for seed in range(TIMES)]
    mean_is_unbiased(delta, estimates)


def test_zeros_decode_to_zeros(layout_of: LayoutOf) -> None:
    layout = layout_of([100, 3])
    segments = encode(np.zeros(103, dtype=np.float32), layout, 1000)
    assert not decoded(segments, layout).any()
    assert len(segments) == 1


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e10, 3e38])
def test_extreme_magnitudes_stay_finite(layout_of: LayoutOf, scale: float) -> None:
    layout = layout_of([500, 7])
    delta = np.clip(normal(layout.size).astype(np.float64) * 1e3 * scale, -3e38, 3e38)
    estimate = decoded(encode(delta.astype(np.float32), layout, 400), layout)
    assert np.isfinite(estimate).all()
    if scale < 1e11:
        assert noise(estimate, delta) < 1


def test_sums_are_those_of_a_dense_average(layout_of: LayoutOf) -> None:
    layout = layout_of([70_000, 300, 7])
    weights = (0.25, 0.5, 0.25)
    total = np.zeros(layout.size)
    single = np.zeros(layout.size, dtype=np.float32)
    dense = np.zeros(layout.size)
    for client, weight in enumerate(weights):
        segments = encode(normal(layout.size, client), layout, 3000, seed=client)
        held = dict(enumerate(segments))
        for into in (total, single):
            share = CODEC.accumulate(
                held, layout=layout, segment_count=len(segments), weight=weight, total=into
            )
            assert share == 1
        dense += weight * decoded(segments, layout)
    np.testing.assert_allclose(total, dense, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(single, dense, rtol=1e-4, atol=1e-7)


def test_where_small_segments_cannot_all_say_what_they_are_of_one_is_the_update(
    layout_of: LayoutOf,
) -> None:
    layout = layout_of([134, 255, 210, 210])
    random = np.random.default_rng(283)
    delta = random.standard_t(2, layout.size).astype(np.float32)
    fisher = random.lognormal(0, 2, layout.size).astype(np.float32)
    segments = encode(delta, layout, 283, fisher=fisher, segment_bytes=64, seed=283)
    assert [len(segment) <= 64 for segment in segments] == [True]
    assert np.isfinite(decoded(segments, layout)).all()


def test_no_segments_add_nothing_and_a_part_returns_its_share(layout_of: LayoutOf) -> None:
    layout = layout_of([4000])
    segments = encode(normal(4000), layout, 900, segment_bytes=300)
    total = np.zeros(layout.size)
    count = len(segments)
    assert CODEC.accumulate({}, layout=layout, segment_count=5, weight=1.0, total=total) == 0
    assert not total.any()
    held = {count - 1: segments[-1]}
    share = CODEC.accumulate(held, layout=layout, segment_count=count, weight=1.0, total=total)
    assert share == 1 / count


def test_one_bad_segment_adds_nothing_of_the_others(
    layout_of: LayoutOf, reseal: Callable[[bytes], bytes]
) -> None:
    layout = layout_of([4000])
    segments = encode(normal(4000), layout, 900, segment_bytes=300)
    total = np.ones(layout.size)
    for bad in (reseal(segments[1] + b"\0"), reseal(segments[1][:-1])):
        held = {0: segments[0], 1: bad}
        with pytest.raises(CorruptSegment):
            CODEC.accumulate(
                held, layout=layout, segment_count=len(segments), weight=1.0, total=total
            )
    assert (total == 1).all()


def test_segments_of_two_updates_do_not_mix(layout_of: LayoutOf) -> None:
    layout = layout_of([4000])
    one, other = (
        encode(normal(4000), layout, 900, segment_bytes=300, seed=seed) for seed in (1, 2)
    )
    assert len(one) == len(other)
    with pytest.raises(CorruptSegment, match="different updates"):
        decoded((one[0], other[1], *one[2:]), layout)


def test_every_prefix_is_truncated(layout_of: LayoutOf) -> None:
    layout = layout_of([300, 20])
    (segment,) = encode(normal(320), layout, 200)
    for length in range(len(segment)):
        with pytest.raises(TruncatedSegment):
            decode("fstq-r", {0: segment[:length]}, layout=layout, segment_count=1)


def test_the_same_input_gives_the_same_bytes_and_another_seed_others(layout_of: LayoutOf) -> None:
    layout = layout_of([3000, 64])
    delta = normal(layout.size)
    assert encode(delta, layout, 500) == encode(delta, layout, 500)
    assert encode(delta, layout, 500)[0][32:36] != encode(delta, layout, 500, seed=2)[0][32:36]


def test_what_was_accepted_leaves_no_residual(layout_of: LayoutOf) -> None:
    layout = layout_of([3000])
    delta = normal(layout.size)
    segments = encode(delta, layout, 900, segment_bytes=300)
    rest = residual_after(
        delta,
        encoded=dict(enumerate(segments)),
        accepted=[1],
        codec=CODEC,
        layout=layout,
        feedback=True,
        decay=1.0,
    )
    assert not rest.any()


def test_budgets_and_arrays_that_no_update_can_be_made_of_are_refused(layout_of: LayoutOf) -> None:
    layout = layout_of([200_000])
    delta = normal(layout.size)
    with pytest.raises(InvalidInput, match="needs a budget"):
        CODEC.encode(delta, None, layout=layout, budget=Budget(None, LARGE), seed=0)
    with pytest.raises(InvalidInput, match="larger segments"):
        CODEC.encode(
            np.zeros(10_000_000, dtype=np.float32),
            None,
            layout=layout_of([10_000_000]),
            budget=Budget(10_000_000, 64),
            seed=0,
        )
    with pytest.raises(InvalidInput):
        encode(delta, layout, 63)
    with pytest.raises(InvalidInput, match="negative"):
        encode(delta, layout, 1000, fisher=-np.ones(layout.size, dtype=np.float32))
    with pytest.raises(InvalidInput, match="NaN"):
        encode(np.full(layout.size, np.nan, dtype=np.float32), layout, 1000)
