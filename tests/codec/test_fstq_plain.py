"""The controls that have no entropy code: the same choice, more bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codec.codec import Budget, Codec
from codec.codings import Coding
from codec.errors import CorruptSegment
from codec.fstq_plain import FstqPlusPlain, FstqRPlain
from codec.fstq_plus import FstqPlus
from codec.fstq_r import FstqR
from codec.layout import Layout
from codec.rotated_payload import (
    NO_PEELS,
    NO_PLACES,
    NO_VALUES,
    Head,
    Share,
    pack_shares,
    parse_head,
    parse_shares,
)

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]

PAIRS: list[tuple[Codec, Codec]] = [(FstqPlus(), FstqPlusPlain()), (FstqR(), FstqRPlain())]
each_pair = pytest.mark.parametrize(("coded", "plain"), PAIRS, ids=["fstq+", "fstq-r"])


def weighted_error(
    codec: Codec, layout: Layout, arrays: tuple[np.ndarray, np.ndarray], update_bytes: int
) -> float:
    delta, fisher = arrays
    segments = codec.encode(
        delta, fisher, layout=layout, budget=Budget(update_bytes, 16_384), seed=3
    )
    assert sum(map(len, segments)) > 0.9 * update_bytes
    total = np.zeros(layout.size)
    codec.accumulate(
        dict(enumerate(segments)), layout=layout, segment_count=len(segments), weight=1, total=total
    )
    return float((fisher * (total - delta) ** 2).sum())


@each_pair
def test_of_the_same_bytes_an_entropy_code_makes_less_error(
    coded: Codec, plain: Codec, layout_of: LayoutOf, draw: Draw
) -> None:
    layout = layout_of([8000, 500, 16_000])
    arrays = draw(layout.size, 1)
    for bits in (0.2, 1.0):
        update_bytes = int(bits * layout.size / 8)
        more = weighted_error(plain, layout, arrays, update_bytes)
        less = weighted_error(coded, layout, arrays, update_bytes)
        assert more > 1.02 * less
        # With enough bytes more it does as well.
        assert weighted_error(plain, layout, arrays, 2 * update_bytes) < less


@each_pair
def test_names_and_numbers_differ(coded: Codec, plain: Codec) -> None:
    assert plain.codec_id != coded.codec_id
    assert plain.name != coded.name
    assert plain.order is coded.order


def share(tensor: int, number: int, levels: list[int]) -> Share:
    places = np.arange(len(levels)) * 3
    held = np.array(levels, dtype=np.int32)
    return Share(tensor, 64, number, 5, places, held, NO_VALUES, NO_PLACES, NO_PEELS)


MEMBERS = np.arange(4)
SIZES = np.full(4, 64)
HEAD = Head(7, 1, 1, 3, 1)


def test_tensors_stand_for_themselves_and_steps_have_a_fixed_width() -> None:
    shares = [share(0, 50, [1, -30, 2]), share(2, 3, [1, -1, 1, -1]), share(3, 3, [])]
    payload = pack_shares(HEAD, shares, members=MEMBERS, coding=Coding.PLAIN)
    head, reader = parse_head(memoryview(payload), coding=Coding.PLAIN)
    assert head == HEAD
    parsed = parse_shares(reader, head, members=MEMBERS, sizes=SIZES)
    for before, after in zip(shares, parsed, strict=True):
        assert (before.tensor, before.number) == (after.tensor, after.number)
        np.testing.assert_array_equal(before.places, after.places)
        np.testing.assert_array_equal(before.levels, after.levels)


def test_every_prefix_of_a_payload_is_refused() -> None:
    shares = [share(0, 50, [1, -30, 2]), share(2, 3, [1, -1, 1, -1])]
    payload = pack_shares(HEAD, shares, members=MEMBERS, coding=Coding.PLAIN)
    for length in range(8, len(payload)):
        head, reader = parse_head(memoryview(payload[:length]), coding=Coding.PLAIN)
        with pytest.raises(CorruptSegment):
            parse_shares(reader, head, members=MEMBERS, sizes=SIZES)


@pytest.mark.parametrize(("width", "steps"), [(5, bytes(2)), (4, bytes([0xFF, 0x0F]))])
def test_steps_that_are_too_wide_or_too_high_are_refused(width: int, steps: bytes) -> None:
    payload = pack_shares(HEAD, [share(0, 40, [1, 1, 1])], members=MEMBERS, coding=Coding.PLAIN)
    assert payload[-1] == 0  # three steps of no width
    wrong = payload[:-1] + bytes((width,)) + steps
    head, reader = parse_head(memoryview(wrong), coding=Coding.PLAIN)
    with pytest.raises(CorruptSegment):
        parse_shares(reader, head, members=MEMBERS, sizes=SIZES)


def test_a_form_that_joins_tensors_is_refused() -> None:
    payload = pack_shares(Head(7, 1, 1, 3, 2), [], members=MEMBERS)
    with pytest.raises(CorruptSegment):
        parse_head(memoryview(payload), coding=Coding.PLAIN)
