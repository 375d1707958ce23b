"""Values change, comments stay, and what cannot be placed is said."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.init.filled import filled

TEXT = """\
# A head.

name: one                # who it is
place:                   # where
  host: a.example        # by name
  tls:
    file: /x

plan:
  first: 1
  # last: 2
tail: 3
"""
PLACES = [("name",), ("place", "host"), ("place", "tls", "file"), ("plan", "first"), ("tail",)]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40),
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(PLACES), SCALARS))
def test_every_scalar_lands_in_its_place_and_all_comments_stay(
    values: dict[tuple[str, ...], Any],
) -> None:
    result = filled(TEXT, values)
    read = yaml.safe_load(result)
    for place in PLACES:
        inner: Any = read
        before: Any = yaml.safe_load(TEXT)
        for key in place:
            inner, before = inner[key], before[key]
        assert inner == values.get(place, before)
    for comment in ("# A head.", "# who it is", "# where", "# by name", "# last: 2"):
        assert comment in result


def test_nothing_to_fill_changes_nothing() -> None:
    assert filled(TEXT, {}) == TEXT


def test_a_comment_keeps_its_column() -> None:
    line = filled(TEXT, {("name",): "somebody"}).splitlines()[2]
    assert line == "name: somebody           # who it is"


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (("place", "port"), 1883, "  port: 1883"),
        (("place", "tls", "more"), "/y", "    more: /y"),
        (("fresh",), True, "fresh: true"),
        (("fresh", "inner"), 1, "fresh: {inner: 1}"),
        (("tail", "inner"), 1, "tail: {inner: 1}"),
        (("plan",), [1, 2], "plan: [1, 2]"),
    ],
)
def test_what_the_file_lacks_is_added_and_a_mapping_may_be_replaced(
    place: tuple[str, ...], value: object, line: str
) -> None:
    result = filled(TEXT, {place: value})
    assert line in result.splitlines()
    inner = yaml.safe_load(result)
    for key in place:
        inner = inner[key]
    assert inner == value


def test_an_empty_file_takes_values() -> None:
    assert filled("", {("a",): 1}) == "a: 1\n"


def test_a_file_that_is_laid_out_otherwise_is_refused() -> None:
    """In flow style a key has no line of its own, and its neighbours would be lost."""
    with pytest.raises(ValueError, match="no room for a/b"):
        filled("a: {b: 1, c: 2}\n", {("a", "b"): 2})
