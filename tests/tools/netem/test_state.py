"""State files: kept whole, found again, and honest about who is alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.netem.errors import Unavailable
from tools.netem.state import (
    InterfaceState,
    LabState,
    Owner,
    StateFiles,
    state_folder,
    this_process,
)

STATE = InterfaceState(interface="eth0", profile="gprs", ifb="ifb-eth0", owner=None)


def test_a_state_is_found_again_until_it_is_removed(tmp_path: Path) -> None:
    files = StateFiles(InterfaceState, tmp_path / "netem")
    assert files.names() == ()
    assert files.read("eth0") is None
    files.write("eth0", STATE)
    assert files.names() == ("eth0",)
    assert files.read("eth0") == STATE
    files.remove("eth0")
    files.remove("eth0")
    assert files.names() == ()


def test_labs_and_interfaces_do_not_meet(tmp_path: Path) -> None:
    labs = StateFiles(LabState, tmp_path)
    labs.write("fq1", LabState(namespaces=("fq1-hub",), owner=this_process()))
    assert StateFiles(InterfaceState, tmp_path).names() == ()
    assert labs.names() == ("fq1",)


def test_a_damaged_file_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "interface-eth0.json").write_text('{"interface": "eth0"')
    assert StateFiles(InterfaceState, tmp_path).read("eth0") is None


def test_a_process_is_alive_until_it_ends_and_its_number_alone_is_nobody() -> None:
    own = this_process()
    assert own.alive
    assert not Owner(pid=own.pid, started_ticks=own.started_ticks + 1).alive
    child = subprocess.Popen([sys.executable, "-c", ""])
    ended = Owner(pid=child.pid, started_ticks=1)
    child.wait()
    assert not ended.alive


def test_the_folder_is_runs_for_root_and_the_sessions_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert state_folder() == Path("/run/fedfstq-netem")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state_folder() == tmp_path / "fedfstq-netem"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(Unavailable, match="root"):
        state_folder()
