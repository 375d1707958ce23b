"""`fedfstq doctor` as it is typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agent.config import AgentConfig
from tools.cli import app
from tools.doctor import discover, login, runner
from tools.doctor.context import Context
from tools.doctor.discover import SeveralFound
from tools.doctor.finding import Finding
from tools.doctor.plan import ALL_NAMES, GROUPS

RUNNER = CliRunner()


@pytest.fixture
def file(tmp_path: Path, agent_config: Callable[..., AgentConfig]) -> Path:
    path = tmp_path / "agent-dev-1.yaml"
    values = json.loads(agent_config().model_dump_json(exclude_defaults=True))
    path.write_text(yaml.safe_dump(values))
    return path


def test_every_check_has_a_name_of_its_own() -> None:
    assert len(set(ALL_NAMES)) == len(ALL_NAMES)
    assert all(group.after == "" or group.after in ALL_NAMES for group in GROUPS)


def test_the_page_names_every_check_once_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    assert sorted(re.findall(r"`([a-z-]+)`", " ".join(rows))) == sorted(ALL_NAMES)


def test_lines_for_a_person_end_with_a_summary(file: Path) -> None:
    done = RUNNER.invoke(app, ["doctor", str(file), "--only", "configuration,disk,swap"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("OK    configuration")
    assert "OK    disk" in done.stdout
    assert "python" not in done.stdout
    assert lines[-1].startswith("3 OK")


def test_json_is_one_list_and_nothing_else(file: Path) -> None:
    done = RUNNER.invoke(app, ["doctor", str(file), "--json", "--only", "certificate"])
    rows = json.loads(done.stdout)
    assert [row["check"] for row in rows] == [
        "certificate-valid",
        "certificate-name",
        "certificate-chain",
        "certificate-key",
    ]
    assert set(rows[0]) == {"check", "state", "text", "mend"}
    assert done.exit_code == 0


def test_a_failure_is_exit_code_1(file: Path) -> None:
    done = RUNNER.invoke(app, ["doctor", str(file), "--only", "broker-tcp"])
    assert done.exit_code == 1
    assert "no broker listens there" in done.stdout
    assert done.stdout.splitlines()[0].startswith("FAIL")


def test_offline_asks_no_broker(file: Path) -> None:
    done = RUNNER.invoke(app, ["doctor", str(file), "--offline", "--only", "broker,bbr"])
    assert done.exit_code == 0
    assert "broker" not in done.stdout


def test_a_broken_configuration_fails_and_the_machine_is_examined_nevertheless(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("data: {train: /x}\n")
    done = RUNNER.invoke(app, ["doctor", str(path), "--only", "swap"])
    assert done.exit_code == 1
    assert "FAIL  configuration" in done.stdout
    assert "swap" in done.stdout


def test_a_name_that_is_none_is_a_usage_error(file: Path) -> None:
    done = RUNNER.invoke(app, ["doctor", str(file), "--only", "dsik"])
    assert done.exit_code == 2
    assert "no check is named dsik" in done.stderr


def test_without_a_file_the_machine_is_examined() -> None:
    if Path("/etc/fedfstq").exists():
        pytest.skip("this machine has a configuration")
    done = RUNNER.invoke(app, ["doctor", "--only", "configuration,swap"])
    assert done.exit_code == 0
    assert "none in /etc/fedfstq" in done.stdout


def test_several_configurations_must_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def several(_root: Path) -> Path:
        raise SeveralFound("name one of them: a, b")

    monkeypatch.setattr(discover, "find", several)
    done = RUNNER.invoke(app, ["doctor"])
    assert done.exit_code == 2
    assert "name one of them" in done.stderr


def test_whatever_was_stopped_is_started_again_when_a_person_breaks_off(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def broken_off(_group: object, context: Context) -> Iterator[Finding]:
        context.known.stopped.append("fedfstq-agent@dev-1.service")
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_group", broken_off)
    monkeypatch.setattr(login, "start_again", lambda context: started.append(context.known.stopped))
    done = RUNNER.invoke(app, ["doctor", str(file), "--only", "swap"])
    assert done.exit_code == 130
    assert started == [["fedfstq-agent@dev-1.service"]]
