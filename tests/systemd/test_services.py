"""The services under a real systemd: watched, killed, misconfigured, and the trainer on demand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from transport.exit_codes import ExitCode

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
AGENT, TRAINER = "fedfstq-agent@nano", "fedfstq-trainer@nano"
AGGREGATOR, BROKER = "fedfstq-aggregator", "broker"
STATE = "/var/lib/fedfstq"
# Shorter than on a device, so that a test ends soon; everything else is as it is installed.
SOON = {"fedfstq-agent@": "RestartSec=1", AGGREGATOR: "RestartSec=1", "fedfstq-trainer@": ""}


class Fleet:
    """One broker, one aggregator and one device, whose name is nano."""

    def __init__(self, box: Any, adapter: Path) -> None:
        self.box = box
        box.run("groupadd --system --force render; useradd --system fedfstq")
        box.run(f"mkdir -p /opt/fedfstq && ln -s {sys.prefix} /opt/fedfstq/venv")
        for path in UNITS.iterdir():
            box.copy(path, f"/etc/systemd/system/{path.name}")
        for name, lines in SOON.items():
            self.drop_in(name, "test", f"{lines}\n{_interpreter()}")
        box.copy(adapter, "/srv/adapter")
        box.run("chmod -R a+rX /srv/adapter")
        texts = [f"def function_{n}():\n    return {n}\n" for n in range(30)]
        box.write("/srv/text.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        box.write("/srv/broker.conf", "listener 1883 127.0.0.1\nallow_anonymous true\n")
        box.write(
            "/etc/systemd/system/broker.service",
            "[Service]\nExecStart=mosquitto -c /srv/broker.conf\n",
        )
        self.configure()
        box.run("systemctl daemon-reload")

    def configure(self, **changes: Any) -> None:
        """Write both configurations, as JSON, which is YAML."""
        common = {"federation": "fed", "broker": {"host": "127.0.0.1"}}
        agent = {
            "client_id": "nano",
            "state_dir": f"{STATE}/nano",
            "model": str(ROOT / "tools" / "base"),
            "data": {"train": "/srv/text.jsonl"},
            "trainer": "service",
            "trainer_idle_s": 3,
            "device": "cpu",
            "threads": 1,
            "reconnect_spread_s": 0,
        }
        aggregator = {
            "client_id": "coord",
            "state_dir": f"{STATE}/aggregator",
            "initial_adapter": "/srv/adapter",
            "rounds": 1,
            "goal": 1,
            "quorum": 1,
            "deadline_s": 300,
            "plan": {"local_steps": 2, "batch_size": 1, "max_tokens": 32},
        }
        self.box.write("/etc/fedfstq/agent-nano.yaml", json.dumps(common | agent | changes))
        self.box.write("/etc/fedfstq/aggregator.yaml", json.dumps(common | aggregator))

    def drop_in(self, unit: str, name: str, lines: str) -> None:
        self.box.write(f"/etc/systemd/system/{unit}.service.d/{name}.conf", f"[Service]\n{lines}\n")

    def run(self, *words: str) -> None:
        self.box.run(f"systemctl {' '.join(words)}")

    def show(self, unit: str, name: str) -> str:
        value: str = self.box.show(f"{unit}.service", name)
        return value

    def wait(self, unit: str, name: str, *, begins: str, limit_s: float = 90.0) -> None:
        """Wait until a property begins with these words."""
        self.box.wait(
            lambda: self.show(unit, name).startswith(begins),
            f"{unit}: {name}={begins}",
            limit_s=limit_s,
        )

    def wipe(self) -> None:
        """Stop everything, and remove what it left and what a test has added."""
        for unit in (AGENT, TRAINER, AGGREGATOR):  # shown where the test has failed
            sys.stdout.write(self.box.journal(unit)[-4000:])
        self.box.run("journalctl --rotate --vacuum-time=1s", check=False)
        services = f"'{AGENT}' '{AGGREGATOR}' '{BROKER}' '{TRAINER}.socket' '{TRAINER}'"
        self.box.run(f"systemctl stop {services}", check=False)
        self.box.run(f"systemctl kill --kill-who=main --signal=KILL {AGGREGATOR}", check=False)
        self.box.run("systemctl reset-failed")
        added = "/etc/systemd/system/*.service.d/only-now.conf"
        self.box.run(f"rm -rf {STATE}/* {added}; systemctl daemon-reload")
        self.configure()


def _interpreter() -> str:
    """Let services see a Python that is installed in somebody's home."""
    homes = [
        path
        for path in {sys.base_prefix, sys.prefix, str(ROOT)}
        if path.startswith(("/root", "/home"))
    ]
    return f"ProtectHome=tmpfs\nBindReadOnlyPaths={' '.join(homes)}" if homes else ""


