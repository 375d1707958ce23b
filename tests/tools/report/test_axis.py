from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.report.axis import axis_of, in_bytes, in_seconds, log_axis_of, plain

NUMBERS = st.floats(-1e15, 1e15, allow_nan=False).map(lambda x: 0.0 if abs(x) < 1e-9 else x)


def test_ticks_are_round_numbers_that_hold_all_values() -> None:
    assert axis_of(0.0, 87.0).ticks == (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
    assert axis_of(1.3, 3.4).ticks == (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    assert axis_of(1.0, 3.0, most=9, whole=True).ticks == (1.0, 2.0, 3.0)


@given(low=NUMBERS, high=NUMBERS, whole=st.booleans())
@settings(deadline=None, max_examples=150)
def test_an_axis_holds_its_values_and_has_few_ticks_that_ascend(
    *, low: float, high: float, whole: bool
) -> None:
    low, high = min(low, high), max(low, high)
    if high > low and high - low < 1e-9 * max(abs(low), abs(high)):
        return  # closer than the ticks' own rounding
    axis = axis_of(low, high, whole=whole)
    room = 1e-9 * max(abs(axis.low), abs(axis.high))
    assert axis.low <= low + room
    assert axis.high >= high - room
    assert 2 <= len(axis.ticks) <= 12
    assert all(before < after for before, after in zip(axis.ticks, axis.ticks[1:], strict=False))
    assert 0 <= axis.share(low) <= axis.share(high) <= 1
    assert all(math.isfinite(tick) for tick in axis.ticks)


@pytest.mark.parametrize(
    ("words", "value", "largest", "expected"),
    [
        (plain, 0.25, 1.5, "0.25"),
        (plain, 1500.0, 2000.0, "1500"),
        (plain, 0.0, 5.0, "0"),
        (plain, 3.0, 1.0, "3"),
        (in_bytes, 1500.0, 4000.0, "1.5 kB"),
        (in_bytes, 5e8, 2e9, "0.5 GB"),
        (in_bytes, 0.0, 2e9, "0"),
        (in_bytes, 5.0, 9.0, "5 B"),
        (in_seconds, 90.0, 120.0, "1.5 min"),
        (in_seconds, 0.5, 0.5, "0.5 s"),
        (in_seconds, 9000.0, 9000.0, "2.5 h"),
    ],
)
def test_ticks_read_in_the_unit_of_the_largest(
    words: object, value: float, largest: float, expected: str
) -> None:
    assert callable(words)
    assert words(value, largest) == expected


def test_a_logarithmic_axis_has_few_round_ticks_and_equal_steps_for_equal_factors() -> None:
    axis = log_axis_of(1e3, 1e6)
    assert axis.ticks == pytest.approx((1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6))
    assert axis.share(31622.7766) == pytest.approx(0.5)
    assert (axis.share(0.0), axis.share(1e9)) == (0.0, 1.0)
    assert log_axis_of(10.0, 99.0).ticks == pytest.approx((10, 20, 50))
    assert log_axis_of(7.0, 7.0).ticks == pytest.approx((5.0, 10.0))
    assert log_axis_of(5.5, 9.0).ticks == (5.5, 9.0)


@given(low=st.floats(1e-6, 1e12), span=st.floats(1, 1e12))
@settings(deadline=None, max_examples=100)
def test_ticks_of_a_logarithmic_axis_ascend_and_lie_on_it(low: float, span: float) -> None:
    axis = log_axis_of(low, low * span)
    assert 1 <= len(axis.ticks) <= 9
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert all(0 <= axis.share(tick) <= 1 for tick in axis.ticks)
