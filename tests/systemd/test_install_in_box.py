"""install.sh on a real systemd without network: broker, aggregator and agent run, and come back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

FEDFSTQ = [sys.executable, "-c", "from tools.cli import main; main()"]
AGENT, AGGREGATOR = "fedfstq-agent@nano-01.service", "fedfstq-aggregator.service"
# An environment that the units can see; it holds torch and what else an agent needs.
TORCH = Path(sysconfig.get_path("purelib"))

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles of a fleet of one device on one machine."""
    folder = tmp_path_factory.mktemp("fleet") / "fleet"
    for arguments in (
        ("fleet", folder, "--federation", "lab", "--broker", "localhost"),
        ("device", "nano-01", "nano-02", "--fleet", folder),
    ):
        subprocess.run([*FEDFSTQ, "init", *arguments], check=True, capture_output=True)
    return folder / "bundles"


def _initial_adapter(folder: Path) -> None:
    folder.mkdir()
    name = "base_model.model.layers.0.q.lora_A.weight"
    tensors = {name: np.zeros((4, 24), np.float32)}
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    facts = {"base_model": "tiny", "base_digest": "ab" * 32}
    (folder / "fedfstq.json").write_text(json.dumps(facts))


def _install(box: Any, command: str, *, wheels: str = "/root/wheels", check: bool = True) -> Any:
    line = f"bash {wheels}/install.sh {command} --watch-s 2 2>&1"
    return box.run(line, check=check, limit_s=300)


def _agent(device: str, python: str) -> str:
    where = f"--torch {TORCH} --python {python}"
    return f"agent --bundle /root/bundles/{device}.tar {where}"


