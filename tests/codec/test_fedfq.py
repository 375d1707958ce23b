from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from codec.codec import Budget, Order
from codec.errors import CodecError, CorruptSegment, InvalidInput, NonFinite
from codec.layout import Layout
from codec.reference.fedfq import FEDFQ, WIDTHS
from codec.reference.greedy import divisors
from codec.segment import pack
from codec.sets import encode_set

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def encode(
    delta: np.ndarray, layout: Layout, budget: Budget, *, seed: int = 0
) -> tuple[bytes, ...]:
    return FEDFQ.encode(delta, None, layout=layout, budget=budget, seed=seed)


def decode(segments: dict[int, bytes], layout: Layout, count: int) -> np.ndarray:
    total = np.zeros(layout.size)
    FEDFQ.accumulate(segments, layout=layout, segment_count=count, weight=1, total=total)
    return total


def test_it_is_an_ordered_codec() -> None:
    assert (FEDFQ.name, FEDFQ.codec_id) == ("fedfq", 15)
    assert (FEDFQ.order, FEDFQ.dense) == (Order.ORDERED, False)


def test_what_is_sent_is_unbiased_and_what_is_not_is_the_smallest(
    layout_of: LayoutOf, draw: Draw
) -> None:
    layout = layout_of([900, 300])
    delta, _ = draw(layout.size, 1)
    draws = 200
    estimates = []
    for seed in range(draws):
        segments = encode(delta, layout, Budget(700, 300), seed=seed)
        estimates.append(decode(dict(enumerate(segments)), layout, len(segments)))
    mean, deviation = np.mean(estimates, axis=0), np.std(estimates, axis=0, ddof=1)
    sent = np.any(estimates, axis=0)
    assert 0.1 < sent.mean() < 0.9
    # A coordinate's luck could be that all draws were 0; none of the larger ones has it.
    assert np.abs(delta[~sent]).max() <= 1.05 * np.abs(delta[sent]).min()
    error = np.abs(mean - delta)[sent]
    # Steps depend on which are sent, not on chance, so that the draws differ by rounding alone.
    far = error > 6 * deviation[sent] / draws**0.5 + 1e-6
    assert far.mean() < 0.02  # one that is hardly ever rounded the other way has no deviation


def test_larger_magnitudes_have_more_bits(layout_of: LayoutOf) -> None:
    """Relative errors of those that are over the thresholds of 2, 4 and 8 bits and of the rest."""
    layout = layout_of([4000])
    bounds = [0.1, *divisors(WIDTHS).tolist(), 100.0]
    random = np.random.default_rng(2)
    parts = [random.uniform(0.98 * low, 0.98 * high, 1000) for low, high in pairwise(bounds)]
    delta = np.concatenate(parts).astype(np.float32)
    segments = encode(delta, layout, Budget(2500, 4096))
    decoded = decode(dict(enumerate(segments)), layout, len(segments))
    squares = np.square(decoded - delta).reshape(4, 1000).mean(axis=1)
    errors = np.sqrt(squares / np.square(delta).reshape(4, 1000).mean(axis=1))
    assert errors[0] == pytest.approx(1, abs=0.05)
    assert errors[1] > 4 * errors[2] > 16 * errors[3]


def test_a_delta_of_zeros_is_one_segment_that_sends_nothing(layout_of: LayoutOf) -> None:
    segments = encode(np.zeros(50, np.float32), layout_of([50]), Budget(500, 500))
    assert [len(segment) for segment in segments] == [52]


def test_it_needs_a_budget(layout_of: LayoutOf) -> None:
    with pytest.raises(InvalidInput, match="budget of bytes"):
        encode(np.ones(5, np.float32), layout_of([5]), Budget(None, 500))


def payload_of(
    *,
    begin: int = 0,
    length: int = 20,
    counts: tuple[int, int, int] = (4, 2, 1),
    steps: Sequence[int] = (0x3F80, 0x3F00, 0x3C00),
    fields: bytes = bytes([0b0010, 0b1110, 0xFE]),
) -> bytes:
    """Coordinates 1, 5, 6, 19: 2 bits each but the second, of 8 bits, and the third, of 4."""
    sets = encode_set(np.array([1, 5, 6, 19]), size=20)
    sets += encode_set(np.array([1, 2]), size=4) + encode_set(np.array([0]), size=2)
    head = struct.pack("<IIIII", begin, length, *counts)
    return head + sets + struct.pack(f"<{len(steps)}H", *steps) + fields


def test_a_payload_by_hand(layout_of: LayoutOf) -> None:
    layout = layout_of([20])
    segment = pack(payload_of(), codec_id=15, index=0, count=1, layout=layout)
    decoded = decode({0: segment}, layout, 1)
    sent = {place: decoded[place] for place in np.flatnonzero(decoded)}
    assert sent == {1: 1.0, 5: 127 / 128, 6: 3.5, 19: -1.0}


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (bytes(19), CorruptSegment),
        (payload_of(length=0), CorruptSegment),
        (payload_of(begin=1), CorruptSegment),
        (payload_of(counts=(21, 2, 1)), CorruptSegment),
        (payload_of(counts=(4, 5, 1)), CorruptSegment),
        (payload_of(counts=(4, 2, 3)), CorruptSegment),
        (payload_of()[:-1], CorruptSegment),
        (payload_of() + b"\0", CorruptSegment),
        (struct.pack("<IIIII", 0, 20, 20, 20, 20), CorruptSegment),
        (payload_of(steps=(0x3F80, 0x3F00)), CorruptSegment),
        (payload_of(steps=(0x7F80, 0x3F00, 0x3C00)), NonFinite),
        (payload_of(steps=(0x3F80, 0x3F00, 0x7F00)), NonFinite),
        (payload_of(steps=(0x3F80, 0xBF00, 0x3C00)), CorruptSegment),
        (payload_of(fields=bytes([0b0011, 0b1110, 0xFE])), CorruptSegment),
        (payload_of(fields=bytes([0b0010, 0b1111, 0xFE])), CorruptSegment),
        (payload_of(fields=bytes([0b0010, 0b1110, 0xFF])), CorruptSegment),
        (payload_of(fields=bytes([0b1_0010, 0b1110, 0xFE])), CorruptSegment),
    ],
)
def test_a_payload_that_is_not_legal_is_refused(
    layout_of: LayoutOf, payload: bytes, error: type[CodecError]
) -> None:
    layout = layout_of([20])
    segment = pack(payload, codec_id=15, index=0, count=1, layout=layout)
    with pytest.raises(error):
        decode({0: segment}, layout, 1)


def test_runs_that_overlap_are_refused(layout_of: LayoutOf) -> None:
    layout = layout_of([20])
    segments = {
        index: pack(payload_of(), codec_id=15, index=index, count=2, layout=layout)
        for index in range(2)
    }
    with pytest.raises(CorruptSegment):
        decode(segments, layout, 2)
