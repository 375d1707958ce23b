"""What every codec promises: one suite, which a codec joins by being registered.

Where a promise depends on the method, a table here says for whom it does not hold, and why.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.fedavg import ClientUpdate, federated_average
from codec.codec import Budget, Codec, Order
from codec.errors import CodecError, InvalidInput, LayoutMismatch, UnsupportedVersion
from codec.layout import Layout
from codec.registry import CODECS, codec_named
from codec.residual import residual_after

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
Encode = Callable[..., tuple[bytes, ...]]
Decode = Callable[..., np.ndarray]
Reseal = Callable[[bytes], bytes]
Values = Callable[[np.random.Generator, int], np.ndarray]

ALL = tuple(codec_named(name) for name in CODECS)
EXCHANGEABLE = tuple(codec for codec in ALL if codec.order is Order.EXCHANGEABLE)
ORDERED = tuple(codec for codec in ALL if codec.order is Order.ORDERED)
# Unbiased without being exchangeable. `fedbat` is so only up to its step, the mean magnitude.
UNBIASED = (*EXCHANGEABLE, *map(codec_named, ("qsgd", "fedpaq")))
# Draws -1 where a uniform is at least the value over the step: mirrored, other draws fall so.
NOT_MIRRORED = {"fedbat"}

ODD_SIZES = [(1,), (2,), (1, 1, 1), (7,), (513, 1, 64), (1000, 3), (8, 160, 2048)]


def of(codecs: Sequence[Codec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("codec", codecs, ids=[codec.name for codec in codecs])


def overhead(layout: Layout) -> int:
    """Bytes of a segment that hold what the most talkative codec says of each tensor."""
    return 70 + 5 * len(layout.tensors)


# -- Round trips ----------------------------------------------------------------------------------


@of(ALL)
@pytest.mark.parametrize("sizes", ODD_SIZES, ids=str)
def test_odd_sizes_come_back_as_something_like_them(  # noqa: PLR0917 - fixtures
    codec: Codec,
    sizes: Sequence[int],
    layout_of: LayoutOf,
    draw: Draw,
    encode: Encode,
    decode: Decode,
) -> None:
    layout = layout_of(sizes)
    delta, fisher = draw(layout.size, 1)
    segments = encode(codec, delta, fisher, layout=layout)
    decoded = decode(codec, segments, layout=layout)
    assert decoded @ delta > 0.4 * (delta @ delta)


def dyadic(values: Values) -> Values:
    """Values times a power of two."""
    return lambda random, size: values(random, size) * 2.0 ** random.integers(-8, 8)


def signs(random: np.random.Generator, size: int) -> np.ndarray:
    return random.choice([-1.0, 1.0], size)


def with_top(levels: np.ndarray, top: float) -> np.ndarray:
    levels[::64] = top
    return levels


def spike(random: np.random.Generator, size: int) -> np.ndarray:
    values = np.zeros(size)
    values[random.integers(size)] = random.choice([-3.0, 1.5])
    return values


def norm_of_127(random: np.random.Generator, size: int) -> np.ndarray:
    """Whole numbers whose squares add up to 127 squared: 127 levels of one step each."""
    values = np.zeros(size)
    some = (120, 41, 6, 2, 2, 2) if size > 5 else (127,)
    values[random.permutation(size)[: len(some)]] = some
    return values * signs(random, size)


def floats(random: np.random.Generator, size: int) -> np.ndarray:
    return random.standard_normal(size)


def halves(random: np.random.Generator, size: int) -> np.ndarray:
    return random.standard_normal(size).astype(np.float16)


def upper_halves(random: np.random.Generator, size: int) -> np.ndarray:
    bits = random.standard_normal(size).astype(np.float32).view(np.uint32) & 0xFFFF_0000
    return bits.astype(np.uint32).view(np.float32)


def levels_of_seven(random: np.random.Generator, size: int) -> np.ndarray:
    return with_top(random.integers(-7, 8, size).astype(np.float64), 7)


def half_levels(random: np.random.Generator, size: int) -> np.ndarray:
    return with_top(random.integers(0, 8, size) + 0.5, 7.5) * signs(random, size)


def levels_of_127(random: np.random.Generator, size: int) -> np.ndarray:
    return with_top(random.integers(1, 128, size).astype(np.float64), 127) * signs(random, size)


# What each codec gives back as it was, tensor by tensor, where the budget is ample.
GRIDS: dict[str, Values] = {
    "fp32": floats,
    "fp16": halves,
    "bf16": upper_halves,
    "top-k": halves,
    "fstq": dyadic(levels_of_seven),
    "fstq-percentile": dyadic(lambda random, size: 7 * signs(random, size)),
    "fstq+": dyadic(half_levels),
    "fstq-uniform": dyadic(half_levels),
    "fstq-magnitude": dyadic(half_levels),
    "fstq-random": dyadic(lambda random, size: 1.5 * signs(random, size)),
    "fstq-r": halves,
    "qsgd": dyadic(levels_of_seven),
    "fedpaq": dyadic(norm_of_127),
    "stc": dyadic(signs),
    "sign": dyadic(signs),
    "fedbat": dyadic(signs),
    "eden": dyadic(spike),
    "fstq-paper": halves,
    "sparseloco": dyadic(signs),
    "fedfq": dyadic(levels_of_127),
    "flasc": floats,
    "fstq-plus-plain": dyadic(half_levels),
    "fstq-r-plain": halves,
}


@of(ALL)
@pytest.mark.parametrize("sizes", [(1,), (4, 1, 16), (256, 1, 1024)], ids=str)
def test_grid_values_come_back_exactly(
    codec: Codec, sizes: Sequence[int], layout_of: LayoutOf, encode: Encode, decode: Decode
) -> None:
    """Tensors of 4^k coordinates, so that roots of sizes are whole; a new codec names its grid."""
    layout = layout_of(sizes)
    random = np.random.default_rng(2)
    for segment_bytes in (4096, 1000):
        grid = np.concatenate([GRIDS[codec.name](random, size) for size in sizes]).astype("f4")
        segments = encode(codec, grid, layout=layout, bits=64, segment_bytes=segment_bytes)
        np.testing.assert_array_equal(grid, decode(codec, segments, layout=layout))


@of(ALL)
def test_nothing_comes_back_as_nothing(
    codec: Codec, layout_of: LayoutOf, encode: Encode, decode: Decode
) -> None:
    layout = layout_of([70, 1, 300])
    zeros = np.zeros(layout.size, np.float32)
    for fisher in (None, zeros, zeros + 1):
        segments = encode(codec, zeros, fisher, layout=layout)
        assert not decode(codec, segments, layout=layout).any()


EXTREMES = (0.0, 1e-45, 1e-38, 1.0, 3.4028235e38)


@of(ALL)
def test_extreme_deltas_and_fishers_give_finite_sums_without_a_warning(
    codec: Codec, layout_of: LayoutOf, encode: Encode, decode: Decode
) -> None:
    """Of one magnitude, of all magnitudes, and one coordinate that is far from all others."""
    layout = layout_of([130, 1, 70])
    random = np.random.default_rng(3)
    size = layout.size
    alone = np.full(size, 1e-30)
    alone[7] = 3.4e38
    arrays = [np.full(size, value) for value in EXTREMES]
    arrays += [random.choice(EXTREMES, size), alone]
    for delta, fisher in itertools.product(arrays, repeat=2):
        signed = (delta * signs(random, size)).astype(np.float32)
        segments = encode(codec, signed, fisher.astype(np.float32), layout=layout)
        decoded = decode(codec, segments, layout=layout)
        assert np.isfinite(decoded.astype(np.float32)).all()


# -- Unbiasedness ---------------------------------------------------------------------------------


def choices(codec: Codec, count: int) -> dict[str, list[list[int]]]:
    """Which segments arrive; where it says several, their estimates are averaged.

    One segment alone is a noisy estimate: all of them in turn show in few draws what is off.
    """
    every = list(range(count))
    if codec.order is Order.ORDERED:
        return {"all": [every]}
    return {
        "all": [every],
        "the first": [[0]],
        "each alone": [[index] for index in every],
        "all but one": [every[:index] + every[index + 1 :] for index in every],
        "half": [every[::2]],
    }


@of(UNBIASED)
@pytest.mark.parametrize(
    ("sizes", "bits"), [([900, 512, 200], 3.0), ([260] * 6, 1.0)], ids=["unequal", "alike"]
)
def test_what_arrives_is_unbiased_over_seeds(  # noqa: PLR0917 - fixtures
    codec: Codec,
    sizes: list[int],
    bits: float,
    layout_of: LayoutOf,
    draw: Draw,
    encode: Encode,
    decode: Decode,
) -> None:
    """The mean of n draws against the delta: no coordinate, no tensor and no length is off.

    An unbiased mean errs by the variance over n. Each coordinate is within 6 standard deviations;
    the length along the delta, in which all coordinates of a tensor may err together, within 4.5;
    and across it the squares of all coordinates add up to at most 1.4 times what is expected.
    """
    layout = layout_of(sizes)
    delta, fisher = draw(layout.size, 4)
    delta[sizes[0] :] *= 3
    draws = 100
    decoded: dict[str, list[np.ndarray]] = {}
    for seed in range(draws):
        segments = encode(
            codec, delta, fisher, layout=layout, bits=bits, segment_bytes=150, seed=seed
        )
        assert len(segments) > 1
        for which, parts in choices(codec, len(segments)).items():
            estimates = [
                decode(
                    codec,
                    {index: segments[index] for index in part},
                    layout=layout,
                    count=len(segments),
                )
                for part in parts
            ]
            decoded.setdefault(which, []).append(np.mean(estimates, axis=0))
    for which, drawn in decoded.items():
        for tensor in layout.tensors:
            window = slice(tensor.offset, tensor.end)
            along, across = lengthwise(np.array(drawn)[:, window], delta[window])
            bound = 4.5 * along.std(ddof=1) / draws**0.5 + 1e-4
            assert abs(along.mean() - 1) < bound, (which, tensor.name)
            mean, deviation = across.mean(axis=0), across.std(axis=0, ddof=1)
            expected = (deviation**2).sum() / draws
            assert (mean**2).sum() < 1.4 * expected + 1e-9, (which, tensor.name)
            # A coordinate that is hardly ever sent has no deviation that a sample would tell.
            far = np.abs(mean) > 6 * deviation / draws**0.5 + 1e-6
            assert far.mean() < 0.02, (which, tensor.name)


def lengthwise(estimates: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each estimate's length along the delta, in units of the delta, and its rest."""
    wide = delta.astype(np.float64)
    along = estimates @ wide / (wide @ wide)
    return along, estimates - along[:, np.newaxis] * wide


