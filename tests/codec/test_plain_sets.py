from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.codings import Coding
from codec.errors import CorruptSegment
from codec.plain_sets import encode_plain_set, plain_set_bytes, take_plain_set
from codec.sets import encode_set


@st.composite
def sets(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    size = draw(st.integers(1, 700))
    density = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return np.flatnonzero(random.random(size) < density), size


@settings(deadline=None, max_examples=100)
@given(sets(), st.binary(max_size=3))
def test_members_come_back_and_the_size_is_known_beforehand(
    members: tuple[np.ndarray, int], rest: bytes
) -> None:
    places, size = members
    data = encode_plain_set(places, size=size)
    assert len(data) == plain_set_bytes(places.size, size)
    taken, used = take_plain_set(memoryview(data + rest), count=places.size, size=size)
    assert used == len(data)
    np.testing.assert_array_equal(taken, places)


@pytest.mark.parametrize(
    ("count", "size", "taken"),
    [(0, 9, 0), (9, 9, 0), (1, 1, 0), (1, 4096, 2), (100, 4096, 150), (400, 4096, 512)],
)
def test_the_smaller_of_a_bitmap_and_indices_is_taken(count: int, size: int, taken: int) -> None:
    assert plain_set_bytes(count, size) == taken
    assert plain_set_bytes(size - count, size) == taken


@settings(deadline=None, max_examples=50)
@given(sets())
def test_every_prefix_is_refused(members: tuple[np.ndarray, int]) -> None:
    places, size = members
    data = encode_plain_set(places, size=size)
    for length in range(len(data)):
        with pytest.raises(CorruptSegment):
            take_plain_set(memoryview(data[:length]), count=places.size, size=size)


@pytest.mark.parametrize(
    ("data", "count", "size"),
    [
        (bytes([0b11]), 3, 8),  # two marks for three members
        (bytes([0b0000_0011, 0]), 3, 9),
        (bytes([0b0010_0001]), 2, 200),  # one byte of two
        (bytes([5, 5]), 2, 256),
        (bytes([6, 5]), 2, 256),
        (bytes([5, 250]), 2, 249),  # leaves the set
        (bytes([0b1000_0001, 0b1000_0000]), 1, 600),  # padding is not zero
    ],
)
def test_what_is_no_such_set_is_refused(data: bytes, count: int, size: int) -> None:
    with pytest.raises(CorruptSegment):
        take_plain_set(memoryview(data), count=count, size=size)


def test_a_coding_names_one_of_the_two_codes() -> None:
    places = np.array([3, 70, 71, 400])
    codes = {Coding.GOLOMB: encode_set, Coding.PLAIN: encode_plain_set}
    for coding, encode in codes.items():
        data = coding.encode_set(places, size=900)
        assert data == encode(places, size=900)
        taken, used = coding.take_set(memoryview(data), count=4, size=900)
        assert (taken.tolist(), used) == (places.tolist(), len(data))
