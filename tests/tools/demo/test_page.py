"""The demo's page in a browser is an extra: it is served where it can be, and stops nothing."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tools.demo import page
from tools.demo.broker import BrokerChoice
from tools.demo.workspace import Workspace

# Nobody listens there: the page says so, and is there all the same.
BROKER = BrokerChoice("none", "127.0.0.1", 9, "5", None)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.logs.mkdir()
    made.config("dashboard").parent.mkdir()
    return made


@pytest.mark.processes
def test_the_page_is_served_for_as_long_as_the_demo_runs(workspace: Workspace) -> None:
    said: Queue[str] = Queue()
    with page.dashboard(workspace, BROKER, tell=said.put):
        line = said.get(timeout=60)
        assert line.startswith("  dashboard: http://127.0.0.1:")
        address = line.split()[-1]
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)


def test_without_its_libraries_the_demo_says_how_to_get_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda _: None)
    said: list[str] = []
    with page.dashboard(workspace, BROKER, tell=said.append):
        assert said == ["to watch it in a browser: pip install 'fedfstq[dashboard]'"]
    assert not workspace.config("dashboard").exists()


@pytest.mark.processes
def test_a_page_that_cannot_be_served_stops_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Any) -> str:
        return "no_such_key: 1\n"

    monkeypatch.setattr(page, "_login", refused)
    said: Queue[str] = Queue()
    with page.dashboard(workspace, BROKER, tell=said.put):
        assert said.get(timeout=60) == f"  no dashboard: see {workspace.logs / 'dashboard.log'}"
    assert "no_such_key" in (workspace.logs / "dashboard.log").read_text()
