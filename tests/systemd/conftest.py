"""`box`: a booted systemd, one for all tests of a file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _load_box() -> Any:
    # Test folders are no packages: what they share is loaded by its path.
    name = "fedfstq_tests_box"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("box.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    """A `Box` of tests/systemd/box.py: a container with systemd, thrown away after the file."""
    boxes = _load_box()
    reason = boxes.impossible()
    if reason is not None:
        pytest.skip(f"no systemd can be booted here: {reason}")
    with boxes.boot() as booted:
        yield booted
