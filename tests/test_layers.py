"""The floors hold: imports go down only, and each foreign library comes in by its own door.

    tools → agent | aggregator → transport → codec

Every `import` counts, wherever it stands: at the top, inside a function, under TYPE_CHECKING, or
as a string given to importlib.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Floor → the floors that it may import besides itself.
BELOW = {
    "codec": frozenset[str](),
    "transport": frozenset({"codec"}),
    "agent": frozenset({"transport", "codec"}),
    "aggregator": frozenset({"transport", "codec"}),
    "tools": frozenset({"agent", "aggregator", "transport", "codec"}),
}

# Library → the files (or, with a slash at the end, the folders) that alone may import it.
DOORS = {
    "cryptography": ("transport/trust.py", "tools/"),
    "msgpack": ("transport/frame.py",),
    "paho": ("transport/connection.py",),
    "peft": ("agent/adapter.py",),
    "prometheus_client": ("aggregator/metrics_server.py",),
    "torch": ("agent/", "tools/"),
    "transformers": ("agent/", "tools/"),
}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of every import; relative ones keep their dots."""
    for place in ast.walk(ast.parse(source)):
        match place:
            case ast.Import(names=names):
                yield from ((place.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, level=level):
                yield place.lineno, "." * level + (module or "")
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield place.lineno, name


def breaches(path: str, source: str) -> list[str]:
    """Return what is wrong with the imports of one file, given by its path from the root."""
    floor = path.split("/", maxsplit=1)[0]
    wrong = []
    for line, name in imported(source):
        top = name.split(".")[0]
        if name.startswith("."):
            wrong.append(f"{path}:{line}: relative import {name}")
        elif top in BELOW and top != floor and top not in BELOW[floor]:
            wrong.append(f"{path}:{line}: {floor} imports {top}, which is not below it")
        elif top in DOORS and not path.startswith(DOORS[top]):
            wrong.append(f"{path}:{line}: only {' and '.join(DOORS[top])} may import {top}")
        elif floor == "codec" and top not in {"codec", "numpy", *sys.stdlib_module_names}:
            wrong.append(f"{path}:{line}: codec imports {top}: only numpy and the standard library")
        elif top == "tests":
            wrong.append(f"{path}:{line}: imports tests")
    return wrong


def _sources() -> list[Path]:
    return sorted(file for floor in BELOW for file in (ROOT / floor).rglob("*.py"))


def test_there_is_something_to_check_on_every_floor() -> None:
    assert {file.relative_to(ROOT).parts[0] for file in _sources()} == set(BELOW)


def test_every_import_respects_floors_and_doors() -> None:
    wrong = [
        breach
        for file in _sources()
        for breach in breaches(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize("library", ["msgpack", "paho", "peft"])
def test_a_door_of_one_file_is_a_file_that_uses_it(library: str) -> None:
    """A door left behind after a file was renamed would let nobody in, and say nothing."""
    (door,) = DOORS[library]
    names = [name.split(".")[0] for _, name in imported((ROOT / door).read_text(encoding="utf-8"))]
    assert library in names


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("codec/layout.py", "import transport"),
        ("codec/layout.py", "from transport.frame import encode"),
        ("codec/layout.py", "import zstandard"),
        ("codec/reference/dense.py", "import pydantic"),
        ("transport/link.py", "from agent.config import AgentConfig"),
        ("transport/topics.py", "import tools.cli"),
        ("agent/session.py", "import aggregator.round"),
        ("aggregator/round.py", "from agent import outbox"),
        ("aggregator/round.py", "def f():\n    import torch"),
        ("transport/link.py", "def f():\n    from transformers import AutoModel"),
        ("codec/update.py", "import torch.nn as nn"),
        ("aggregator/round.py", "if TYPE_CHECKING:\n    import torch"),
        ("aggregator/round.py", "import importlib\nimportlib.import_module('torch')"),
        ("aggregator/round.py", "__import__('peft')"),
        ("agent/runtime.py", "import paho.mqtt.client"),
        ("transport/link.py", "import paho.mqtt.client"),
        ("transport/transfer.py", "import msgpack"),
        ("agent/train.py", "from peft import LoraConfig"),
        ("agent/session.py", "from . import outbox"),
        ("agent/session.py", "from .outbox import Outbox"),
        ("agent/session.py", "import tests.conftest"),
        ("codec/layout.py", "import os, transport.topics"),
    ],
)
def test_a_breach_is_found(path: str, source: str) -> None:
    assert len(breaches(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "codec/layout.py",
            "import hashlib\nimport numpy as np\nfrom codec.errors import CodecError",
        ),
        ("transport/frame.py", "import msgpack\nimport zstandard\nfrom codec.limits import X"),
        ("transport/connection.py", "import paho.mqtt.client as mqtt"),
        ("agent/adapter.py", "import peft, torch\nfrom transport.topics import Topics"),
        ("agent/train.py", "def f():\n    import torch"),
        ("aggregator/round.py", "# import torch\nTEXT = 'import torch'"),
        ("tools/demo/run.py", "import agent.runtime, aggregator.runtime, torch"),
    ],
)
def test_an_honest_import_is_no_breach(path: str, source: str) -> None:
    assert breaches(path, source) == []
