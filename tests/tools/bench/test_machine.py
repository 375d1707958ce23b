"""The line names what matters, and a system without Linux's files still has one."""

import platform
from pathlib import Path

import numpy as np
import pytest

from tools.bench import machine


def test_the_line_has_date_cores_and_versions() -> None:
    line = machine.describe()
    assert line[:2] == "20"
    assert "-core" in line
    assert platform.python_version() in line
    assert f"numpy {np.__version__}" in line


def test_another_system_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", Path("/nowhere"))
    monkeypatch.setattr(machine, "_MEMINFO", Path("/nowhere"))
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert "(unknown)" in machine.describe()


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert machine.versions(["numpy", "no-such-package"]) == {
        "numpy": np.__version__,
        "no-such-package": "",
    }