@of(tuple(codec for codec in ALL if codec not in UNBIASED and codec.name != "fedbat"))
def test_what_is_said_to_be_biased_is_so(
    codec: Codec, layout_of: LayoutOf, draw: Draw, encode: Encode, decode: Decode
) -> None:
    """So that an unbiased codec is not left out of the test above: its mean is not the delta."""
    layout = layout_of([2000])
    delta, fisher = draw(layout.size, 5)
    estimates = [
        decode(
            codec, encode(codec, delta, fisher, layout=layout, bits=0.7, seed=seed), layout=layout
        )
        for seed in range(8)
    ]
    mean, deviation = np.mean(estimates, axis=0), np.std(estimates, axis=0, ddof=1)
    exact = codec.name in {"fp32", "fp16", "bf16"}
    error, expected = ((mean - delta) ** 2).sum(), (deviation**2).sum() / 8
    assert (error < 1e-4 * (delta @ delta)) == exact
    assert exact or error > 2 * expected


# -- Equivariance ---------------------------------------------------------------------------------


@of(tuple(codec for codec in ALL if codec.name not in NOT_MIRRORED))
def test_the_sign_goes_through(
    codec: Codec, layout_of: LayoutOf, draw: Draw, encode: Encode, decode: Decode
) -> None:
    layout = layout_of([400, 77, 5])
    delta, fisher = draw(layout.size, 6)
    plus, minus = (
        decode(codec, encode(codec, sign * delta, fisher, layout=layout, seed=1), layout=layout)
        for sign in (np.float32(1), np.float32(-1))
    )
    assert plus.any()
    np.testing.assert_array_equal(plus, -minus)


