"""The unit files are valid, start the commands that exist, and are as closed as they can be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from agent.config import AgentConfig
from tools.cli import app
from transport.connection import _CONNECTING_S
from transport.exit_codes import ExitCode
from transport.pulse import TURN_S

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = ("fedfstq-agent@.service", "fedfstq-aggregator.service", "fedfstq-trainer@.service")
SOCKET = "fedfstq-trainer@.socket"
# What systemd starts again by itself, and watches; the trainer is the agent's to start.
ALWAYS_ON = ("fedfstq-agent@.service", "fedfstq-aggregator.service")
COMMAND = "/opt/fedfstq/venv/bin/fedfstq"
# What each room may become at most; systemd-analyze says 9.6 for a unit without any of this.
MOST_EXPOSED = {
    "fedfstq-agent@.service": 1.5,
    "fedfstq-aggregator.service": 1.3,
    "fedfstq-trainer@.service": 2.0,
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def _settings(unit: str) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in (FOLDER / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a folder of their own; only the command is another, which exists."""
    for unit in UNITS:
        text = (FOLDER / unit).read_text()
        assert text.count(f"ExecStart={COMMAND} ") == 1
        (tmp_path / unit).write_text(text.replace(COMMAND, "/bin/true"))
    shutil.copy(FOLDER / SOCKET, tmp_path)
    return tmp_path


def test_every_unit_of_the_folder_is_tested() -> None:
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted([*UNITS, SOCKET])


