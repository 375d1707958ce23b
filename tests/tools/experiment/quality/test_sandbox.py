"""Every program here is run for real, in the sandbox that generated programs are run in."""

from __future__ import annotations

from typing import Any

import pytest

from tools.experiment.quality import sandbox
from tools.experiment.quality.sandbox import NoValue, call

# Gives what an attempt ends with: "done", or the name of what was raised.
ATTEMPT = """
def attempt():
    try:
        {body}
        return "done"
    except BaseException as error:
        return type(error).__name__
"""
DATACLASS = "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
# A program that finds the script's own table of what it refuses, and empties it.
WITHOUT_HOOK = 'import sys\nsys.modules["__main__"]._REFUSED = ("nothing",)\n'


def attempt(body: str, *, before: str = "") -> Any:
    return call(before + ATTEMPT.format(body=body), function="attempt", arguments="()")


@pytest.mark.parametrize(
    ("program", "arguments", "value"),
    [
        ("def f(a, b):\n    return a + b", "(1, 2)", 3),
        ("import math\ndef f(x):\n    print('noise' * 999)\n    return math.sqrt(x)", "(9,)", 3.0),
        ("def f(x):\n    return sorted(set(x))", "('banana',)", ["a", "b", "n"]),
        ("from collections import Counter\ndef f(x):\n    return dict(Counter(x))", "('aa',)",
         {"a": 2}),
        (f"{DATACLASS}def f(x):\n    return A(x).x", "(7,)", 7),
    ],
)  # fmt: skip
def test_a_function_gives_its_value(program: str, arguments: str, value: object) -> None:
    assert call(program, function="f", arguments=arguments) == value


@pytest.mark.parametrize(
    "program",
    [
        "def f():\n    raise ValueError",
        "def f():\n    return object()",
        "def f():\n    raise SystemExit(0)",
        "def g():\n    return 1",
        "def f(:",
        "import numpy\ndef f():\n    return 1",
        "def f():\n    return input()",
        "def f():\n    return [0] * 10**10",
        "def f():\n    return f()",
        "import os\nos._exit(0)",
    ],
)
def test_a_program_that_gives_none_says_so(program: str) -> None:
    with pytest.raises(NoValue):
        call(program, function="f", arguments="()")


@pytest.mark.parametrize(
    "body",
    [
        "open('/etc/hostname').close()",
        "open('/tmp/written-by-a-sandbox', 'w').close()",
        "__import__('os').listdir('/')",
        "__import__('os').system('true')",
        "__import__('os').fork()",
        "__import__('os').kill(1, 0)",
        "__import__('posix').remove('/tmp/x')",
        "__import__('resource').setrlimit(7, (99, 99))",
    ],
)
def test_what_reaches_outside_is_refused(body: str) -> None:
    assert attempt(body) == "_Refused"


def test_no_socket_and_no_process_can_be_had() -> None:
    assert attempt("import socket; socket.socket()") != "done"
    assert attempt("import subprocess; subprocess.run(['true'])") != "done"
    assert attempt("import _socket; _socket.socket()") != "done"


@pytest.mark.parametrize(
    "body",
    [
        "open('/etc/hostname').close()",
        "__import__('posix').open('/dev/null', 0)",
        "__import__('posix').pipe()",
        "__import__('posix').fork()",
        "__import__('_thread').start_new_thread(print, ())",
        "__import__('resource').setrlimit(7, (99, 99))",
        "__import__('posix').setuid(0)",
        "import _socket; _socket.socket()",
    ],
)
def test_the_kernel_refuses_it_also_where_the_program_takes_our_own_refusal_away(body: str) -> None:
    kept = attempt(body, before=WITHOUT_HOOK)
    assert kept in {"OSError", "BlockingIOError", "PermissionError", "RuntimeError", "ValueError",
                    "ImportError", "ModuleNotFoundError"}  # fmt: skip


def test_nothing_of_our_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFSTQ_SECRET", "1")
    program = "import os\ndef f():\n    return sorted(os.environ)"
    assert set(call(program, function="f", arguments="()")) <= {"LC_CTYPE"}


def test_a_program_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_CPU_S", 1)
    with pytest.raises(NoValue, match="ended"):
        call("def f():\n    while True: pass", function="f", arguments="()")


def test_a_program_that_only_waits_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_WALL_S", 1.0)
    with pytest.raises(NoValue, match="did not end"):
        call("import time\ndef f():\n    time.sleep(60)", function="f", arguments="()")


def test_a_flood_of_output_is_no_value_and_is_cut() -> None:
    flood = "import os\ndef f():\n    while True: os.write(1, b'x' * 4096)"
    with pytest.raises(NoValue):
        call(flood, function="f", arguments="()")


@pytest.mark.parametrize("output", [b"", b"[]", b'{"value": 3}', b'{"value": "["}', b"\xff"])
def test_what_is_no_verdict_is_no_value(output: bytes) -> None:
    with pytest.raises(NoValue):
        sandbox._value(output)