@of(ALL)
@pytest.mark.parametrize("power", [-6, 7])
def test_powers_of_two_go_through(  # noqa: PLR0917 - fixtures
    codec: Codec, power: int, layout_of: LayoutOf, draw: Draw, encode: Encode, decode: Decode
) -> None:
    """Where neither is under 2^-14, below which 16-bit floats lose bits."""
    layout = layout_of([400, 77, 5])
    delta, fisher = draw(layout.size, 7)
    delta *= np.float32(100)
    delta[np.abs(delta) < 2.0**-8] = 2.0**-8
    once, scaled = (
        decode(codec, encode(codec, delta * factor, fisher, layout=layout, seed=1), layout=layout)
        for factor in (np.float32(1), np.float32(2.0**power))
    )
    assert once.any()
    np.testing.assert_array_equal(once * 2.0**power, scaled)


@of(ALL)
def test_the_unit_of_fisher_information_does_not_matter(
    codec: Codec, layout_of: LayoutOf, draw: Draw, encode: Encode
) -> None:
    layout = layout_of([400, 77, 5])
    delta, fisher = draw(layout.size, 8)
    first = encode(codec, delta, fisher, layout=layout, bits=1.5)
    for factor in (2.0**-20, 2.0**20):
        assert first == encode(codec, delta, fisher * np.float32(factor), layout=layout, bits=1.5)
    flat = encode(codec, delta, np.ones_like(fisher), layout=layout, bits=1.5)
    assert flat == encode(codec, delta, None, layout=layout, bits=1.5)


