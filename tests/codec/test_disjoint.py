from __future__ import annotations

from dataclasses import dataclass

import pytest

from codec.disjoint import check_disjoint
from codec.errors import CorruptSegment


@dataclass(frozen=True)
class Part:
    begin: int
    end: int


def test_ranges_side_by_side_and_in_any_order_are_disjoint() -> None:
    check_disjoint([Part(5, 9), Part(0, 2), Part(2, 5), Part(20, 21)])
    check_disjoint([])


@pytest.mark.parametrize("other", [(0, 2), (1, 2), (0, 9), (4, 6), (2, 3)])
def test_ranges_that_share_a_coordinate_are_refused(other: tuple[int, int]) -> None:
    with pytest.raises(CorruptSegment, match="two parts"):
        check_disjoint([Part(1, 5), Part(*other)])
