"""Against figures that others have published."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.evidence.statistics import (
    holm,
    interval,
    least_wilcoxon_p,
    ratio,
    summary,
    t_test,
    wilcoxon,
)

# Student 1908: additional hours of sleep under two drugs, ten patients.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
# Darwin 1876: cross-fertilised over self-fertilised maize, eighths of an inch, fifteen pairs.
MAIZE = [49.0, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
# Hollander and Wolfe 1973, p. 29: depression before and after a tranquilizer, nine patients.
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_the_t_test_is_students_own() -> None:
    assert t_test(SLEEP) == pytest.approx(0.00283, abs=1e-5)
    assert t_test(MAIZE) == pytest.approx(0.0497, abs=1e-4)  # Fisher 1935: t = 2.148


def test_the_interval_of_students_sleep_data_is_the_published_one() -> None:
    found = interval(SLEEP)
    assert found.mean == pytest.approx(1.58)
    assert found.low == pytest.approx(0.7001142, abs=1e-6)
    assert found.high == pytest.approx(2.4598858, abs=1e-6)


def test_signed_ranks_give_the_published_p_values() -> None:
    assert wilcoxon(MAIZE) == pytest.approx(0.04126, abs=1e-5)
    differences = [one - other for one, other in zip(BEFORE, AFTER, strict=True)]
    assert wilcoxon(differences) == pytest.approx(2 * 0.01953, abs=1e-5)


def test_five_pairs_never_pass_five_per_cent_by_signed_ranks() -> None:
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(least_wilcoxon_p(5)) == 0.0625
    assert least_wilcoxon_p(15) < 0.001


def test_holm_corrects_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([None, 0.5, None, 0.6]) == [None, 1.0, None, 1.0]


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(deadline=None, max_examples=60)
def test_holm_keeps_the_order_and_never_makes_a_p_smaller(p_values: list[float]) -> None:
    corrected = holm(p_values)
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert all(after is not None and before <= after <= 1 for before, after in pairs)
    assert [after for _, after in pairs] == sorted(after for _, after in pairs if after is not None)


def test_a_ratio_is_a_geometric_mean_with_an_interval_of_its_factor() -> None:
    found = ratio([10.0, 40.0, 20.0], [1.0, 1.0, 1.0])
    assert found.mean == pytest.approx(20.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(400.0)
    logs = [math.log(value) for value in (10, 40, 20)]
    assert found.t_p == pytest.approx(t_test(logs))


def test_too_few_or_equal_values_are_no_error() -> None:
    assert (t_test([1.0]), wilcoxon([1.0])) == (None, None)
    assert (t_test([0.0, 0.0]), wilcoxon([0.0, 0.0])) == (1.0, 1.0)
    assert t_test([math.log(2)] * 5) == 0.0
    single = ratio([3.0], [1.0])
    assert (single.pairs, single.low, single.t_p) == (1, None, None)
    assert single.mean == pytest.approx(3.0)
    assert (summary([]).mean, summary([1.0]).deviation) == (None, None)
    assert summary([1.0, 3.0]).deviation == pytest.approx(math.sqrt(2))