@of(ALL)
def test_the_same_input_gives_the_same_bytes(
    codec: Codec, layout_of: LayoutOf, draw: Draw, encode: Encode
) -> None:
    """Wherever it lies in memory, and whatever else was encoded in between."""
    layout = layout_of([700, 3])
    delta, fisher = draw(layout.size, 9)
    first = encode(codec, delta, fisher, layout=layout, seed=5)
    encode(codec, fisher, delta**2, layout=layout, seed=6)
    assert first == encode(codec, delta.copy(), fisher.copy(), layout=layout, seed=5)
    apart = np.zeros((2, 3 * layout.size + 1), np.float32)
    apart[:, 1::3] = delta, fisher
    assert not apart[0, 1::3].flags.c_contiguous
    strided = encode(codec, apart[0, 1::3], apart[1, 1::3], layout=layout, seed=5)
    assert first == strided
    np.testing.assert_array_equal(delta, draw(layout.size, 9)[0])


# -- Budget ---------------------------------------------------------------------------------------


@of(ALL)
@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    update_bytes=st.integers(64, 1500),
    segment_bytes=st.integers(64, 700),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_the_budget_is_never_exceeded_to_the_byte(  # noqa: PLR0917 - fixtures
    codec: Codec,
    sizes: list[int],
    update_bytes: int,
    segment_bytes: int,
    seed: int,
    density: float,
) -> None:
    layout = Layout.from_shapes({f"{place:03}": [size] for place, size in enumerate(sizes)})
    random = np.random.default_rng(seed)
    delta = random.standard_t(2, layout.size) * (random.random(layout.size) < density)
    fisher = random.lognormal(0, 2, layout.size).astype(np.float32)
    delta = delta.astype(np.float32)
    budget = Budget(update_bytes, segment_bytes)
    try:
        segments = codec.encode(delta, fisher, layout=layout, budget=budget, seed=seed)
    except InvalidInput:
        if not codec.dense:
            assert min(update_bytes, segment_bytes) < overhead(layout)
            assert codec.name == "eden"
            return
        # A dense codec takes what it takes; where that is more than there is, it says so.
        segments = codec.encode(
            delta, fisher, layout=layout, budget=Budget(None, segment_bytes), seed=seed
        )
        assert sum(map(len, segments)) > update_bytes
    else:
        assert sum(map(len, segments)) <= update_bytes
    assert len(segments) >= 1
    assert max(map(len, segments)) <= segment_bytes
    total = np.zeros(layout.size)
    codec.accumulate(
        dict(enumerate(segments)), layout=layout, segment_count=len(segments), weight=1, total=total
    )
    assert np.isfinite(total).all()


