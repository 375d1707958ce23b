from __future__ import annotations

import itertools

import numpy as np
import pytest

from codec.reference.greedy import Steps, divisors

WIDTHS = (2, 4, 8)


def error_of(values: np.ndarray, classes: np.ndarray, widths: tuple[int, ...]) -> float:
    bits = np.array([0, *widths])[classes]
    return float((values.astype(np.float64) ** 2 / 4.0**bits).sum())


def bits_of(classes: np.ndarray, widths: tuple[int, ...]) -> int:
    return int(np.array([0, *widths])[classes].sum())


@pytest.mark.parametrize("widths", [(2, 4, 8), (2, 4, 16)])
def test_steps_are_worth_what_their_bits_make_the_error_fall(widths: tuple[int, ...]) -> None:
    ladder = (0, *widths)
    falls = [(4.0**-a - 4.0**-b) / (b - a) for a, b in itertools.pairwise(ladder)]
    np.testing.assert_allclose(divisors(widths) ** 2, [falls[0] / fall for fall in falls], 1e-6)


def test_no_other_widths_of_so_many_bits_have_less_error() -> None:
    """The minimum that FedFQ's annealing approaches, by trying all of them."""
    random = np.random.default_rng(1)
    for _ in range(20):
        values = np.abs(random.standard_t(2, 5)).astype(np.float32)
        steps = Steps.of(values, widths=WIDTHS)
        for number in range(steps.count + 1):
            chosen = steps.classes(number)
            bits = bits_of(chosen, WIDTHS)
            least = min(
                error_of(values, np.array(other), WIDTHS)
                for other in itertools.product(range(4), repeat=values.size)
                if bits_of(np.array(other), WIDTHS) <= bits
            )
            assert error_of(values, chosen, WIDTHS) <= least * (1 + 1e-6)


@pytest.mark.parametrize("size", [1, 7, 1000, 70_000])
def test_each_number_of_steps_is_taken_and_nests_in_the_next(size: int) -> None:
    values = np.abs(np.random.default_rng(2).standard_normal(size)).astype(np.float32)
    steps = Steps.of(values, widths=WIDTHS)
    before = steps.classes(0)
    assert not before.any()
    for number in sorted({1, size // 3, size, 2 * size, 3 * size}):
        classes = steps.classes(number)
        assert int(classes.sum()) == number
        assert (classes >= before).all()
        before = classes
    assert (before == len(WIDTHS)).all()


def test_zeros_get_no_bits_and_of_equal_ones_the_first_do() -> None:
    steps = Steps.of(np.array([0, 1, 1, 0, 1], np.float32), widths=WIDTHS)
    assert steps.classes(2).tolist() == [0, 1, 1, 0, 0]
    assert steps.classes(4).tolist() == [0, 2, 1, 0, 1]
    assert steps.classes(steps.count).tolist() == [0, 3, 3, 0, 3]


def test_the_sample_tells_about_how_many_have_each_width() -> None:
    values = np.abs(np.random.default_rng(3).standard_normal(200_000)).astype(np.float32)
    steps = Steps.of(values, widths=WIDTHS)
    for number in (0, 20_000, 250_000, 400_000, steps.count):
        classes = steps.classes(number)
        counted = [np.count_nonzero(classes > place) for place in range(3)]
        np.testing.assert_allclose(steps.about(number), counted, rtol=0.05, atol=500)
