"""Runs a generated program's function in a process that can reach nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("sandbox_child.py")
_CPU_S = 2
_WALL_S = 30.0  # also where many others compute: a verdict must not depend on them
_MEMORY_BYTES = 1 << 29
_OUTPUT_BYTES = 1 << 16


class NoValue(Exception):
    """The program gave no value; the line says what it did instead."""


def call(program: str, *, function: str, arguments: str) -> Any:
    """Return what a function of a program gives for some arguments, as a Python literal.

    The program runs in a process with an empty environment that can open no file or socket, start
    no other process, and is ended after 2 seconds of computing, 30 of waiting or 512 MiB.

    Args:
        program: Its source.
        function: Name of one of its functions.
        arguments: A tuple of literals, as Python writes it.

    Raises:
        NoValue: It raised, was ended, or gave what is no literal.
    """
    job = {
        "program": program,
        "function": function,
        "arguments": arguments,
        "cpu_s": _CPU_S,
        "memory_bytes": _MEMORY_BYTES,
        "output_bytes": _OUTPUT_BYTES,
    }
    with tempfile.TemporaryFile() as output:  # a file: the kernel limits its length, a pipe's not
        try:
            subprocess.run(  # noqa: S603 - our own script; its limits are its own first act
                [sys.executable, "-I", "-S", "-B", str(_CHILD)],
                input=json.dumps(job).encode(),
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
                timeout=_WALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NoValue("it did not end") from error
        output.seek(0)
        return _value(output.read())


def _value(output: bytes) -> Any:
    try:
        verdict = json.loads(output)
    except ValueError as error:
        raise NoValue("it was ended, or wrote something else") from error
    if not isinstance(verdict, dict) or not isinstance(verdict.get("value"), str):
        raise NoValue("it raised")
    try:
        return ast.literal_eval(verdict["value"])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise NoValue("its value is no literal") from error