@pytest.fixture(scope="module")
def installed(
    box: Any, wheels: Path, fleet: Path, python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A machine with broker, aggregator and agent, each from its bundle alone."""
    adapter = tmp_path_factory.mktemp("adapter") / "initial-adapter"
    _initial_adapter(adapter)
    box.copy(adapter, "/srv/fedfstq/initial-adapter")
    box.copy(wheels, "/root/wheels")
    box.copy(fleet, "/root/bundles")
    _install(box, "broker --bundle /root/bundles/broker.tar")
    _install(box, _agent("nano-01", python))
    _install(box, "aggregator --bundle /root/bundles/aggregator.tar")
    yield box
    _install(box, "uninstall --purge")
    for left in ("list-units", "list-unit-files"):
        # The second exits with 1 where it finds none.
        found = box.run(f"systemctl {left} --plain --no-legend 'fedfstq-*'", check=False)
        assert found.stdout == ""
    assert box.run("ls -d /opt/fedfstq /etc/fedfstq /var/lib/fedfstq", check=False).stdout == ""
    assert box.run("getent passwd fedfstq", check=False).stdout == ""


def _environment(box: Any) -> str:
    return str(box.run("readlink /opt/fedfstq/venv").stdout.strip())


def _repack(wheels: Path, folder: Path, *, file: str, old: str, new: str) -> Path:
    """The same folder of wheels, with one place of Fed-FSTQ changed."""
    shutil.copytree(wheels, folder)
    (wheel,) = folder.glob("fedfstq-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert old.encode() in files[file]
    files[file] = files[file].replace(old.encode(), new.encode(), 1)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return folder


FUTURE = "from __future__ import annotations\n"


def test_broker_aggregator_and_agent_run_from_their_bundles_alone(installed: Any) -> None:
    box = installed
    for unit in ("mosquitto.service", AGGREGATOR, AGENT):
        assert (box.show(unit, "ActiveState"), box.show(unit, "NRestarts")) == ("active", "0")
        assert box.show(unit, "UnitFileState") == "enabled"
    assert box.show(AGENT, "User") == "fedfstq"
    broker = box.journal("mosquitto.service")
    assert "'nano-01'" in broker
    assert "'coord'" in broker


def test_only_root_can_read_a_key_and_only_the_broker_its_own(installed: Any) -> None:
    box = installed
    for path, rights in {
        "/etc/fedfstq/certs/nano-01.key": "600 root:root",
        "/etc/fedfstq/certs/coord.key": "600 root:root",
        "/etc/fedfstq/agent-nano-01.yaml": "640 root:fedfstq",
        "/etc/mosquitto/certs/broker.key": "400 mosquitto:mosquitto",
        "/etc/mosquitto/acl": "640 root:mosquitto",
        "/var/lib/fedfstq/nano-01": "700 fedfstq:fedfstq",
    }.items():
        assert box.run(f"stat -c '%a %U:%G' {path}").stdout.strip() == rights


def test_a_second_run_changes_nothing_and_restarts_nothing(installed: Any, python: str) -> None:
    box = installed
    before = [box.show(unit, "MainPID") for unit in ("mosquitto", AGGREGATOR, AGENT)]
    for command in (
        "broker --bundle /root/bundles/broker.tar",
        "aggregator --bundle /root/bundles/aggregator.tar",
        _agent("nano-01", python),
    ):
        assert _install(box, command).stdout.splitlines()[-1] == "nothing to change"
    assert [box.show(unit, "MainPID") for unit in ("mosquitto", AGGREGATOR, AGENT)] == before


def test_an_upgrade_that_does_not_hold_goes_back_and_says_why(
    installed: Any, wheels: Path, tmp_path: Path
) -> None:
    box = installed
    before = _environment(box)
    lines = "import sys\nif 'agent' in sys.argv:\n    raise SystemExit('a deliberate mistake')\n"
    broken = _repack(
        wheels, tmp_path / "broken", file="tools/cli.py", old=FUTURE, new=FUTURE + lines
    )
    box.copy(broken, "/root/broken")
    done = _install(box, "upgrade", wheels="/root/broken", check=False)
    assert done.returncode == 1, done.stdout
    last = done.stdout.splitlines()[-1]
    assert f"back in environment {Path(before).name}" in last
    assert AGENT in last
    assert "a deliberate mistake" in last
    assert _environment(box) == before
    assert [box.show(unit, "ActiveState") for unit in (AGGREGATOR, AGENT)] == ["active"] * 2


def test_a_version_that_refuses_the_configuration_is_never_switched_to(
    installed: Any, wheels: Path, tmp_path: Path
) -> None:
    box = installed
    before, process = _environment(box), box.show(AGENT, "MainPID")
    strict = _repack(
        wheels,
        tmp_path / "strict",
        file="agent/config.py",
        old="    dtype: Literal",
        new="    number_type: Literal",
    )
    box.copy(strict, "/root/strict")
    done = _install(box, "upgrade", wheels="/root/strict", check=False)
    assert done.returncode == 1, done.stdout
    assert "of the new one the doctor says: /etc/fedfstq/agent-nano-01.yaml" in done.stdout
    assert "dtype" in done.stdout.splitlines()[-1]
    assert (_environment(box), box.show(AGENT, "MainPID")) == (before, process)


def test_an_upgrade_that_holds_is_what_runs_and_rollback_returns(
    installed: Any, wheels: Path, tmp_path: Path
) -> None:
    box = installed
    before, process = _environment(box), box.show(AGENT, "MainPID")
    newer = FUTURE + "# newer\n"
    box.copy(
        _repack(wheels, tmp_path / "next", file="tools/cli.py", old=FUTURE, new=newer), "/root/next"
    )
    _install(box, "upgrade", wheels="/root/next")
    after = _environment(box)
    assert int(Path(after).name) > int(Path(before).name)
    assert box.show(AGENT, "MainPID") != process
    command = box.run(f"tr '\\0' ' ' </proc/{box.show(AGENT, 'MainPID')}/cmdline").stdout
    assert f"/opt/fedfstq/{after}/bin/python" in command
    _install(box, "rollback")
    assert _environment(box) == before
    assert [box.show(unit, "ActiveState") for unit in (AGGREGATOR, AGENT)] == ["active"] * 2


def test_a_device_whose_configuration_is_wrong_is_named_and_the_others_run_on(
    installed: Any, python: str
) -> None:
    box = installed
    process = box.show(AGENT, "MainPID")
    box.write("/etc/fedfstq/agent-nano-02.yaml", "client_id: nano-02\nno_such_key: 1\n")
    done = _install(box, _agent("nano-02", python), check=False)
    assert done.returncode == 1, done.stdout
    assert "does not run yet" in done.stdout
    assert "exit code 78" in done.stdout
    assert "/etc/fedfstq/agent-nano-02.yaml.new" in done.stdout
    assert box.show(AGENT, "MainPID") == process
    # As it said: mended, it starts.
    box.run("mv /etc/fedfstq/agent-nano-02.yaml.new /etc/fedfstq/agent-nano-02.yaml")
    box.run("chmod 640 /etc/fedfstq/*.yaml && chgrp fedfstq /etc/fedfstq/*.yaml")
    _install(box, _agent("nano-02", python))
    assert box.show("fedfstq-agent@nano-02.service", "ActiveState") == "active"