@pytest.fixture(scope="module")
def installed(box: Any, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    from agent.adapter import make_initial_adapter  # noqa: PLC0415 - torch

    out = tmp_path_factory.mktemp("made") / "adapter"
    model = str(ROOT / "tools" / "base")
    make_initial_adapter(model, out, rank=2, alpha=4, target_modules="all-linear", seed=0)
    return Fleet(box, out)


@pytest.fixture
def fleet(installed: Fleet) -> Iterator[Fleet]:
    yield installed
    installed.wipe()


@pytest.mark.parametrize("unit", [AGENT, AGGREGATOR])
def test_a_broker_that_is_down_holds_no_service_back(fleet: Fleet, unit: str) -> None:
    fleet.configure(broker={"host": "127.0.0.1", "connect_timeout_s": 0.5})
    fleet.run("start", unit)  # which returns when it has said that it is ready
    assert fleet.show(unit, "SubState") == "running"
    fleet.wait(unit, "StatusText", begins="no broker for 5 s")
    fleet.run("start", BROKER)
    words = {AGENT: "idle", AGGREGATOR: "round 1 of 1"}[unit]
    fleet.wait(unit, "StatusText", begins=words)
    assert fleet.show(unit, "NRestarts") == "0"


@pytest.mark.parametrize(
    ("unit", "point"), [(AGENT, "link-turn:20"), (AGGREGATOR, "link-callback:1")]
)
def test_a_hung_mqtt_thread_is_found_and_its_service_started_again(
    fleet: Fleet, unit: str, point: str
) -> None:
    state = {AGENT: f"{STATE}/nano", AGGREGATOR: f"{STATE}/aggregator"}[unit]
    template = unit.replace("nano", "")
    fault = f"Environment=FEDFSTQ_HANG_AT={point} FEDFSTQ_FAULT_ONCE={state}/hung"
    fleet.drop_in(template, "only-now", f"WatchdogSec=4\n{fault}")
    fleet.run("daemon-reload")
    fleet.run("start", BROKER, AGENT, AGGREGATOR)
    fleet.box.wait(lambda: fleet.show(unit, "NRestarts") == "1", "a restart", limit_s=90)
    journal = fleet.box.journal(unit)
    assert "the link's thread hangs" in journal
    assert "Watchdog timeout" in journal
    assert "crash_points.py" in journal  # where the thread hung
    fleet.wait(unit, "SubState", begins="running")
    fleet.box.wait(lambda: not fleet.show(unit, "StatusText").startswith("no broker"), "the link")
    assert fleet.show(unit, "NRestarts") == "1"


@pytest.mark.parametrize("unit", [AGENT, AGGREGATOR])
def test_a_killed_service_comes_back(fleet: Fleet, unit: str) -> None:
    fleet.run("start", BROKER, unit)
    first = fleet.show(unit, "MainPID")
    fleet.run("kill", "--kill-who=main", "--signal=KILL", unit)
    fleet.box.wait(lambda: fleet.show(unit, "NRestarts") == "1", "a restart")
    fleet.wait(unit, "SubState", begins="running")
    assert fleet.show(unit, "MainPID") not in {first, "0"}


@pytest.mark.parametrize("broken", ["a key that is unknown", "a private key that is not there"])
def test_a_broken_configuration_ends_the_agent_for_good(fleet: Fleet, broken: str) -> None:
    files = {name: f"/etc/fedfstq/certs/{name}" for name in ("ca.crt", "nano.crt", "nano.key")}
    tls = {"ca_file": files["ca.crt"], "cert_file": files["nano.crt"]}
    match broken:
        case "a key that is unknown":
            fleet.configure(federatoin="fed")
        case _:
            for name in ("ca.crt", "nano.crt"):
                fleet.box.write(files[name], "not read before the key is found")
            tls |= {"key_file": files["nano.key"]}
            fleet.configure(broker={"host": "127.0.0.1", "tls": tls})
    fleet.box.run(f"systemctl start --no-block {AGENT}")
    fleet.wait(AGENT, "ActiveState", begins="failed")
    assert fleet.show(AGENT, "ExecMainStatus") == str(int(ExitCode.CONFIG))
    assert fleet.show(AGENT, "NRestarts") == "0"
    assert "Traceback" not in fleet.box.journal(AGENT)


def test_a_key_that_only_root_may_read_reaches_the_agent(fleet: Fleet) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nno key\n-----END PRIVATE KEY-----\n"
    fleet.box.write("/etc/fedfstq/certs/nano.key", key, mode=0o600)
    for name in ("ca.crt", "nano.crt"):
        fleet.box.write(f"/etc/fedfstq/certs/{name}", "no certificate")
    certs = "/etc/fedfstq/certs"
    tls = {"ca_file": f"{certs}/ca.crt", "cert_file": f"{certs}/nano.crt"}
    tls |= {"key_file": f"{certs}/nano.key"}
    fleet.configure(broker={"host": "127.0.0.1", "tls": tls})
    fleet.box.run(f"systemctl start --no-block {AGENT}")
    fleet.wait(AGENT, "ActiveState", begins="failed")
    # The key was read; what comes after it is at fault.
    assert "ca_file /etc/fedfstq/certs/ca.crt holds no PEM" in fleet.box.journal(AGENT)


def test_a_trainer_starts_for_its_task_and_leaves_when_there_is_none(fleet: Fleet) -> None:
    fleet.run("start", BROKER, AGENT)
    fleet.wait(TRAINER, "StatusText", begins="ended")  # it was asked for its hello
    fleet.run("restart", AGENT)
    fleet.wait(AGENT, "StatusText", begins="idle")
    assert fleet.show(TRAINER, "ActiveState") == "inactive"  # which is remembered
    fleet.run("start", AGGREGATOR)
    fleet.wait(TRAINER, "ActiveState", begins="activ")
    fleet.wait(AGGREGATOR, "StatusText", begins="finished with adapter version 1", limit_s=240)
    fleet.wait(TRAINER, "ActiveState", begins="inactive")
    assert fleet.show(TRAINER, "Result") == "success"
    assert fleet.show(AGENT, "NRestarts") == "0"


def test_a_trainer_that_cannot_work_is_no_loop_and_its_reason_is_told(fleet: Fleet) -> None:
    fleet.configure(data={"train": "/srv/no-such-text.jsonl"})
    fleet.run("start", BROKER, AGENT)
    fleet.wait(AGENT, "StatusText", begins="idle: /srv/no-such-text.jsonl")
    fleet.wait(TRAINER, "ActiveState", begins="failed")
    assert fleet.show(TRAINER, "ExecMainStatus") == str(int(ExitCode.CONFIG))
    assert fleet.box.journal(TRAINER).count("no-such-text.jsonl") == 1
    assert fleet.show(AGENT, "SubState") == "running"


def test_a_trainer_killed_for_memory_stops_no_upload(fleet: Fleet) -> None:
    fleet.drop_in(AGGREGATOR, "only-now", "WatchdogSec=0")
    fleet.run("daemon-reload")
    fleet.run("start", BROKER, AGENT, AGGREGATOR)
    agent = fleet.show(AGENT, "MainPID")
    fleet.wait(AGENT, "StatusText", begins="training round 1")
    fleet.run("kill", "--kill-who=main", "--signal=STOP", AGGREGATOR)  # so that the upload lasts
    fleet.wait(AGENT, "StatusText", begins="uploading round 1", limit_s=240)
    fleet.wait(TRAINER, "ActiveState", begins="inactive")
    fleet.drop_in("fedfstq-trainer@", "only-now", "MemoryMax=60M\nMemorySwapMax=0")
    fleet.run("daemon-reload")
    connecting = (
        f"import socket; socket.socket(socket.AF_UNIX).connect('{STATE}/nano/trainer.sock')"
    )
    fleet.box.run(f'/opt/fedfstq/venv/bin/python -c "{connecting}"')
    fleet.wait(TRAINER, "ActiveState", begins="failed")
    assert fleet.show(TRAINER, "ExecMainStatus") == "9"
    assert fleet.show(AGENT, "StatusText").startswith("uploading round 1")
    fleet.run("kill", "--kill-who=main", "--signal=CONT", AGGREGATOR)
    fleet.wait(AGGREGATOR, "StatusText", begins="evaluating adapter version 1", limit_s=120)
    assert (fleet.show(AGENT, "MainPID"), fleet.show(AGENT, "NRestarts")) == (agent, "0")
