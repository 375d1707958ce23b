from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codec.codec import Budget, Order
from codec.errors import CodecError, CorruptSegment, NonFinite
from codec.layout import Layout
from codec.reference.sparseloco import CHUNK, SPARSELOCO
from codec.segment import pack

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def encode(delta: np.ndarray, layout: Layout, budget: Budget) -> tuple[bytes, ...]:
    return SPARSELOCO.encode(delta, None, layout=layout, budget=budget, seed=0)


def decode(segments: dict[int, bytes], layout: Layout, count: int) -> np.ndarray:
    total = np.zeros(layout.size)
    SPARSELOCO.accumulate(segments, layout=layout, segment_count=count, weight=1, total=total)
    return total


def test_it_is_an_ordered_codec() -> None:
    assert (SPARSELOCO.name, SPARSELOCO.codec_id) == ("sparseloco", 14)
    assert (SPARSELOCO.order, SPARSELOCO.dense) == (Order.ORDERED, False)


def test_every_chunk_sends_its_largest_and_the_same_share(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([3 * CHUNK + 500, 1, 2 * CHUNK])
    delta, _ = draw(layout.size, 1)
    delta[:CHUNK] *= 100  # a global choice would take nothing else
    segments = encode(delta, layout, Budget(1000, 400))
    assert len(segments) == 3
    decoded = decode(dict(enumerate(segments)), layout, 3)
    share = np.count_nonzero(decoded) / layout.size
    for tensor in layout.tensors:
        for start in range(tensor.offset, tensor.end, CHUNK):
            window = slice(start, min(start + CHUNK, tensor.end))
            sent = np.flatnonzero(decoded[window])
            assert abs(sent.size - share * (window.stop - start)) < 1.01
            largest = np.argsort(-np.abs(delta[window]), kind="stable")[: sent.size]
            assert set(sent.tolist()) == set(largest.tolist())
            assert len(set(np.abs(decoded[window][sent]).tolist())) <= 2
    same = np.sign(decoded) == np.sign(delta)
    assert same[decoded != 0].all()


def test_an_entry_takes_14_bits_and_a_chunk_4_bytes(layout_of: LayoutOf, draw: Draw) -> None:
    """1.56 % of all at 2 bits: the paper's 146 times, but for magnitudes and headers."""
    layout = layout_of([64 * CHUNK])
    delta, _ = draw(layout.size, 2)
    body = 64 * (64 * 14 // 8 + 4)
    (segment,) = encode(delta, layout, Budget(32 + 12 + body, 32_768))
    assert len(segment) == 32 + 12 + body
    decoded = decode({0: segment}, layout, 1)
    assert (np.count_nonzero(decoded.reshape(64, CHUNK), axis=1) == 64).all()
    ratio = 4 * layout.size / (body - 64 * 4)
    assert 146 < ratio < 147


def test_magnitudes_are_the_means_of_what_they_stand_for(layout_of: LayoutOf) -> None:
    layout = layout_of([8])
    delta = np.array([4, -4.5, 1, -1, 1.25, 0.25, 0, 4.25], np.float32)
    (segment,) = encode(delta, layout, Budget(64, 100))
    low = 0.69921875  # bf16 of 3.5 / 5
    expected = [4.25, -4.25, low, -low, low, low, low, 4.25]
    np.testing.assert_array_equal(decode({0: segment}, layout, 1), expected)


def test_a_delta_of_zeros_is_one_segment_that_sends_nothing(layout_of: LayoutOf) -> None:
    segments = encode(np.zeros(50, np.float32), layout_of([50]), Budget(500, 500))
    assert [len(segment) for segment in segments] == [44]


WHOLE = 1 << 31


def payload_of(
    indices: list[int],
    *,
    share: int = WHOLE,
    first: int = 0,
    count: int | None = None,
    words: Sequence[int] = (0x3F80, 0x4000),
) -> bytes:
    """Entries of one chunk, magnitudes 1 and 2; the second entry is the upper one and negative."""
    bits = sum(index << 12 * place for place, index in enumerate(indices))
    head = struct.pack("<III", share, first, len(indices) if count is None else count)
    fields = bytes([0b1100]) if indices else b""
    packed = bits.to_bytes((12 * len(indices) + 7) // 8, "little")
    return head + struct.pack(f"<{len(words)}H", *words) + packed + fields


def test_a_payload_by_hand(layout_of: LayoutOf) -> None:
    layout = layout_of([20])
    segment = pack(payload_of([3, 7]), codec_id=14, index=0, count=1, layout=layout)
    decoded = decode({0: segment}, layout, 1)
    assert {place: decoded[place] for place in np.flatnonzero(decoded)} == {3: 1.0, 7: -2.0}


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (bytes(11), CorruptSegment),
        (payload_of([3, 7], share=WHOLE + 1), CorruptSegment),
        (payload_of([3, 7], share=WHOLE // 20), CorruptSegment),  # one entry in all
        (payload_of([3, 7], first=19), CorruptSegment),
        (payload_of([3, 7], count=0xFFFF_FFFF), CorruptSegment),
        (payload_of([3, 7])[:-1], CorruptSegment),
        (payload_of([3, 7]) + b"\0", CorruptSegment),
        (payload_of([7, 3]), CorruptSegment),
        (payload_of([3, 3]), CorruptSegment),
        (payload_of([3, 20]), CorruptSegment),
        (payload_of([3, 7], words=(0x3F80, 0x7F80)), NonFinite),
        (payload_of([3, 7], words=(0xBF80, 0x4000)), CorruptSegment),
        (payload_of([3, 7])[:-1] + b"\x1c", CorruptSegment),  # padding is not zero
    ],
)
def test_a_payload_that_is_not_legal_is_refused(
    layout_of: LayoutOf, payload: bytes, error: type[CodecError]
) -> None:
    layout = layout_of([20])
    segment = pack(payload, codec_id=14, index=0, count=1, layout=layout)
    with pytest.raises(error):
        decode({0: segment}, layout, 1)


@pytest.mark.parametrize(
    "second", [payload_of([5, 7], first=2), payload_of([5, 9], first=2, share=WHOLE - 1)]
)
def test_segments_that_are_no_one_update_are_refused(layout_of: LayoutOf, second: bytes) -> None:
    """The same coordinate twice; another share."""
    layout = layout_of([20])
    segments = {
        index: pack(payload, codec_id=14, index=index, count=2, layout=layout)
        for index, payload in enumerate((payload_of([3, 7]), second))
    }
    with pytest.raises(CorruptSegment):
        decode(segments, layout, 2)
