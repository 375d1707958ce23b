from __future__ import annotations

from pathlib import Path

import pytest

from codec import limits, segment, slices

SPEC = Path(segment.__file__).with_name("SPEC.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("bytes of a segment", limits.MAX_SEGMENT_BYTES),
        ("least bytes of a budget", limits.MIN_SEGMENT_BYTES),
        ("segments of an update", limits.MAX_SEGMENTS),
        ("coordinates of a layout", limits.MAX_COORDINATES),
        ("tensors of a layout", limits.MAX_TENSORS),
        ("bytes of a name", limits.MAX_NAME_BYTES),
        ("dimensions of a tensor", limits.MAX_DIMENSIONS),
    ],
)
def test_the_specification_says_the_same(row: str, value: int) -> None:
    assert f"| {row} | {value:,} |" in SPEC


def test_limits_fit_their_fields() -> None:
    assert limits.MAX_TENSORS < 1 << 16
    assert limits.MAX_COORDINATES < 1 << 32
    assert limits.MAX_SEGMENTS < 1 << 32
    assert limits.MAX_NAME_BYTES < 1 << 16


def test_the_largest_layout_fits_as_dense_values() -> None:
    assert limits.MAX_COORDINATES * 4 < limits.MAX_SEGMENTS * (17 << 10)


def test_the_smallest_budget_holds_one_coordinate() -> None:
    head_and_count = 3 + 4  # of a slice that names its coordinates by index
    scale, index, tag, value = 4, 4, 1, 2
    slice_bytes = head_and_count + scale + index + tag + value
    preamble = segment.HEADER_BYTES + slices.COUNT.size
    assert preamble + slice_bytes <= limits.MIN_SEGMENT_BYTES