@of(tuple(codec for codec in ALL if codec.dense))
def test_a_dense_codec_is_refused_a_budget_that_is_one_byte_short(
    codec: Codec, layout_of: LayoutOf, draw: Draw, encode: Encode
) -> None:
    layout = layout_of([700, 3])
    delta, _ = draw(layout.size, 17)
    segments = encode(codec, delta, layout=layout, segment_bytes=300)
    size = sum(map(len, segments))
    assert segments == codec.encode(delta, None, layout=layout, budget=Budget(size, 300), seed=0)
    with pytest.raises(InvalidInput):
        codec.encode(delta, None, layout=layout, budget=Budget(size - 1, 300), seed=0)


@of(tuple(codec for codec in ALL if not codec.dense))
@pytest.mark.parametrize("bits", [0.5, 2.0])
def test_the_budget_is_used(
    codec: Codec, bits: float, layout_of: LayoutOf, draw: Draw, encode: Encode
) -> None:
    """A codec that sent less than it may would seem better than it is, bit by bit."""
    layout = layout_of([6000, 300, 9000])
    delta, fisher = draw(layout.size, 10)
    segments = encode(codec, delta, fisher, layout=layout, bits=bits, segment_bytes=1500)
    size = sum(map(len, segments))
    allowed = 85 + int(bits * layout.size / 8)
    whole = encode(codec, delta, fisher, layout=layout, bits=64, segment_bytes=1500)
    assert size > 0.95 * min(allowed, sum(map(len, whole)))


# -- Parts, sums, order ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def update(layout_of: LayoutOf, draw: Draw, encode: Encode) -> Callable[[Codec], Update]:
    """Return a function that gives an update of several segments of any codec."""
    made: dict[str, Update] = {}

    def update_of(codec: Codec) -> Update:
        if codec.name not in made:
            layout = layout_of([1900, 1, 333, 64])
            delta, fisher = draw(layout.size, 11)
            segments = encode(
                codec, delta, fisher, layout=layout, bits=2.0, segment_bytes=120, seed=3
            )
            assert len(segments) >= 3
            made[codec.name] = layout, delta, segments
        return made[codec.name]

    return update_of


Update = tuple[Layout, np.ndarray, tuple[bytes, ...]]
UpdateOf = Callable[[Codec], Update]


@of(ORDERED)
def test_disjoint_parts_add_up_to_the_whole(codec: Codec, update: UpdateOf, decode: Decode) -> None:
    layout, _, segments = update(codec)
    whole = decode(codec, segments, layout=layout)
    random = np.random.default_rng(12)
    for parts in (2, 3, len(segments)):
        owners = random.integers(parts, size=len(segments))
        total = np.zeros(layout.size)
        for part in range(parts):
            some = {index: segments[index] for index in np.flatnonzero(owners == part).tolist()}
            decoded = decode(codec, some, layout=layout, count=len(segments))
            assert not (total * decoded).any()  # no coordinate comes twice
            total += decoded
        np.testing.assert_array_equal(whole, total)


@of(ORDERED)
def test_each_further_segment_brings_the_update_closer_to_the_delta(
    codec: Codec, update: UpdateOf, decode: Decode
) -> None:
    layout, delta, segments = update(codec)
    errors = []
    for count in range(len(segments) + 1):
        some = dict(enumerate(segments[:count]))
        decoded = decode(codec, some, layout=layout, count=len(segments))
        errors.append(((decoded - delta) ** 2).sum())
    assert errors[-1] < errors[0]
    if codec.name not in {
        "qsgd",
        "fedpaq",
        "fedbat",
        "fedfq",
    }:  # whose rounding can hurt here and there
        assert all(more > less for more, less in itertools.pairwise(errors))


