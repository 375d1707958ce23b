"""What runs a generated program: a script of its own process that gives up its powers first.

It reads a job from its input, confines itself, runs the program, calls one of its functions, and
writes the value's `repr`. It imports nothing of this project, so that it can start isolated.

After `confine` the process can open no file, socket or pipe (the kernel refuses a fourth
descriptor), start no process or thread, write no more than its one line, and is killed past its
time and memory. Where it was root it is nobody, who cannot raise these limits. What needs no
descriptor, such as removing a file, is refused by the interpreter alone: that stops programs that
know no better, which is what a language model writes, and not one that is made to get out.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import resource
import sys
import types
from typing import Any

# What a short program may import: loaded beforehand, since no file can be opened afterwards.
_MODULES = (
    "array", "bisect", "calendar", "cmath", "collections", "collections.abc", "copy", "csv",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq", "itertools",
    "json", "math", "numbers", "operator", "random", "re", "statistics", "string", "textwrap",
    "time", "typing", "unicodedata",
)  # fmt: skip
_REFUSED = ("ctypes.", "open", "os.", "resource.", "shutil.", "socket.", "subprocess.", "syslog.")
_NOBODY = 65_534
_VALUE_CHARS_MAX = 10_000


class _Refused(BaseException):
    """Not an Exception, so that a program's own handlers seldom catch it."""


def confine(cpu_s: int, memory_bytes: int, output_bytes: int) -> None:
    """Give up, for good, all that a program without input and output does not need."""
    for name in _MODULES:
        importlib.import_module(name)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, output_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, 3),
    ):
        resource.setrlimit(limit, (value, value))
    sys.addaudithook(_refuse)


def _refuse(event: str, _arguments: Any) -> None:
    if event.startswith(_REFUSED):
        raise _Refused(event)


class _Sink(io.TextIOBase):
    """Takes what the program prints and keeps none of it."""

    def write(self, text: str, /) -> int:
        return len(text)


def run(program: str, function: str, arguments: str) -> str:
    """Return the `repr` of what a function of the program gives for these literals."""
    module = types.ModuleType("program")
    sys.modules["program"] = module  # where dataclasses look for the types of their fields
    namespace = vars(module)
    exec(compile(program, "program", "exec"), namespace)  # noqa: S102 - what this process is for
    return repr(namespace[function](*ast.literal_eval(arguments)))[:_VALUE_CHARS_MAX]


def main() -> None:
    """Do the one job that stands in the input."""
    job = json.load(sys.stdin)
    # Known beforehand: what the interpreter imports only when it is first needed.
    ast.literal_eval("(1, 'a')")
    json.dumps({"value": "", "error": ""})
    confine(job["cpu_s"], job["memory_bytes"], job["output_bytes"])
    sys.stdout = sys.stderr = _Sink()
    try:
        verdict = {"value": run(job["program"], job["function"], job["arguments"])}
    except BaseException as error:  # noqa: BLE001 - a generated program may raise anything
        verdict = {"error": type(error).__name__}
    os.write(1, json.dumps(verdict).encode())
    os._exit(0)  # what the program left behind (exit handlers, finalizers) is not run


if __name__ == "__main__":
    main()