@needs_systemd
@pytest.mark.parametrize("unit", [*UNITS, SOCKET])
def test_systemd_finds_nothing_to_complain_about(installed: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed / unit],
        check=False,
        capture_output=True,
        text=True,
    )
    ours = [line for line in done.stderr.splitlines() if "fedfstq" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
def test_systemd_complains_about_a_setting_it_does_not_know(installed: Path) -> None:
    """The test above can fail: verify exits with 0 for many mistakes, but says them."""
    unit = installed / "fedfstq-aggregator.service"
    unit.write_text(unit.read_text().replace("ProtectClock=", "ProtectClocks="))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "fedfstq-aggregator.service" in done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_no_more_exposed_than_agreed(installed: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", installed / unit],
        check=False,
        capture_output=True,
        text=True,
    )
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if level is None:
        pytest.skip(f"this systemd-analyze has no offline security check: {done.stderr.strip()}")
    assert float(level[1]) <= MOST_EXPOSED[unit]


@pytest.mark.parametrize("unit", ALWAYS_ON)
def test_a_service_comes_back_for_ever_unless_only_a_person_can_mend_it(unit: str) -> None:
    settings = _settings(unit)
    assert settings["Restart"] == ["always"]
    assert settings["StartLimitIntervalSec"] == ["0"]
    (codes,) = settings["RestartPreventExitStatus"]
    assert {int(code) for code in codes.split()} == {ExitCode.REFUSED, ExitCode.CONFIG}


@pytest.mark.parametrize("unit", ALWAYS_ON)
def test_a_hung_thread_ends_its_service_within_90_s(unit: str) -> None:
    settings = _settings(unit)
    assert settings["Type"] == ["notify"]
    longest_s = max(TURN_S, _CONNECTING_S)
    assert longest_s + int(settings["WatchdogSec"][0]) <= 90


def test_the_agent_starts_the_trainer_and_systemd_does_not_start_it_again() -> None:
    trainer, agent = _settings("fedfstq-trainer@.service"), _settings("fedfstq-agent@.service")
    socket = _settings(SOCKET)
    assert trainer["Restart"] == ["no"]
    assert (trainer["Type"], trainer["StartLimitIntervalSec"]) == (["notify"], ["0"])
    assert socket["TriggerLimitIntervalSec"] == ["0"]
    assert "fedfstq-trainer@%i.socket" in agent["Wants"][0].split()
    assert "fedfstq-trainer@%i.socket" in agent["After"][0].split()
    assert "[Install]" not in (FOLDER / SOCKET).read_text()
    config = AgentConfig.model_validate(
        {
            "federation": "fed",
            "client_id": "nano",
            "state_dir": f"/var/lib/{agent['StateDirectory'][0]}",
            "data": {"train": "/t"},
        }
    )
    assert socket["ListenStream"] == [str(config.trainer_socket)]
    assert socket["SocketUser"] == trainer["User"]


def test_a_trainer_that_fails_before_it_takes_its_socket_does_not_loop() -> None:
    """A connection that waits starts it again at once, whatever RestartSec says."""
    settings = _settings("fedfstq-trainer@.service")
    (pause,) = settings["ExecStopPost"]
    seconds = re.search(r"sleep (\d+)", pause)
    assert seconds is not None
    assert pause.startswith("+")
    assert 10 <= int(seconds[1]) < int(settings["TimeoutStopSec"][0])


@pytest.mark.parametrize("unit", UNITS)
def test_the_devices_real_job_comes_first(unit: str) -> None:
    settings = _settings(unit)
    assert {"MemoryHigh", "MemoryMax", "TasksMax"} <= settings.keys()
    assert int(settings["CPUWeight"][0]) < 100 > int(settings["IOWeight"][0])
    assert int(settings["Nice"][0]) > 0


@pytest.mark.parametrize(
    ("unit", "name"), [("fedfstq-agent@.service", "%i"), ("fedfstq-aggregator.service", "coord")]
)
def test_a_key_is_a_credential_and_a_missing_one_is_the_services_to_report(
    unit: str, name: str
) -> None:
    settings = _settings(unit)
    assert settings["LoadCredential"] == [f"{name}.key:/etc/fedfstq/certs/{name}.key"]
    (default,) = settings["SetCredential"]
    assert default.startswith(f"{name}.key:")
    assert not default.endswith(":")


def test_the_two_services_do_not_restart_in_step() -> None:
    pauses = [int(_settings(unit)["RestartSec"][0]) for unit in ALWAYS_ON]
    assert all(a % b for a in pauses for b in pauses if a != b)
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_starts_a_command_that_exists(unit: str) -> None:
    (line,) = _settings(unit)["ExecStart"]
    executable, name, option, config = line.split()
    assert executable == COMMAND
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert option in [spelling for parameter in command.params for spelling in parameter.opts]
    assert config.startswith("/etc/fedfstq/")


def test_the_trainer_keeps_what_cuda_and_pytorch_need() -> None:
    """ProtectClock adds a DeviceAllow, which closes every device file that it does not name."""
    settings = _settings("fedfstq-trainer@.service")
    broken = {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"}
    broken |= {"MemoryDenyWriteExecute", "ProcSubset", "LimitAS"}
    assert broken.isdisjoint(settings)
    assert settings["SystemCallFilter"] == ["@system-service"]
    assert settings["SupplementaryGroups"] == ["video render"]


def test_the_trainer_reaches_the_agent_and_nothing_else() -> None:
    trainer, agent = _settings("fedfstq-trainer@.service"), _settings("fedfstq-agent@.service")
    assert trainer["PrivateNetwork"] == ["yes"]
    assert trainer["RestrictAddressFamilies"] == ["AF_UNIX"]
    for shared in ("StateDirectory", "User", "Group"):
        assert trainer[shared] == agent[shared]
    assert trainer["ExecStart"][0].split()[-1] == agent["ExecStart"][0].split()[-1]


def test_neither_of_a_devices_services_stops_the_other() -> None:
    """Uploads go on without a trainer; a finished task waits for its agent."""
    binding = {"Requires", "BindsTo", "PartOf", "Requisite", "Upholds", "Conflicts"}
    for unit in ("fedfstq-agent@.service", "fedfstq-trainer@.service"):
        settings = _settings(unit)
        bound = {name for key in binding & settings.keys() for name in settings[key]}
        assert bound <= {"fedfstq-trainer@%i.socket"}
    # One of them stopping would also remove the other's shared memory: both are the same user.
    assert all("RemoveIPC" not in _settings(unit) for unit in UNITS)


def test_when_memory_runs_short_the_trainer_goes_before_the_agent() -> None:
    def score(unit: str) -> int:
        return int(_settings(unit)["OOMScoreAdjust"][0])

    assert score("fedfstq-trainer@.service") > 0 > score("fedfstq-agent@.service")
