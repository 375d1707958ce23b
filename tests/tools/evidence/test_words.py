from __future__ import annotations

import math
from typing import Any

import pytest

from tools.evidence.contest import Against
from tools.evidence.statistics import ratio
from tools.evidence.words import (
    factor,
    megabytes,
    p_text,
    seconds,
    setting_text,
    span,
    three,
    times,
    value_text,
)

NONE = Against(None, at_least=False, t_p=None, wilcoxon_p=None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.23456, "1.23"), (12.3456, "12.3"), (123.456, "123"), (12345.6, "12,346"),
     (0.0123456, "0.0123"), (-2.5, "-2.50"), (math.inf, "inf")],
)  # fmt: skip
def test_numbers_have_three_figures(value: float, text: str) -> None:
    assert three(value) == text


def test_figures_have_their_units() -> None:
    assert megabytes(1.5e6) == "1.50"
    assert [seconds(value) for value in (1.5, 119, 150, 9000)] == [
        "1.50 s", "119 s", "2.50 min", "2.50 h",
    ]  # fmt: skip
    assert [p_text(p) for p in (0.0001, 0.0123)] == ["< 0.001", "0.012"]
    assert times(2.0) == "2.00×"  # noqa: RUF001  # the sign that is meant


def test_a_bound_is_marked() -> None:
    found = Against(ratio([4.0, 4.0], [2.0, 1.0]), at_least=True, t_p=None, wilcoxon_p=None)
    assert times(factor(found) or 0) == "≥ 2.83×"  # noqa: RUF001  # the sign that is meant
    assert span(found) is not None
    assert (factor(NONE), span(NONE)) == (None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (True, "yes"), (False, "no"), (0.1, "0.1"), (math.inf, "IID"),
     ("inf", "IID"), ("x", "x"), (3, "3"), ([2, 4], "2 to 4"), ({"b_c": 1}, "b c 1"),
     ({1}, None)],
)  # fmt: skip
def test_values_of_settings_can_be_read(value: Any, text: str | None) -> None:
    if text is None:
        with pytest.raises(TypeError):
            value_text(value)
    else:
        assert value_text(value) == text


def test_a_heading_names_the_workload_and_what_is_asked_for() -> None:
    setting = {"workload": "med", "clients": 30}
    assert setting_text(setting, ["workload", "clients"]) == "med, clients 30"
