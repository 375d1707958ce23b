"""A fleet from `fedfstq init` and install.sh alone: broker, aggregator and three devices learn."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transport.exit_codes import ExitCode

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DEVICES = ("nano-01", "nano-02", "nano-03")
AGGREGATOR = "fedfstq-aggregator.service"
# An environment that the units can see; it holds torch and what else an agent needs.
TORCH = Path(sysconfig.get_path("purelib"))
CERTIFICATES = "--cafile /root/fleet/ca.crt --cert /root/{0}.crt --key /root/{0}.key"


def agent(device: str) -> str:
    return f"fedfstq-agent@{device}.service"


def _fedfstq(*arguments: object) -> str:
    command = [sys.executable, "-c", "from tools.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _texts(number: int) -> str:
    texts = [f"def device_{number}_{n}():\n    return {n * number}\n" for n in range(40)]
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


class Fleet:
    """One machine that plays all five parts, and the folder from which it was made."""

    def __init__(self, box: Any, folder: Path) -> None:
        self.box = box
        self.folder = folder

    def install(self, command: str) -> str:
        line = f"bash /root/wheels/install.sh {command} --watch-s 2 2>&1"
        said: str = self.box.run(line, limit_s=300).stdout
        return said

    def copy_bundles(self) -> None:
        self.box.copy(self.folder / "bundles", "/root/bundles")

    def said(self, topic: str, *, limit_s: float = 5.0) -> dict[str, Any] | None:
        """Return what is retained under `fl/`, as an operator reads it; None for nothing."""
        login = CERTIFICATES.format("fleet/people/operator")
        line = f"mosquitto_sub -h localhost -p 8883 {login} -C 1 -W {limit_s} -t fl/v1/lab/{topic}"
        text = self.box.run(line, check=False).stdout
        return json.loads(text) if text else None

    def wait_for(
        self, topic: str, condition: Callable[[dict[str, Any]], bool], *, limit_s: float = 400.0
    ) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def holds() -> bool:
            said = self.said(topic)
            found[:] = [said] if said is not None and condition(said) else []
            return bool(found)

        self.box.wait(holds, f"{topic}: {self.said(topic)}", limit_s=limit_s)
        return found[0]

    def round(self) -> int:
        last = self.said("round/last")
        return int(last["round_id"]) if last else 0


@pytest.fixture(scope="module")
def fleet(box: Any, tmp_path_factory: pytest.TempPathFactory, wheels: Path, python: str) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet") / "fleet"
    adapter = tmp_path_factory.mktemp("made") / "adapter"
    base = ROOT / "tools" / "base"
    plan = ("local_steps=2", "batch_size=1", "max_tokens=32", "eval_examples=4")
    run = ("rounds=1000", "deadline_s=90", "answer_timeout_s=20", "over_selection=1.0")
    wishes = [f"--set={change}" for change in (*run, *(f"plan.{key}" for key in plan))]
    _fedfstq("init", "fleet", folder, "--federation=lab", "--broker=localhost", "--goal=3",
             "--signing", *wishes)  # fmt: skip
    small = ("device=cpu", "threads=1", "reconnect_spread_s=1", "trainer_idle_s=60")
    for number, device in enumerate(DEVICES):
        _fedfstq("init", "device", device, "--fleet", folder, "--model=/srv/fedfstq/base",
                 f"--data=/srv/fedfstq/text-{number}.jsonl",
                 *(f"--set={change}" for change in small))  # fmt: skip
        box.write(f"/srv/fedfstq/text-{number}.jsonl", _texts(number))
    _fedfstq("adapter", "--model", base, "--out", adapter, "--rank=2", "--alpha=4")
    box.copy(adapter, "/srv/fedfstq/initial-adapter")
    box.copy(base, "/srv/fedfstq/base")
    box.copy(wheels, "/root/wheels")
    made = Fleet(box, folder)
    made.copy_bundles()
    box.copy(folder / "people", "/root/fleet/people")
    for name in ("ca.crt", "fleet.yaml"):
        box.copy(folder / name, f"/root/fleet/{name}")
    made.install("broker --bundle /root/bundles/broker.tar")
    made.install(f"aggregator --bundle /root/bundles/aggregator.tar --python {python}")
    for device in DEVICES:
        where = f"--torch {TORCH} --python {python}"
        made.install(f"agent --bundle /root/bundles/{device}.tar {where}")
    return made


def test_three_devices_run_rounds_as_services(fleet: Fleet) -> None:
    last = fleet.wait_for(
        "round/last", lambda last: last["participants"] == len(DEVICES), limit_s=600
    )
    assert last["refused"] == {}
    for device in DEVICES:
        assert fleet.box.show(agent(device), "NRestarts") == "0"


def test_an_operator_reaches_every_device(fleet: Fleet) -> None:
    done = fleet.box.run("cd /root && fedfstq command --all ping --json")
    answers = json.loads(done.stdout)
    assert {one["device"]: one["outcome"] for one in answers} == dict.fromkeys(DEVICES, "ok")
    fleet.box.run("cd /root && fedfstq command nano-01 pause --reason 'new fan'")
    status = fleet.wait_for("d/nano-01/status", lambda status: status["state"] == "paused")
    assert status["reason"].startswith("operator: new fan")
    fleet.box.run("cd /root && fedfstq command nano-01 resume")
    fleet.wait_for("d/nano-01/status", lambda status: status["state"] != "paused")


@pytest.mark.parametrize(("file", "own"), [("agent-nano-01", "model"), ("aggregator", "journal")])
def test_doctor_finds_nothing_that_fails(fleet: Fleet, file: str, own: str) -> None:
    line = f"fedfstq doctor /etc/fedfstq/{file}.yaml --take-over --json"
    done = fleet.box.run(line, check=False)
    findings = json.loads(done.stdout)
    assert [one for one in findings if one["state"] == "FAIL"] == []
    assert done.returncode == 0
    proved = {one["check"] for one in findings if one["state"] == "OK"}
    assert {"broker-login", "acl-anonymous", "acl-publish", "acl-own", own} <= proved


@pytest.mark.parametrize("unit", ["mosquitto.service", AGGREGATOR, *map(agent, DEVICES)])
def test_a_fleet_whose_part_is_killed_learns_on(fleet: Fleet, unit: str) -> None:
    before = fleet.round()
    fleet.box.run(f"systemctl kill --kill-who=main --signal=KILL {unit}")
    if unit == "mosquitto.service":
        # The distribution's unit leaves a killed broker dead.
        fleet.box.run("systemctl restart mosquitto")
    fleet.wait_for(
        "round/last",
        lambda last: last["round_id"] > before + 1 and last["participants"] == len(DEVICES),
    )
    if unit != "mosquitto.service":
        assert fleet.box.show(unit, "NRestarts") == "1"


def test_a_foreign_certificate_is_refused_and_seen_on_the_alert_topic(fleet: Fleet) -> None:
    subject = "-subj /CN=nano-01 -days 2"
    fleet.box.run(
        "cd /root && openssl req -x509 -newkey ed25519 -nodes "
        f"-keyout foreign.key -out foreign.crt {subject} 2>&1"
    )
    login = CERTIFICATES.format("foreign")
    line = f"mosquitto_pub -h localhost -p 8883 {login} -t x -m x"
    assert fleet.box.run(line, check=False).returncode != 0
    alert = fleet.wait_for("alert/refused-login", lambda alert: "verify failed" in alert["text"])
    assert alert["severity"] == "warning"
    assert "of another authority, expired or revoked" in alert["text"]


def test_a_revoked_device_is_refused_and_seen_and_the_others_learn_on(fleet: Fleet) -> None:
    unit = agent("nano-03")
    before = fleet.said("alert/refused-login")
    _fedfstq("init", "revoke", "nano-03", "--fleet", fleet.folder)
    fleet.copy_bundles()
    fleet.install("broker --bundle /root/bundles/broker.tar")
    fleet.install("aggregator --bundle /root/bundles/aggregator.tar")
    # One that was let in before tries on: a broker's mistake must not end a whole fleet.
    fleet.box.wait(lambda: "certificate revoked" in fleet.box.journal(unit), f"what {unit} is told")
    fleet.wait_for("alert/refused-login", lambda alert: alert != before)
    fleet.wait_for("d/nano-03/status", lambda status: status["state"] in {"lost", "offline"})
    start = fleet.round()
    last = fleet.wait_for("round/last", lambda last: last["round_id"] > start + 1)
    assert last["participants"] == len(DEVICES) - 1


def test_a_revoked_device_that_starts_anew_ends_with_77(fleet: Fleet) -> None:
    unit = agent("nano-03")
    fleet.box.run(f"systemctl restart --no-block {unit}")
    fleet.box.wait(lambda: fleet.box.show(unit, "ActiveState") == "failed", f"the end of {unit}")
    assert fleet.box.show(unit, "ExecMainStatus") == str(int(ExitCode.REFUSED))


def test_a_renewed_device_takes_part_again(fleet: Fleet, python: str) -> None:
    _fedfstq("init", "renew", "nano-03", "--fleet", fleet.folder)
    fleet.copy_bundles()
    fleet.install("broker --bundle /root/bundles/broker.tar")
    fleet.install("aggregator --bundle /root/bundles/aggregator.tar")
    fleet.install(f"agent --bundle /root/bundles/nano-03.tar --torch {TORCH} --python {python}")
    fleet.wait_for("round/last", lambda last: last["participants"] == len(DEVICES))


def test_no_key_is_in_a_log_or_a_command_line(fleet: Fleet) -> None:
    secrets = [
        line
        for key in fleet.folder.rglob("*.key")
        for line in key.read_text().splitlines()
        if not line.startswith("-----")
    ]
    journal = fleet.box.run("journalctl --no-pager --output=cat").stdout
    lines = fleet.box.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert secrets
    assert not [line for line in secrets if line in journal or line in lines]
