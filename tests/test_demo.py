"""The whole path, with real processes: what `make demo` does, and what it survives."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.fleet_view import FleetView
from transport.broker import BrokerConfig
from transport.control import DeviceState, RoundPhase
from transport.link import Delivery, Link
from transport.topics import Topics

pytestmark = pytest.mark.processes

STEP_TIMEOUT_S = 120.0


def demo_command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tools.cli", "demo", "--out", str(out), "--json", *options]


def play(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        demo_command(out, *options), capture_output=True, text=True, timeout=280, check=False
    )


@contextmanager
def started(out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        demo_command(out, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Observer:
    """Follows a running demo through its broker, as an operator would."""

    def __init__(self, out: Path) -> None:
        self.out = out
        config = yaml.safe_load(self._await_file(out / "config" / "aggregator.yaml"))
        names = Topics(config["federation"])
        self.view = FleetView(names)
        self._link = Link(
            BrokerConfig(**config["broker"]),
            client_id="observer",
            subscriptions=(f"{names.monitoring}/#",),
        )
        self._link.open()
        self._link.wait_connected(STEP_TIMEOUT_S)

    def wait_for(self, what: Callable[[FleetView], bool]) -> None:
        until = time.monotonic() + STEP_TIMEOUT_S
        while not what(self.view):
            event = self._link.events.get(timeout=max(0.1, until - time.monotonic()))
            if isinstance(event, Delivery):
                self.view.receive(event.topic, event.payload)
                self._link.acknowledge(event)

    def pid(self, name: str) -> int:
        pids: dict[str, int] = json.loads(self._await_file(self.out / "logs" / "pids.json"))
        return pids[name]

    def close(self) -> None:
        self._link.close()

    @staticmethod
    def _await_file(path: Path) -> str:
        until = time.monotonic() + STEP_TIMEOUT_S
        while not path.exists():
            assert time.monotonic() < until, f"{path} did not appear"
            time.sleep(0.05)
        return path.read_text(encoding="utf-8")


@contextmanager
def observed(out: Path) -> Iterator[Observer]:
    observer = Observer(out)
    try:
        yield observer
    finally:
        observer.close()


def children(pid: int) -> list[int]:
    # A child is listed under the thread that started it.
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(part) for path in lists for part in path.read_text().split()]


def processes_of(out: Path) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(out) in command:
                found.append(command)
    return found


def training(client_id: str, round_id: int) -> Callable[[FleetView], bool]:
    def what(view: FleetView) -> bool:
        device = view.devices.get(client_id)
        return bool(
            device
            and device.status
            and device.status.state is DeviceState.TRAINING
            and device.status.round_id == round_id
        )

    return what


def round_open(round_id: int) -> Callable[[FleetView], bool]:
    return lambda view: bool(
        view.round and view.round.round_id == round_id and view.round.phase is RoundPhase.OPEN
    )


def check_report(report: dict[str, Any], *, rounds: int, agents: int) -> None:
    assert (report["rounds"], report["agents"]) == (rounds, agents)
    assert report["final_loss"] < report["initial_loss"]
    assert 0 < report["uplink_bytes"] < report["uplink_bytes_fp32"]
    assert report["refused"] == {}
    assert len(report["devices"]) == agents
    assert (Path(report["adapter_path"]) / "adapter_model.safetensors").exists()


def test_a_fleet_learns_and_the_report_says_what_it_cost(tmp_path: Path) -> None:
    done = play(tmp_path / "out", "--agents", "2", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check_report(report, rounds=2, agents=2)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    history = report["history"]
    assert [summary["participants"] for summary in history] == [2, 2]
    assert history[1]["eval_loss"] < history[0]["eval_loss"]
    assert processes_of(tmp_path / "out") == []


def test_the_embedded_broker_and_the_dense_codec_do_as_well(tmp_path: Path) -> None:
    options = ("--agents", "2", "--rounds", "1", "--broker", "embedded", "--codec", "fp32")
    done = play(tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["broker"] == "amqtt (embedded)"
    assert report["final_loss"] < report["initial_loss"]
    # The dense codec sends every coordinate: what is saved is only what zstandard finds.
    assert report["uplink_bytes"] > 0.8 * report["uplink_bytes_fp32"]


def test_killed_agents_trainers_and_aggregators_do_not_end_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(out, "--agents", "3", "--rounds", "4") as demo, observed(out) as observer:
        observer.wait_for(lambda view: len(view.devices) == 3)
        first, second, _ = sorted(observer.view.devices)
        observer.wait_for(training(first, 1))
        os.kill(observer.pid(first), signal.SIGKILL)
        observer.wait_for(round_open(2))
        observer.wait_for(training(second, 2))
        (trainer,) = children(observer.pid(second))
        os.kill(trainer, signal.SIGKILL)
        observer.wait_for(round_open(3))
        observer.wait_for(training(second, 3))
        os.kill(observer.pid("aggregator"), signal.SIGKILL)
        stdout, stderr = demo.communicate(timeout=200)
    assert demo.returncode == 0, stderr
    report = json.loads(stdout)
    check_report(report, rounds=4, agents=3)
    assert [summary["participants"] for summary in report["history"]] == [3, 3, 3, 3]
    assert report["restarts"][first] == 1


def test_ctrl_c_stops_every_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(out, "--agents", "2", "--rounds", "50") as demo, observed(out) as observer:
        observer.wait_for(round_open(1))
        demo.send_signal(signal.SIGINT)
        _, stderr = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Traceback" not in stderr
    assert processes_of(out) == []


def test_when_the_demo_is_killed_nothing_is_left_running(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(out, "--agents", "1", "--rounds", "50") as demo, observed(out) as observer:
        observer.wait_for(round_open(1))
        trainers = children(observer.pid(next(iter(observer.view.devices))))
        demo.kill()
        demo.wait()
        until = time.monotonic() + STEP_TIMEOUT_S
        while processes_of(out) or any(Path(f"/proc/{pid}").exists() for pid in trainers):
            assert time.monotonic() < until, processes_of(out)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--broker", "127.0.0.1:1"), 69, "no broker answers at 127.0.0.1:1"),
        (("--broker", "host:port"), 2, "--broker host:port"),
        (("--codec", "zip"), 2, "--codec zip"),
        (("--model", "/absent/model"), 78, "/absent/model"),
        (("--data", "/absent/data.jsonl"), 78, "/absent/data.jsonl"),
        (("--agents", "64"), 2, "--agents 64"),
        (("--nonsense",), 2, "No such option"),
    ],
)
def test_bad_input_is_one_clear_line_and_the_documented_exit_code(
    tmp_path: Path, options: tuple[str, ...], code: int, expected: str
) -> None:
    done = play(tmp_path / "out", *options)
    assert done.returncode == code
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
