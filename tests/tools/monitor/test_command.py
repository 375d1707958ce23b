"""`fedfstq watch` as people use it: real agents, a real broker, and a real terminal (tmux)."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.monitor.document import apply
from tools.soak.fleet import BROKER, Fleet, FleetSpec, NoMosquitto
from tools.soak.synthetic_trainer import Behaviour

pytestmark = [pytest.mark.broker, pytest.mark.processes]

CLI = (sys.executable, "-m", "tools.cli")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Three real agents in a run that does not end; a training takes them a while."""
    spec = FleetSpec(
        agents=3,
        rounds=1_000,
        settings={"goal": 2, "quorum": 2, "min_devices": 2},
        agent_settings={"telemetry_interval_s": 1.0},
        behaviour=Behaviour(train_s=0.5),
    )
    with Fleet(tmp_path / "fleet", spec) as fleet:
        try:
            fleet.start()
        except NoMosquitto as error:
            pytest.skip(str(error))
        yield fleet


def login(fleet: Fleet, name: str) -> Path:
    path = fleet.folder / f"{name}.yaml"
    broker = {"host": "127.0.0.1", "port": fleet.port, "connect_timeout_s": 20.0}
    path.write_text(yaml.safe_dump({"federation": "soak", "login": name, "broker": broker}))
    return path


def run(
    *arguments: str, timeout_s: float = 60.0, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env={**os.environ, **environ},
    )


def once(fleet: Fleet) -> dict[str, Any]:
    done = run("watch", "--config", str(login(fleet, "viewer")), "--once", "--json")
    assert done.returncode == 0, done.stderr
    snapshot: dict[str, Any] = json.loads(done.stdout)
    return snapshot


class Terminal:
    """A command in a tmux of its own."""

    def __init__(self, command: str, *, width: int, height: int) -> None:
        self._socket = f"fedfstq-{uuid.uuid4().hex}"
        size = ("-x", str(width), "-y", str(height))
        self._tmux("-f", os.devnull, "new-session", "-d", *size, command)

    def lines(self) -> list[str]:
        return self._tmux("capture-pane", "-p").stdout.splitlines()

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def close(self) -> None:
        self._tmux("kill-server", check=False)

    def _tmux(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["tmux", "-L", self._socket, *arguments]
        environ = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        return subprocess.run(command, capture_output=True, text=True, check=check, env=environ)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed: apt-get install tmux")
    opened: list[Terminal] = []

    def start(command: str, *, width: int, height: int) -> Terminal:
        one = Terminal(command, width=width, height=height)
        opened.append(one)
        return one

    yield start
    for one in opened:
        one.close()


def wait_for(lines: Callable[[], list[str]], done: Callable[[str], bool], what: str) -> str:
    limit = time.monotonic() + 60.0
    while not done(text := "\n".join(lines())):
        assert time.monotonic() < limit, f"not on the screen: {what}\n{text}"
        time.sleep(0.2)
    return text


def test_a_terminal_shows_who_is_paused_who_is_gone_and_what_was_saved(
    fleet: Fleet, terminal: Callable[..., Terminal]
) -> None:
    watch = shlex.join([*CLI, "watch", "--config", str(login(fleet, "viewer"))])
    small = terminal(f"{watch}; echo ended with $?; sleep 600", width=80, height=24)
    large = terminal(watch, width=160, height=50)
    wait_for(small.lines, lambda text: "instead of" in text, "a closed round")
    operator = str(login(fleet, "operator"))
    paused = run("command", "device-2", "pause", "--reason", "new fan", "--config", operator)
    assert paused.returncode == 0, paused.stderr
    fleet.kill("device-3", stays_dead=True)

    def is_told(text: str) -> bool:
        return "paused: operator: new fan" in text and "lost since" in text

    for screen, width in ((small, 80), (large, 160)):
        text = wait_for(screen.lines, is_told, "the paused and the lost device")
        lines = text.splitlines()
        assert lines[0].startswith("soak  connected  aggregator ")
        assert max(len(line) for line in lines) <= width
        order = [line.split()[0] for line in lines if line.startswith("device-")]
        assert order == ["device-3", "device-2", "device-1"]
        assert "3 devices: 1 lost, 1 paused" in text
        assert "times less" in text
    fleet.kill(BROKER, stays_dead=True)
    wait_for(small.lines, lambda text: text.startswith("soak  NOT CONNECTED"), "the cut")
    small.press("q")
    wait_for(small.lines, lambda text: "ended with 0" in text, "the end")


def test_once_prints_how_it_is_for_people_and_for_programs(fleet: Fleet) -> None:
    limit = time.monotonic() + 60
    while (snapshot := once(fleet))["savings"]["rounds"] < 1:
        assert time.monotonic() < limit
    assert snapshot["devices"].keys() == {"device-1", "device-2", "device-3"}
    assert snapshot["link"]["state"] == "connected"
    assert snapshot["savings"]["times"] > 1
    viewer = str(login(fleet, "viewer"))
    done = run("watch", "--config", viewer, "--once", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "times less" in done.stdout
    assert all(f"device-{number}" in done.stdout for number in (1, 2, 3))
    assert "\x1b" not in done.stdout


def test_json_streams_a_snapshot_and_then_what_changes(fleet: Fleet) -> None:
    command = [*CLI, "watch", "--config", str(login(fleet, "viewer")), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        snapshot = json.loads(child.stdout.readline())
        before = snapshot["round"]["round_id"]
        while snapshot["round"]["round_id"] < before + 2:
            apply(snapshot, json.loads(child.stdout.readline()))
        # Whoever reads has seen enough, as `| head` has.
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(30) == 0
    assert snapshot["devices"]["device-1"]["attention"] == "ok"


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    missing = run("watch", "--config", str(tmp_path / "absent.yaml"))
    assert (missing.returncode, len(missing.stderr.splitlines())) == (78, 1)
    no_fleet = run("watch", "--fleet", str(tmp_path))
    assert no_fleet.returncode == 78
    assert "holds no fleet" in no_fleet.stderr
    nowhere = tmp_path / "nowhere.yaml"
    nowhere.write_text("federation: soak\nbroker: {host: 127.0.0.1, port: 1, connect_timeout_s: 1}")
    done = run("watch", "--config", str(nowhere), "--once")
    assert done.returncode == 69
    assert "no MQTT broker at 127.0.0.1:1" in done.stderr
    done = run("watch", "--config", str(nowhere))
    assert done.returncode == 2
    assert "no terminal" in done.stderr
