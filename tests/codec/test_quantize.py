from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.quantize import MAX_PEAK, dequantize, quantize, scale_for, to_half, top_level

WIDTHS = (2, 4)
FLOATS = st.lists(
    st.floats(-(2.0**126), 2.0**126, width=32).filter(lambda v: v == 0 or abs(v) > 2.0**-90),
    min_size=1,
    max_size=30,
).filter(any)


def plain_level(value: np.float32, scale: np.float32, width: int) -> int:
    """Divide, round half to even, clip: one number at a time, written from the formula."""
    top = 2 ** (width - 1) - 1
    steps = float(np.divide(value, scale, dtype=np.float32))
    level: int = max(-top, min(top, round(steps)))
    return level


def peak_of(values: np.ndarray) -> np.float32:
    peak: np.float32 = np.abs(values).max()
    return peak


@pytest.mark.parametrize(("width", "top"), [(2, 1), (4, 7), (8, 127)])
def test_top_level_leaves_one_level_unused(width: int, top: int) -> None:
    assert top_level(width) == top


@settings(deadline=None, max_examples=150)
@given(FLOATS, st.sampled_from(WIDTHS))
def test_quantize_agrees_with_a_plain_scalar_implementation(
    numbers: list[float], width: int
) -> None:
    values = np.array(numbers, dtype=np.float32)
    scale = scale_for(peak_of(values), width=width)
    levels = quantize(values, scale, width=width)
    assert [plain_level(value, scale, width) for value in values] == levels.tolist()
    expected = [float(np.float32(level) * scale) for level in levels.tolist()]
    assert dequantize(levels, scale).tolist() == expected


@settings(deadline=None, max_examples=100)
@given(FLOATS, st.sampled_from(WIDTHS))
def test_the_error_is_at_most_half_a_step(numbers: list[float], width: int) -> None:
    values = np.array(numbers, dtype=np.float32)
    scale = scale_for(peak_of(values), width=width)
    back = dequantize(quantize(values, scale, width=width), scale)
    assert (np.abs(back.astype(np.float64) - values) <= 0.5000001 * float(scale)).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("step", [2.0**-10, 1.0, 2.0**20])
def test_values_on_the_grid_stay_as_they_are(width: int, step: float) -> None:
    top = top_level(width)
    grid = (np.arange(-top, top + 1) * step).astype(np.float32)
    scale = scale_for(peak_of(grid), width=width)
    np.testing.assert_array_equal(grid, dequantize(quantize(grid, scale, width=width), scale))


@pytest.mark.parametrize("width", WIDTHS)
def test_equal_values_stay_as_they_are(width: int) -> None:
    values = np.full(5, -0.375, dtype=np.float32)
    scale = scale_for(np.float32(0.375), width=width)
    np.testing.assert_allclose(
        dequantize(quantize(values, scale, width=width), scale), values, rtol=1e-6
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_levels_are_clipped(width: int) -> None:
    values = np.array([1e38, -1e38], dtype=np.float32)
    levels = quantize(values, np.float32(1e-3), width=width)
    assert levels.tolist() == [top_level(width), -top_level(width)]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_largest_float_gives_finite_values(width: int) -> None:
    values = np.array([np.finfo(np.float32).max], dtype=np.float32)
    scale = scale_for(values[0], width=width)
    back = dequantize(quantize(values, scale, width=width), scale)
    assert back[0] == pytest.approx(float(MAX_PEAK), rel=1e-6)


def test_halves_are_the_nearest_and_clipped() -> None:
    values = np.array([1 / 3, -1e6, 65504, 70000, 1e-9], dtype=np.float32)
    halves = to_half(values)
    assert halves.dtype == np.dtype("<f2")
    assert halves.tolist() == [float(np.float16(1 / 3)), -65504, 65504, 65504, 0]


@settings(deadline=None, max_examples=100)
@given(FLOATS, st.sampled_from(WIDTHS), st.integers(-20, 20))
def test_sign_and_powers_of_two_go_through(numbers: list[float], width: int, power: int) -> None:
    values = np.array(numbers, dtype=np.float32)
    factor = np.float32(math.ldexp(1, power))
    if float(peak_of(values)) * float(factor) >= float(MAX_PEAK):
        factor = 1 / factor
    scale = scale_for(peak_of(values), width=width)
    scaled = scale_for(peak_of(values) * factor, width=width)
    levels = quantize(values, scale, width=width)
    np.testing.assert_array_equal(-levels, quantize(-values, scale, width=width))
    np.testing.assert_array_equal(levels, quantize(values * factor, scaled, width=width))
