"""What `fedfstq netem` prints, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tools.netem import interface, state
from tools.netem.command import netem
from tools.netem.profile import profile_names
from tools.netem.state import InterfaceState, StateFiles
from transport.exit_codes import ExitCode


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "state_folder", lambda: tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that takes every command, with an interface eth9 on no route."""
    ran: list[str] = []

    class Able(interface.Machine):
        def run(self, todo: Any) -> None:
            ran.extend(" ".join(command) for command in todo)

        def interfaces(self) -> tuple[str, ...]:
            return ("eth9",)

        def default_routes(self) -> frozenset[str]:
            return frozenset()

        def qdiscs(self, _interface: str) -> list[dict[str, Any]]:
            return [{"kind": "mq", "handle": "0:", "root": True, "packets": 3, "drops": 2}]

        def check_able(self) -> None:
            pass

    monkeypatch.setattr(interface, "Machine", Able)
    return ran


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(netem, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_profiles_are_listed() -> None:
    code, text, _ = run("profiles")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == list(profile_names())
    code, text, _ = run("profiles", "--json")
    assert {one["name"] for one in json.loads(text)} == set(profile_names())


def test_a_dry_run_prints_and_touches_nothing(able: list[str], folder: Path) -> None:
    code, text, _ = run("up", "-i", "eth9", "-p", "lossy-20", "--dry-run")
    assert code == 0
    assert "tc qdisc add dev eth9 root handle fed5: netem" in text
    assert able == []
    assert not folder.exists()


def test_up_set_status_and_down_belong_together(able: list[str], folder: Path) -> None:
    code, text, _ = run("up", "-i", "eth9", "-p", "lossy-20", "--no-ifb")
    assert code == 0
    assert text.splitlines()[0] == able[0]
    assert "netem down --interface eth9" in text
    assert run("set", "-i", "eth9", "-p", "gprs")[0] == 0
    code, text, _ = run("status", "--json")
    (found,) = json.loads(text)
    assert (found["interface"], found["profile"], found["pid"]) == ("eth9", "gprs", None)
    _, text, _ = run("status")
    assert text.splitlines() == ["eth9: gprs", "  mq 0: 3 packets, 2 lost"]
    assert run("down", "-i", "eth9")[0] == 0
    assert run("status")[1] == "no interface has a link from `fedfstq netem up`\n"
    assert StateFiles(InterfaceState, folder).names() == ()


@pytest.mark.usefixtures("able")
def test_a_limited_time_ends_by_itself(folder: Path) -> None:
    code, text, _ = run("up", "-i", "eth9", "-p", "flapping", "--for", "0.2")
    assert code == 0
    assert text.splitlines()[-1] == "tc qdisc del dev eth9 root"
    assert StateFiles(InterfaceState, folder).names() == ()


@pytest.mark.usefixtures("able")
def test_a_refusal_is_one_line_on_stderr() -> None:
    code, text, errors = run("up", "-i", "eth8", "-p", "gprs")
    assert (code, text) == (ExitCode.USAGE, "")
    assert errors == "fedfstq: there is no interface eth8: there are eth9\n"
    code, _, errors = run("up", "-i", "eth9", "-p", "nix")
    assert code == ExitCode.CONFIG
    assert errors.startswith("fedfstq: no profile is called 'nix'")
    code, _, errors = run("down", "-i", "eth9")
    assert code == ExitCode.USAGE
    assert errors.count("\n") == 1


def test_an_interface_must_be_named() -> None:
    code, _, errors = run("up", "-p", "gprs")
    assert code == ExitCode.USAGE
    assert "--interface" in errors


def test_a_lab_needs_a_command() -> None:
    code, _, errors = run("lab", "-p", "gprs")
    assert code == ExitCode.USAGE
    assert "Usage: netem lab" in errors
