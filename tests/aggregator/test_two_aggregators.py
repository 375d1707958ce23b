"""Two aggregators as processes on a real broker: exactly one goes on, and there is one lineage."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.config import AggregatorConfig
from transport import control, frame
from transport.broker import BrokerConfig
from transport.control import (
    DeviceState,
    DeviceStatus,
    ModelStatus,
    ServiceState,
    ServiceStatus,
    TrainCommand,
    TrainResponse,
)
from transport.errors import LinkLost
from transport.exit_codes import ExitCode
from transport.link import Delivery, Link, LinkUp, Publication
from transport.messages import Segment
from transport.topics import (
    Alert,
    Command,
    CoordStatus,
    DeviceTopic,
    Model,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)

pytestmark = pytest.mark.broker

TOPICS = Topics("lab")
MAIN = (
    "import sys; from aggregator.config import AggregatorConfig; "
    "from aggregator.runtime import run; "
    "sys.exit(run(AggregatorConfig.model_validate_json(sys.stdin.read())))"
)


class Aggregator:
    """One process."""

    def __init__(self, config: AggregatorConfig, log: Path) -> None:
        self.config, self.log = config, log
        self._file = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN], stdin=subprocess.PIPE, stderr=self._file
        )
        assert self.process.stdin is not None
        self.process.stdin.write(config.model_dump_json().encode())
        self.process.stdin.close()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def text(self) -> str:
        return self.log.read_text()

    def end(self) -> None:
        if self.runs:
            self.process.kill()
            self.process.wait(10)
        self._file.close()


class Watcher(threading.Thread):
    """Hears everything that aggregators announce, and is two devices of few words as well."""

    def __init__(self, port: int, update_maker: Callable[..., Any]) -> None:
        super().__init__(daemon=True)
        self.statuses: list[ServiceStatus] = []
        self.models: list[ModelStatus] = []
        self.alerts: dict[str, control.AlertNotice] = {}
        self.trains = threading.Event()
        self._make = update_maker
        self._stopping = threading.Event()
        self._link = Link(
            BrokerConfig(host="127.0.0.1", port=port),
            client_id="watcher",
            subscriptions=["fl/#"],
        )

    def run(self) -> None:
        self._link.open()
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty, LinkLost):
                match self._link.events.get(timeout=0.05):
                    case LinkUp():
                        for client_id in ("a", "b"):
                            status = DeviceStatus(DeviceState.IDLE, "one")
                            self._say(DeviceTopic(client_id, "status"), status, retain=True)
                    case Delivery() as delivery:
                        self._hear(delivery)
                        self._link.acknowledge(delivery)
        self._link.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)

    def digests(self) -> dict[tuple[str, int], set[str]]:
        """(run, version) → the digests that were announced of it."""
        digests: dict[tuple[str, int], set[str]] = {}
        for model in list(self.models):
            digests.setdefault((model.run, model.version), set()).add(model.sha256)
        return digests

    def _hear(self, delivery: Delivery) -> None:
        if not delivery.payload:
            return
        match TOPICS.parse(delivery.topic):
            case CoordStatus():
                self.statuses.append(control.decode(ServiceStatus, delivery.payload))
            case Model():
                self.models.append(control.decode(ModelStatus, delivery.payload))
            case Alert(code):
                self.alerts[code] = control.decode(control.AlertNotice, delivery.payload)
            case Command(client_id, "train", _) if self.trains.is_set():
                self._train(client_id, control.decode(TrainCommand, delivery.payload))

    def _train(self, client_id: str, command: TrainCommand) -> None:
        answer = TrainResponse(command.run, command.round_id, accepted=True)
        self._say(Response(client_id, "train", str(command.round_id)), answer)
        update = self._make(
            client_id=client_id, run=command.run, round_id=command.round_id, segment_bytes=128
        )
        self._say(UpManifest(client_id, update.uid), update.manifest)
        for index, body in enumerate(update.bodies):
            self._say(UpSegment(client_id, update.uid, index), Segment(body))

    def _say(self, address: Any, message: Any, *, retain: bool = False) -> None:
        topic = TOPICS.topic(address)
        encode = frame.encode if topic.startswith("flx/") else control.encode
        self._link.publish(Publication(topic, encode(message), retain=retain))


def poll(condition: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Stage:
    """Makes configurations and processes of one test."""

    def __init__(self, root: Path, initial_adapter: Path, port: int) -> None:
        self.root, self.initial, self.port = root, initial_adapter, port
        self.started: list[Aggregator] = []

    def configure(self, name: str, **changes: Any) -> AggregatorConfig:
        values: dict[str, Any] = {
            "federation": "lab",
            "client_id": name,
            "broker": {"host": "127.0.0.1", "port": self.port, "connect_timeout_s": 10},
            "state_dir": self.root / name,
            "initial_adapter": self.initial,
            "rounds": 3,
            "goal": 2,
            "quorum": 2,
            "deadline_s": 30.0,
            "codec": "fp32",
            "downlink_codec": None,
            "segment_bytes": 128,
            "plan": {"eval_examples": 0},
        }
        return AggregatorConfig.model_validate(values | changes)

    def launch(self, config: AggregatorConfig) -> Aggregator:
        log = self.root / f"{config.client_id}-{len(self.started)}.log"
        aggregator = Aggregator(config, log)
        self.started.append(aggregator)
        return aggregator

    def copy(self, config: AggregatorConfig, name: str, **changes: Any) -> AggregatorConfig:
        shutil.copytree(config.state_dir, self.root / name)
        return self.configure(name, **changes)


@pytest.fixture
def stage(tmp_path: Path, initial_adapter: Path, mosquitto: int) -> Iterator[Stage]:
    made = Stage(tmp_path, initial_adapter, mosquitto)
    yield made
    for aggregator in made.started:
        aggregator.end()


@pytest.fixture
def watcher(mosquitto: int, update_maker: Callable[..., Any]) -> Iterator[Watcher]:
    made = Watcher(mosquitto, update_maker)
    made.start()
    yield made
    made.stop()


def leads(watcher: Watcher, *, after: int = 0) -> ServiceStatus | None:
    """Return the newest word of one that leads."""
    wanted = {ServiceState.WAITING, ServiceState.RUNNING, ServiceState.FINISHED}
    said = [one for one in list(watcher.statuses)[after:] if one.state in wanted]
    return said[-1] if said else None


def finishes(watcher: Watcher) -> None:
    """Let devices train, and see the run end with one digest for each version."""
    watcher.trains.set()
    # Devices are seen anew with their next status.
    for client_id in ("a", "b"):
        status = DeviceStatus(DeviceState.IDLE, "two")
        watcher._say(DeviceTopic(client_id, "status"), status, retain=True)
    poll(lambda: watcher.statuses[-1].state is ServiceState.FINISHED, timeout_s=60)
    digests = watcher.digests()
    newest = max(version for _, version in digests)
    assert newest == 3
    assert all(len(found) == 1 for found in digests.values())


def test_copies_that_start_together_leave_one(stage: Stage, watcher: Watcher) -> None:
    first = stage.configure("one")
    seed = stage.launch(first)
    poll(lambda: leads(watcher))
    seed.send(signal.SIGKILL)
    seed.wait()
    second = stage.copy(first, "two")
    seen = len(watcher.statuses)
    pair = [stage.launch(config) for config in (first, second)]
    poll(lambda: any(not one.runs for one in pair))
    (loser,) = [one for one in pair if not one.runs]
    assert loser.wait() == ExitCode.REFUSED
    assert "aggregator" in loser.text.splitlines()[-1]
    poll(lambda: leads(watcher, after=seen))
    finishes(watcher)
    assert sum(one.runs for one in pair) == 1


def test_another_run_is_not_begun_beside_one_that_is_led(stage: Stage, watcher: Watcher) -> None:
    leader = stage.launch(stage.configure("one"))
    poll(lambda: leads(watcher))
    stranger = stage.launch(stage.configure("two"))
    assert stranger.wait() == ExitCode.REFUSED
    assert "leads another run" in stranger.text.splitlines()[-1]
    poll(lambda: "two-aggregators" in watcher.alerts)
    finishes(watcher)
    assert leader.runs
    # The word of the one that was refused has not taken the leader's place.
    assert {run for run, _ in watcher.digests()} == {watcher.statuses[-1].run}


def test_of_two_runs_that_start_together_one_begins(stage: Stage, watcher: Watcher) -> None:
    pair = [stage.launch(stage.configure(name)) for name in ("one", "two")]
    poll(lambda: any(not one.runs for one in pair))
    (loser,) = [one for one in pair if not one.runs]
    assert loser.wait() == ExitCode.REFUSED
    finishes(watcher)
    assert len({run for run, _ in watcher.digests()}) == 1


def test_a_killed_aggregator_that_is_started_at_once_goes_on(
    stage: Stage, watcher: Watcher
) -> None:
    config = stage.configure("one")
    for _ in range(3):
        seen = len(watcher.statuses)
        process = stage.launch(config)
        poll(lambda seen=seen: leads(watcher, after=seen))
        process.send(signal.SIGKILL)
        process.wait()
    last = stage.launch(config)
    finishes(watcher)
    assert last.runs
    assert watcher.statuses[-1].epoch == 4


def test_an_old_copy_that_lacks_a_version_refuses_to_start(stage: Stage, watcher: Watcher) -> None:
    config = stage.configure("one", exit_when_finished=True)
    process = stage.launch(config)
    poll(lambda: leads(watcher))
    old = stage.copy(config, "old")
    finishes(watcher)
    assert process.wait() == ExitCode.OK
    copy = stage.launch(old)
    assert copy.wait() == ExitCode.REFUSED
    assert "Put the newest copy of the state folder back" in copy.text.splitlines()[-1]
    assert {version for _, version in watcher.digests()} == {0, 1, 2, 3}


def test_an_old_copy_that_lacks_only_starts_goes_above_their_epoch(
    stage: Stage, watcher: Watcher
) -> None:
    config = stage.configure("one")
    process = stage.launch(config)
    poll(lambda: leads(watcher))
    old = stage.copy(config, "old")
    for _ in range(2):
        process.send(signal.SIGTERM)
        process.wait()
        seen = len(watcher.statuses)
        process = stage.launch(config)
        poll(lambda seen=seen: leads(watcher, after=seen))
    process.send(signal.SIGTERM)
    process.wait()
    seen = len(watcher.statuses)
    copy = stage.launch(old)
    poll(lambda: leads(watcher, after=seen))
    assert watcher.statuses[-1].epoch == 4
    finishes(watcher)
    assert copy.runs


def test_one_that_sleeps_while_another_takes_over_is_fenced_off_when_it_wakes(
    stage: Stage, watcher: Watcher
) -> None:
    config = stage.configure("one")
    sleeper = stage.launch(config)
    poll(lambda: leads(watcher))
    second = stage.copy(config, "two")
    sleeper.send(signal.SIGSTOP)
    seen = len(watcher.statuses)
    successor = stage.launch(second)
    # What the sleeper said last may come behind what was seen.
    poll(lambda: (said := leads(watcher, after=seen)) is not None and said.epoch == 2)
    sleeper.send(signal.SIGCONT)
    assert sleeper.wait() == ExitCode.REFUSED
    assert "fenced off" in sleeper.text.splitlines()[-1]
    poll(lambda: "fenced" in watcher.alerts)
    finishes(watcher)
    assert successor.runs


def test_a_copy_of_a_higher_epoch_makes_the_one_that_leads_start_anew_above_it(
    stage: Stage, watcher: Watcher
) -> None:
    config = stage.configure("one")
    leader = stage.launch(config)
    poll(lambda: leads(watcher))
    copy = stage.launch(stage.copy(config, "two"))
    assert copy.wait() == ExitCode.REFUSED
    poll(lambda: (said := leads(watcher)) is not None and said.epoch == 3)
    finishes(watcher)
    assert leader.runs
    assert "starts anew" in {said.reason.split(" with")[0] for said in watcher.statuses}


@pytest.mark.parametrize("mqtt_version", ["5", "3.1.1"])
def test_copies_with_one_login_leave_one(stage: Stage, watcher: Watcher, mqtt_version: str) -> None:
    """The broker ends the session of one for the other: whoever goes on, it is one of them."""
    broker = {
        "host": "127.0.0.1",
        "port": stage.port,
        "connect_timeout_s": 10,
        "mqtt_version": mqtt_version,
    }
    config = stage.configure("coord", broker=broker)
    first = stage.launch(config)
    poll(lambda: leads(watcher))
    copied = stage.copy(config, "copy", client_id="coord", broker=broker)
    second = stage.launch(copied)
    # Some 50 s of the fence's own waits, and what a busy machine adds to them.
    poll(lambda: not first.runs or not second.runs, timeout_s=240)
    (loser,) = [one for one in (first, second) if not one.runs]
    assert loser.wait() == ExitCode.REFUSED
    finishes(watcher)
    assert first.runs != second.runs
