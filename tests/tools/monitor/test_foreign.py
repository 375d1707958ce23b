from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.monitor import foreign


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=600))
def test_any_text_is_one_printable_line_of_bounded_length(value: str) -> None:
    shown = foreign.text(value)
    assert shown.isprintable()
    assert len(shown) <= foreign.TEXT_LENGTH
    assert len(foreign.name(value)) <= foreign.NAME_LENGTH


@pytest.mark.parametrize("value", ["\x1b]0;owned\x07", "a\nb", "\u202egpj.exe"])
def test_nothing_steers_a_terminal(value: str) -> None:
    assert "�" in foreign.text(value)


def test_an_honest_text_stays_as_it_is() -> None:
    assert foreign.text("temperature: 86 °C") == "temperature: 86 °C"


@settings(deadline=None, max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_figures_stay_finite_in_sums(value: float) -> None:
    for told in (foreign.number(value), foreign.positive(value)):
        assert told is not None
        assert math.isfinite(1e6 * told)
    assert foreign.positive(value) >= 0  # type: ignore[operator]  # it is no None


def test_counts_are_what_every_json_reader_takes_exactly() -> None:
    assert foreign.count(-1) == 0
    assert foreign.count(10**400) == 2**53
    assert json.loads(json.dumps(foreign.count(41))) == 41
    assert foreign.number(None) is foreign.positive(None) is None
