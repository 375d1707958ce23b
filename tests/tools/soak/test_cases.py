"""The registry names cases that exist."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tools.soak.cases import CASES, case_named


def test_each_case_is_there_once_with_a_function() -> None:
    assert len({entry.name for entry in CASES}) == len(CASES)
    for entry in CASES:
        assert find_spec(entry.module) is not None
        assert case_named(entry.name) is entry


@pytest.mark.parametrize("name", ["kill-matrix", "broker-wipe", "announce-kill", "stragglers"])
def test_cases_with_synthetic_trainers_have_both_forms(name: str) -> None:
    entry = case_named(name)
    assert callable(entry.load(quick=False))
    assert callable(entry.load(quick=True))


def test_an_unknown_case_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="no soak case is called 'kill-matrx': there are kill-m"):
        case_named("kill-matrx")
