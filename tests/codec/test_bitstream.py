from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import pack, packed_bytes, unpack
from codec.errors import CorruptSegment


def plain_pack(fields: list[int], width: int) -> bytes:
    """Put all fields into one large integer and write it lowest byte first."""
    whole = sum(field << (place * width) for place, field in enumerate(fields))
    return whole.to_bytes((len(fields) * width + 7) // 8, "little")


@st.composite
def fields_of_a_width(draw: st.DrawFn) -> tuple[list[int], int]:
    width = draw(st.integers(0, 32))
    fields = draw(st.lists(st.integers(0, (1 << width) - 1), max_size=40))
    return fields, width


@settings(deadline=None, max_examples=300)
@given(fields_of_a_width())
def test_packing_agrees_with_one_large_integer(case: tuple[list[int], int]) -> None:
    fields, width = case
    packed = pack(np.array(fields, dtype=np.uint32), width=width)
    assert packed == plain_pack(fields, width)
    assert len(packed) == packed_bytes(len(fields), width=width)
    assert unpack(packed, count=len(fields), width=width).tolist() == fields


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 17])
def test_another_length_is_corrupt(width: int) -> None:
    packed = pack(np.ones(9, dtype=np.uint32), width=width)
    for wrong in (packed[:-1], packed + b"\0", b""):
        with pytest.raises(CorruptSegment, match="do not take"):
            unpack(wrong, count=9, width=width)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_padding_bits_must_be_zero(width: int) -> None:
    packed = bytearray(pack(np.zeros(3, dtype=np.uint32), width=width))
    packed[-1] |= 0x80
    with pytest.raises(CorruptSegment, match="padding"):
        unpack(bytes(packed), count=3, width=width)