@of(ALL)
def test_the_order_in_which_segments_are_given_does_not_matter(
    codec: Codec, update: UpdateOf, decode: Decode
) -> None:
    layout, _, segments = update(codec)
    expected = decode(codec, segments, layout=layout)
    random = np.random.default_rng(13)
    for _ in range(5):
        order = random.permutation(len(segments)).tolist()
        shuffled = decode(codec, {index: segments[index] for index in order}, layout=layout)
        np.testing.assert_allclose(shuffled, expected, rtol=1e-6, atol=1e-12)


@of(ALL)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weights_scale_what_is_added_to_either_kind_of_sum(
    codec: Codec, dtype: npt.DTypeLike, update: UpdateOf, decode: Decode
) -> None:
    layout, _, segments = update(codec)
    some = {index: segments[index] for index in range(1, len(segments))}
    once = decode(codec, some, layout=layout, count=len(segments))
    before = np.random.default_rng(14).standard_normal(layout.size).astype(dtype)
    for weight in (1.0, -2.5, 0.0):
        total = before.copy()
        share = codec.accumulate(
            some, layout=layout, segment_count=len(segments), weight=weight, total=total
        )
        assert share == len(some) / len(segments)
        assert total.dtype == dtype
        tolerance = float(np.finfo(dtype).eps) * 8
        np.testing.assert_allclose(total, before + weight * once, rtol=tolerance, atol=tolerance)


@of(ALL)
def test_no_segments_stand_for_nothing(codec: Codec, update: UpdateOf, decode: Decode) -> None:
    layout, _, segments = update(codec)
    assert not decode(codec, {}, layout=layout, count=len(segments)).any()


@of(ALL)
def test_a_residual_makes_up_for_what_did_not_arrive(
    codec: Codec, update: UpdateOf, decode: Decode
) -> None:
    layout, delta, segments = update(codec)
    encoded = dict(enumerate(segments))
    accepted = range(0, len(segments), 2)
    some = {index: segments[index] for index in accepted}
    arrived = decode(codec, some, layout=layout, count=len(segments))
    rest = residual_after(
        delta,
        encoded=encoded,
        accepted=accepted,
        codec=codec,
        layout=layout,
        feedback=True,
        decay=1.0,
    )
    if codec.order is Order.EXCHANGEABLE:
        assert not rest.any()
    else:
        np.testing.assert_allclose(rest + arrived, delta, rtol=1e-6, atol=1e-8)


# -- Sums of several clients ----------------------------------------------------------------------


@of(ALL)
def test_sums_are_those_of_dense_federated_averaging(
    codec: Codec, layout_of: LayoutOf, draw: Draw, encode: Encode, decode: Decode
) -> None:
    """The oracle: decode every client alone, and let numpy average the dense arrays."""
    layout = layout_of([500, 1, 90])
    weights = [3.0, 1.0, 7.0, 2.0]
    updates, dense = [], []
    total = np.zeros(layout.size)
    for client, weight in enumerate(weights):
        delta, fisher = draw(layout.size, 15 + client)
        segments = encode(
            codec, delta, fisher, layout=layout, bits=3, segment_bytes=150, seed=client
        )
        some = dict(enumerate(segments[: len(segments) - client % 2]))
        dense.append(decode(codec, some, layout=layout, count=len(segments)))
        updates.append(ClientUpdate(f"client-{client}", int(weight), len(segments), some))
        codec.accumulate(
            some, layout=layout, segment_count=len(segments), weight=weight, total=total
        )
    expected = np.average(dense, axis=0, weights=weights)
    assert expected.any()
    np.testing.assert_allclose(total / sum(weights), expected, rtol=1e-12, atol=1e-15)
    average = federated_average(updates, codec=codec, layout=layout, max_delta_abs=1e6)
    assert average.included == tuple(update.uid for update in updates)
    if codec.order is Order.EXCHANGEABLE:  # a noisier estimate weighs less
        shares = [len(update.segments) / update.segment_count for update in updates]
        weights = np.multiply(weights, shares).tolist()
        expected = np.average(dense, axis=0, weights=weights)
    np.testing.assert_allclose(average.mean, expected, rtol=1e-12, atol=1e-15)


# -- Refusals -------------------------------------------------------------------------------------


def placed(segment: bytes, *, index: int, count: int, reseal: Reseal) -> bytes:
    """The same payload as another segment of an update."""
    return reseal(segment[:8] + struct.pack("<II", index, count) + segment[16:])


