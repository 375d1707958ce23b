"""A booted systemd, one for all tests of a file, and what is installed into it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

INSTALL = Path(__file__).parents[2] / "tools" / "install.sh"


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


@pytest.fixture(scope="session")
def python() -> str:
    """A Python below /usr or /opt that runs what the environment of these tests holds."""
    wanted = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (Path(sys.base_prefix, "bin"), Path("/usr/local/bin"), Path("/usr/bin")):
        candidate = folder / wanted
        if candidate.exists() and not str(candidate.resolve()).startswith(("/root/", "/home/")):
            return str(candidate)
    pytest.skip(f"no {wanted} below /usr or /opt")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """What `install.sh wheels` makes for an aggregator on a machine like this one."""
    folder = tmp_path_factory.mktemp("wheels") / "wheels"
    done = subprocess.run(
        ["bash", INSTALL, "wheels", folder, "--for", "aggregator", "--python", python],
        check=False,
        capture_output=True,
        text=True,
    )
    if "No matching distribution" in done.stderr or "Connection" in done.stderr:
        pytest.skip(f"no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
