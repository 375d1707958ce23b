from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import bitmap
from transport.errors import MalformedMessage


@settings(deadline=None, max_examples=100)
@given(data=st.data(), total=st.integers(0, 3000))
def test_indices_survive_their_bits(data: st.DataObject, total: int) -> None:
    indices = data.draw(st.frozensets(st.integers(0, total - 1)) if total else st.just(frozenset()))
    bits = bitmap.pack(indices, total)
    assert len(bits) == (total + 7) // 8
    assert bitmap.unpack(bits, total) == indices


def test_the_lowest_bit_comes_first() -> None:
    assert bitmap.pack({0, 9}, 10) == b"\x01\x02"


@pytest.mark.parametrize("index", [-1, 10, 15])
def test_an_index_outside_is_the_callers_fault(index: int) -> None:
    with pytest.raises(ValueError, match="not one of 10"):
        bitmap.pack({index}, 10)


@pytest.mark.parametrize("bits", [b"", b"\0", b"\0\0\0", b"\0\x04", b"\xff\xff"])
def test_bits_that_do_not_stand_for_the_total_are_malformed(bits: bytes) -> None:
    with pytest.raises(MalformedMessage):
        bitmap.unpack(bits, 10)
