from __future__ import annotations

from typing import Any

import pytest

from tools.experiment.quality.programs import (
    CallTest,
    derive_test,
    is_program,
    passes,
    runnable_prefix,
    same_value,
)

ADD = "def add(a, b):\n    return a + b"
TEST = CallTest("add", "(2, 5)", 7)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (ADD, True),
        ("print('x')", True),
        ("x = '\\d'", True),
        ("hello", False),
        ("This is prose, not code", False),
        ("'a text'\n3", False),
        ("", False),
        ("def f(:", False),
        ("a\0b", False),
        ("(" * 500, False),
    ],
)
def test_a_program_is_valid_and_does_something(text: str, valid: bool) -> None:  # noqa: FBT001
    assert is_program(text) is valid


def test_the_runnable_beginning_ends_before_what_was_cut_off() -> None:
    assert runnable_prefix(f"{ADD}\n\nprint(add(1,") == f"{ADD}\n"
    assert runnable_prefix(ADD) == ADD
    assert runnable_prefix("This text is no code at all") == ""


@pytest.mark.parametrize(
    ("reference", "given", "arguments", "expected"),
    [
        (ADD, "2, 5", "(2, 5)", 7),
        (ADD, "base = 2, height = 5", "(2, 5)", 7),
        ("def f(items):\n    return sorted(items)\n\nprint(f([1]))", "[3, 1, 2]", "([3, 1, 2],)",
         [1, 2, 3]),
        ("def f(text, n=2):\n    return text * n", "'ab'", "('ab',)", "abab"),
        ("def f(n):\n    return n - n", "7", "(7,)", 0),
    ],
)  # fmt: skip
def test_a_reference_and_its_input_make_a_test(
    reference: str, given: str, arguments: str, expected: object
) -> None:
    test = derive_test(reference, given)
    assert test is not None
    assert (test.arguments, test.expected) == (arguments, expected)
    assert passes(reference, test)


@pytest.mark.parametrize(
    ("reference", "given"),
    [
        (ADD, ""),
        (ADD, "two and five"),
        (ADD, "x, y"),
        (ADD, "2"),
        (ADD, "2, 5); print(1"),
        ("print(1)", "2"),
        ("def f(:", "2"),
        (f"{ADD}\n{ADD}", "2, 5"),
        ("def f(x):\n    print(x)", "2"),
        ("def f(x):\n    return x > 1", "2"),
        ("def f(x):\n    return x", "2"),
        ("def f(x):\n    return []", "2"),
        ("def f(x):\n    return open(x)", "'file.txt'"),
        ("def f(*x):\n    return sum(x)", "2, 3"),
        ("def f(x, *, y):\n    return x + y", "2"),
        ("import random\ndef f(x):\n    return random.random()", "2"),
        ("from datetime import date\ndef f(x):\n    return date.today().year", "2"),
        ("def f(x):\n    return hash(str(x))", "2"),
    ],
)
def test_where_nothing_follows_there_is_no_test(reference: str, given: str) -> None:
    assert derive_test(reference, given) is None


@pytest.mark.parametrize(
    ("written", "passed"),
    [
        (ADD, True),
        ("def total(x, y):\n    return sum((x, y))", True),
        ("def helper():\n    return 1\n\ndef add(a, b):\n    return a + b\n\nadd(", True),
        ("def add(a, b):\n    return float(a + b)", True),
        ("def add(a, b):\n    return a - b", False),
        ("def add(a):\n    return a", False),
        ("add = 3", False),
        ("Add them.", False),
        ("", False),
    ],
)
def test_a_written_program_passes_by_what_it_computes(
    written: str,
    passed: bool,  # noqa: FBT001
) -> None:
    assert passes(written, TEST) is passed


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (0.1 + 0.2, 0.3, True),
        (1, 2, False),
        (True, 1, False),
        (True, True, True),
        ([1, 0.1 + 0.2], [1, 0.3], True),
        ([1], (1,), False),
        ([1], [1, 2], False),
        ({"a": 1.0}, {"a": 1}, True),
        ({"a": 1}, {"b": 1}, False),
        ({1, 2}, {2, 1}, True),
        ("a", "a", True),
        ("1", 1, False),
        (None, None, True),
    ],
)
def test_values_are_the_same_but_for_rounding(
    left: Any,
    right: Any,
    same: bool,  # noqa: FBT001
) -> None:
    assert same_value(left, right) is same