@of(ALL)
def test_nothing_is_added_where_a_segment_is_wrong(
    codec: Codec, update: UpdateOf, reseal: Reseal
) -> None:
    """Damaged, short, long, out of place, of another layout: the sum stays, to the bit."""
    layout, _, segments = update(codec)
    count = len(segments)
    good = segments[1]
    prefix = bytes(byte ^ 0xFF for byte in good[16:24])
    wrongs = (
        b"",
        good[:-1],
        good + b"\0",
        good[:-1] + bytes((good[-1] ^ 1,)),
        reseal(good[:-1]),
        segments[0],
        placed(good, index=1, count=count + 1, reseal=reseal),
        reseal(good[:16] + prefix + good[24:]),
        reseal(good[:5] + b"\xfe" + good[6:]),
    )
    total = np.random.default_rng(16).standard_normal(layout.size)
    before = total.tobytes()
    for wrong, first in itertools.product(wrongs, (True, False)):
        others = {index: segments[index] for index in range(count) if index != 1}
        given_ = {1: wrong, **others} if first else {**others, 1: wrong}
        with pytest.raises(CodecError):
            codec.accumulate(given_, layout=layout, segment_count=count, weight=1.0, total=total)
        assert total.tobytes() == before


@of(ORDERED)
def test_a_coordinate_that_comes_twice_is_refused(
    codec: Codec, update: UpdateOf, reseal: Reseal
) -> None:
    layout, _, segments = update(codec)
    count = len(segments)
    twice = {0: segments[0], 1: placed(segments[0], index=1, count=count, reseal=reseal)}
    total = np.zeros(layout.size)
    with pytest.raises(CodecError):
        codec.accumulate(twice, layout=layout, segment_count=count, weight=1.0, total=total)
    assert not total.any()


@of(EXCHANGEABLE)
def test_segments_of_two_updates_are_no_update(
    codec: Codec, update: UpdateOf, draw: Draw, encode: Encode, decode: Decode
) -> None:
    layout, delta, segments = update(codec)
    _, fisher = draw(layout.size, 11)
    others = encode(codec, delta, fisher, layout=layout, bits=2.0, segment_bytes=120, seed=4)
    assert len(others) == len(segments)
    with pytest.raises(CodecError):
        decode(codec, {0: segments[0], 1: others[1]}, layout=layout, count=len(segments))


@of(ALL)
def test_another_layout_and_another_codec_are_refused(
    codec: Codec, update: UpdateOf, layout_of: LayoutOf, decode: Decode
) -> None:
    layout, _, segments = update(codec)
    turned = layout_of([333, 1, 1900, 64])
    assert turned.size == layout.size
    with pytest.raises(LayoutMismatch):
        decode(codec, segments, layout=turned)
    for other in ALL:
        if other.codec_id != codec.codec_id:
            with pytest.raises(UnsupportedVersion):
                decode(other, segments, layout=layout)


@of(ALL)
def test_wrong_arrays_budgets_and_sums_are_refused(codec: Codec, layout_of: LayoutOf) -> None:
    layout = layout_of([40, 3])
    good = np.ones(43, np.float32)
    room = Budget(None if codec.dense else 300, 300)
    spoilt = good.copy()
    spoilt[7] = np.nan
    for delta in (good[:-1], good.reshape(1, -1), good.astype(np.float64), spoilt, np.inf * good):
        with pytest.raises(InvalidInput):
            codec.encode(delta, None, layout=layout, budget=room, seed=0)
    for budget in (Budget(None, 63), Budget(63, 1024), Budget(300, 130_049)):
        with pytest.raises(InvalidInput):
            codec.encode(good, None, layout=layout, budget=budget, seed=0)
    sums = (np.zeros(42), np.zeros(43, np.float16), np.zeros((1, 43)), np.zeros(43, np.int64))
    for total, weight in (*((total, 1.0) for total in sums), (np.zeros(43), float("nan"))):
        with pytest.raises(InvalidInput):
            codec.accumulate({}, layout=layout, segment_count=1, weight=weight, total=total)
