"""What is typed, what is printed, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tools.init import operations
from tools.init.command import init


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(init, list(arguments))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet in ./fleet, made by the command."""
    monkeypatch.chdir(tmp_path)
    done = _run("fleet", "fleet", "--federation", "clinics", "--broker", "localhost", "--goal", "3")
    assert done.exit_code == 0, done.output
    assert "install.sh broker --bundle broker.tar" in done.output
    return tmp_path / "fleet"


def test_from_nothing_to_a_list_without_naming_the_folder_again(made: Path) -> None:
    assert _run("device", "nano-01", "nano-02", "--data", "/srv/text").exit_code == 0
    assert _run("person", "alice", "--role", "operator").exit_code == 0
    assert _run("revoke", "nano-02").exit_code == 0
    assert _run("renew", "viewer").exit_code == 0
    listed = json.loads(_run("list", "--json").output)
    assert listed["federation"] == "clinics"
    assert listed["broker"] == ["localhost"]
    states = {row["name"]: (row["role"], row["state"]) for row in listed["names"]}
    assert states["nano-01"] == ("device", "ok")
    assert states["nano-02"] == ("device", "revoked")
    assert states["alice"] == ("operator", "ok")
    assert "nano-01" in _run("list").output
    text = (made / "devices" / "nano-01" / "agent-nano-01.yaml").read_text()
    assert "train: /srv/text" in text
    assert "goal: 3" in (made / "aggregator" / "aggregator.yaml").read_text()


def test_inside_the_folder_it_is_found_too(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    assert _run("list").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["device", "a/b"], 2, "is no identifier"),
        (["device", "nano-01", "--set", "devcie=cpu"], 2, "did you mean device"),
        (["revoke", "nobody"], 2, "nobody here is named"),
        (["list", "--fleet", "elsewhere"], 2, "fedfstq init fleet elsewhere"),
        (["fleet", "fleet", "--federation", "other"], 2, "cannot be changed"),
        (["person", "alice", "--role", "king"], 2, "king"),
    ],
)
def test_what_is_refused_is_one_line_that_says_how_to_mend_it(
    made: Path, arguments: list[str], code: int, said: str
) -> None:
    assert made.is_dir()
    done = _run(*arguments)
    assert done.exit_code == code
    assert said in done.output


def test_a_spoilt_folder_ends_with_78_and_a_full_disk_with_75(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made / "ca.key").unlink()
    assert _run("device", "nano-01").exit_code == 78

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "fleet/x")

    monkeypatch.setattr(operations, "add_devices", full)
    done = _run("device", "nano-01")
    assert done.exit_code == 75
    assert "fleet/x: No space left on device" in done.output
