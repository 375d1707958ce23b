"""Judges written Python programs: whether they parse, and whether they compute what is asked."""

from __future__ import annotations

import ast
import math
import warnings
from dataclasses import dataclass
from typing import Any

from tools.experiment.quality.sandbox import NoValue, call

# What makes a program's value another one from run to run or from day to day.
_UNSTABLE = frozenset({"calendar", "datetime", "random", "secrets", "time", "uuid"})


@dataclass(frozen=True, slots=True)
class CallTest:
    """What a program's function must give for the arguments that its task names.

    Attributes:
        function: The reference's name for it.
        arguments: A tuple of literals, as Python writes it.
        expected: What the reference gives for them.
    """

    function: str
    arguments: str
    expected: Any


def is_program(text: str) -> bool:
    """Tell whether a text is valid Python that does something: many a sentence is an expression."""
    tree = _parsed(text)
    return tree is not None and any(
        not isinstance(statement, ast.Expr)
        or any(isinstance(place, ast.Call) for place in ast.walk(statement))
        for statement in tree.body
    )


def runnable_prefix(text: str) -> str:
    """Return the longest beginning of whole lines that is valid Python; empty where none is."""
    lines = text.splitlines()
    for count in range(len(lines), 0, -1):
        if _parsed(prefix := "\n".join(lines[:count])) is not None:
            return prefix
    return ""


def derive_test(reference: str, given: str) -> CallTest | None:
    """Return the test that follows from a reference program and its task's input, or None.

    There is one where the reference defines exactly one function, the input is literals, as many
    as the function takes, and the function gives the same literal for them twice. Values that a
    guess gives are no test: None, a truth value, empty ones, and one of the arguments itself.

    Args:
        reference: The program that the data set expects; it is run.
        given: The task's input, such as `[3, 1, 2]` or `base=10, height=5`.
    """
    tree = _parsed(reference)
    arguments = _literals(given)
    if tree is None or arguments is None or _imports(tree) & _UNSTABLE:
        return None
    functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    if len(functions) != 1 or not _takes(functions[0], len(arguments)):
        return None
    name, text = functions[0].name, repr(arguments)
    try:
        first, second = (call(reference, function=name, arguments=text) for _ in range(2))
    except NoValue:
        return None
    guessed = isinstance(first, bool) or not (first or first == 0) or first in arguments
    if guessed or first is None or not same_value(first, second):
        return None
    return CallTest(name, text, first)


def passes(written: str, test: CallTest) -> bool:
    """Tell whether the runnable beginning of a written program gives what the test expects.

    The function of the reference's name is called, else the last one that is defined.
    """
    program = runnable_prefix(written)
    tree = _parsed(program)
    names = [each.name for each in tree.body if isinstance(each, ast.FunctionDef)] if tree else []
    if not names:
        return False
    name = test.function if test.function in names else names[-1]
    try:
        value = call(program, function=name, arguments=test.arguments)
    except NoValue:
        return False
    return same_value(value, test.expected)


def same_value(left: Any, right: Any) -> bool:
    """Tell whether two literals are equal; numbers may differ by a billionth."""
    match left, right:
        case (bool(), _) | (_, bool()):
            return left is right
        case (int() | float(), int() | float()):
            return left == right or math.isclose(left, right, rel_tol=1e-9)
        case (list(), list()) | (tuple(), tuple()):
            return len(left) == len(right) and all(map(same_value, left, right))
        case (dict(), dict()):
            return left.keys() == right.keys() and all(
                same_value(left[key], right[key]) for key in left
            )
        case _:
            return type(left) is type(right) and bool(left == right)


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is still valid
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _literals(given: str) -> tuple[Any, ...] | None:
    """Return the literals of an input as a call's arguments, named ones in their order."""
    tree = _parsed(f"_({given.strip()}\n)") if given.strip() else None
    match tree:
        case ast.Module(
            body=[ast.Expr(value=ast.Call(func=ast.Name("_"), args=args, keywords=named))]
        ):
            try:
                return tuple(map(ast.literal_eval, [*args, *(each.value for each in named)]))
            except (ValueError, TypeError, RecursionError, MemoryError):
                return None
        case _:
            return None


def _imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for place in ast.walk(tree):
        match place:
            case ast.Import(names=aliases):
                names |= {alias.name.partition(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module)):
                names.add(module.partition(".")[0])
    return names


def _takes(function: ast.FunctionDef, count: int) -> bool:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    variadic = arguments.vararg is not None or any(
        default is None for default in arguments.kw_defaults
    )
    return not variadic and required <= count <= positional
