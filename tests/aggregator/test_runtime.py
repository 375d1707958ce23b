"""The process itself: a real broker, real links, signals, kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aggregator.config import AggregatorConfig
from aggregator.runtime import run
from aggregator.server_optimizer import step
from aggregator.store import StoreUnavailable
from codec.limits import MAX_SEGMENT_BYTES
from transport import control, frame
from transport.broker import BrokerConfig
from transport.control import (
    DeviceState,
    DeviceStatus,
    EvalCommand,
    EvalResponse,
    ServiceState,
    ServiceStatus,
    TrainCommand,
    TrainResponse,
)
from transport.errors import LinkLost
from transport.exit_codes import ExitCode
from transport.link import Delivery, Link, LinkDown, LinkUp, Publication
from transport.messages import Have, Receipt, Segment, Want
from transport.topics import (
    Command,
    CoordStatus,
    DeviceTopic,
    Down,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)
from transport.transfer import Sender, SendManifest, SendSegment, Settled

TOPICS = Topics("lab")
MAIN = (
    "import sys; from aggregator.config import AggregatorConfig; "
    "from aggregator.runtime import run; "
    "sys.exit(run(AggregatorConfig.model_validate_json(sys.stdin.read())))"
)


class LiveDevice(threading.Thread):
    """A scripted device with a real link: it answers commands with made-up updates."""

    def __init__(self, client_id: Any, port: Any, config: Any, update_maker: Any) -> None:
        super().__init__(name=client_id, daemon=True)
        self.client_id = client_id
        self.config = config
        self.make = update_maker
        self.trained, self.receipts, self.evaluated = [], {}, []
        self.pause_s = 0.0
        self.failure: Exception | None = None
        self._stopping = threading.Event()
        self._updates: dict[int, Any] = {}
        self._senders: dict[str, Sender] = {}
        self.link = Link(
            BrokerConfig(host="127.0.0.1", port=port, mqtt_version=config.broker.mqtt_version),
            client_id=client_id,
            subscriptions=TOPICS.agent_filters(client_id),
            will=self._status(DeviceState.LOST),
        )

    def run(self) -> None:
        try:
            self.link.open()
            while not self._stopping.is_set():
                with contextlib.suppress(queue.Empty):
                    self._receive(self.link.events.get(timeout=0.05))
                for sender in list(self._senders.values()):
                    self._send(sender, sender.tick(time.monotonic()))
        except Exception as error:  # noqa: BLE001 - the test's thread looks at it
            self.failure = error
        finally:
            self.link.close(farewell=self._status(DeviceState.OFFLINE))

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)
        assert self.failure is None

    def _status(self, state: Any) -> Publication:
        topic = TOPICS.topic(DeviceTopic(self.client_id, "status"))
        return Publication(topic, control.encode(DeviceStatus(state, "one")), retain=True)

    def _receive(self, event: Any) -> None:
        now = time.monotonic()
        match event:
            case LinkUp():
                self.link.publish(self._status(DeviceState.IDLE))
                for sender in self._senders.values():
                    self._send(sender, sender.connected(now))
            case LinkDown():
                for sender in self._senders.values():
                    sender.disconnected(now)
            case Delivery():
                self._hear(TOPICS.parse(event.topic), event.payload, now)
                self.link.acknowledge(event)

    def _hear(self, address: Any, payload: Any, now: Any) -> None:
        match address:
            case Command(_, "train", _):
                self._train(control.decode(TrainCommand, payload), now)
            case Command(_, "eval", _):
                command = control.decode(EvalCommand, payload)
                self.evaluated.append(command.version)
                report = EvalResponse(command.run, command.version, 1.25, 10, 5)
                self._say(Response(self.client_id, "eval", str(command.version)), report)
            case Down(_, uid) if uid in self._senders:
                kinds = {3: Want, 4: Have, 5: Receipt}
                message = frame.decode(kinds[payload[1]], payload)
                sender = self._senders[uid]
                self._send(sender, sender.receive(message, now=now))

    def _train(self, command: Any, now: Any) -> None:
        answer = TrainResponse(command.run, command.round_id, accepted=True)
        self._say(Response(self.client_id, "train", str(command.round_id)), answer)
        if command.round_id in self._updates:
            return
        self.trained.append(command.round_id)
        update = self.make(
            client_id=self.client_id,
            run=command.run,
            round_id=command.round_id,
            codec=self.config.codec,
            segment_bytes=self.config.segment_bytes,
            update_bytes=self.config.budget_bytes(227, round_id=1),
        )
        self._updates[command.round_id] = update
        sender = Sender(update.uid, update.manifest, rng=random.Random(3))
        self._senders[update.uid] = sender
        self._send(sender, sender.connected(now))

    def _send(self, sender: Any, outputs: Any) -> None:
        update = next(entry for entry in self._updates.values() if entry.uid == sender.uid)
        for output in outputs:
            match output:
                case SendManifest(uid):
                    self._say(UpManifest(self.client_id, uid), update.manifest)
                case SendSegment(uid, index, _):
                    time.sleep(self.pause_s)
                    body = Segment(update.bodies[index])
                    self._say(UpSegment(self.client_id, uid, index), body)
                case Settled(uid, receipt):
                    self.receipts[uid] = receipt

    def _say(self, address: Any, message: Any) -> None:
        topic = TOPICS.topic(address)
        encode = frame.encode if topic.startswith("flx/") else control.encode
        with contextlib.suppress(LinkLost):
            self.link.publish(Publication(topic, encode(message)))


class Process:
    """The aggregator as a process of its own."""

    def __init__(self, config: Any, log: Any) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN], stdin=subprocess.PIPE, stderr=self._log
        )
        assert self.process.stdin is not None
        self.process.stdin.write(config.model_dump_json().encode())
        self.process.stdin.close()

    def wait(self, timeout_s: Any = 60) -> int:
        code = self.process.wait(timeout_s)
        self._log.close()
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.wait()


def poll(condition: Any, *, timeout_s: Any = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def live(tmp_path: Any, initial_adapter: Any, update_maker: Any, request: Any) -> Any:
    """Make configurations, processes and devices, and end them all."""
    started = []

    def configure(port: Any, **changes: Any) -> Any:
        values = {
            "federation": "lab",
            "broker": {
                "host": "127.0.0.1",
                "port": port,
                "connect_timeout_s": 10,
                "mqtt_version": changes.pop("mqtt_version", "5"),
            },
            "state_dir": tmp_path / "state",
            "initial_adapter": initial_adapter,
            "rounds": 2,
            "goal": 2,
            "quorum": 2,
            "deadline_s": 30.0,
            "segment_bytes": 128,
            "exit_when_finished": True,
        }
        return AggregatorConfig.model_validate(values | changes)

    def launch(config: Any) -> Any:
        process = Process(config, tmp_path / "aggregator.log")
        request.addfinalizer(process.end)
        return process

    def device(client_id: Any, config: Any) -> Any:
        live_device = LiveDevice(client_id, config.broker.port, config, update_maker)
        started.append(live_device)
        live_device.start()
        return live_device

    yield SimpleNamespace(
        configure=configure, launch=launch, device=device, log=tmp_path / "aggregator.log"
    )
    for live_device in started:
        live_device.stop()


@pytest.mark.broker
@pytest.mark.parametrize(
    "changes",
    [{"codec": "fp32"}, {"codec": "fstq", "bits_per_coordinate": 16.0}, {"mqtt_version": "3.1.1"}],
    ids=["fp32", "fstq", "mqtt-3.1.1"],
)
def test_two_devices_play_two_rounds_over_a_real_broker(
    mosquitto: Any, live: Any, changes: Any
) -> None:
    config = live.configure(mosquitto, **changes)
    devices = [live.device(name, config) for name in ("a", "b")]
    process = live.launch(config)
    assert process.wait() == ExitCode.OK, live.log.read_text()
    assert (config.state_dir / "CURRENT").read_text() == "2\n"
    poll(lambda: all(len(device.receipts) == 2 for device in devices))
    lines = (config.state_dir / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["participants"] for line in lines] == [2, 2]
    watcher = Link(config.broker, client_id="watcher", subscriptions=[TOPICS.topic(CoordStatus())])
    watcher.open()
    try:
        event = watcher.events.get(timeout=10)
        while not isinstance(event, Delivery):
            event = watcher.events.get(timeout=10)
    finally:
        watcher.close()
    assert control.decode(ServiceStatus, event.payload).state is ServiceState.FINISHED


@pytest.mark.broker
@pytest.mark.parametrize("moment", ["first-segments", "second-round", "mid-upload"])
def test_a_killed_aggregator_goes_on_where_it_was(mosquitto: Any, live: Any, moment: Any) -> None:
    config = live.configure(mosquitto, codec="fp32", rounds=3)
    devices = [live.device(name, config) for name in ("a", "b")]
    devices[1].pause_s = 0.05
    process = live.launch(config)
    state = config.state_dir
    match moment:
        case "first-segments":
            poll(lambda: bool(devices[0].trained))
        case "second-round":
            poll(lambda: (state / "CURRENT").exists() and (state / "CURRENT").read_text() != "0\n")
        case "mid-upload":
            poll(lambda: any(one.accepted for one in list(devices[1]._senders.values())))
    os.kill(process.process.pid, signal.SIGKILL)
    process.wait()
    assert live.launch(config).wait() == ExitCode.OK, live.log.read_text()
    assert (state / "CURRENT").read_text() == "3\n"
    assert all(device.trained == [1, 2, 3] for device in devices)


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_a_goodbye(mosquitto: Any, live: Any, number: Any) -> None:
    config = live.configure(mosquitto)
    watcher = Link(config.broker, client_id="watcher", subscriptions=[TOPICS.topic(CoordStatus())])
    watcher.open()
    watcher.wait_connected(10)
    process = live.launch(config)

    def next_state() -> ServiceState:
        while True:
            event = watcher.events.get(timeout=20)
            if isinstance(event, Delivery) and event.payload:
                return control.decode(ServiceStatus, event.payload).state

    try:
        while next_state() is not ServiceState.WAITING:
            pass
        process.process.send_signal(number)
        assert process.wait() == ExitCode.OK
        while next_state() is not ServiceState.OFFLINE:
            pass
    finally:
        watcher.close()


@pytest.mark.broker
def test_a_second_aggregator_on_the_same_folder_is_told_so(mosquitto: Any, live: Any) -> None:
    config = live.configure(mosquitto)
    first = live.launch(config)
    poll(lambda: "link to" in live.log.read_text() and "is up" in live.log.read_text())
    assert run(config) == ExitCode.TRY_AGAIN
    first.end()


def test_a_broker_that_does_not_answer_is_one_line_and_code_69(
    live: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = live.configure(1, broker={"host": "127.0.0.1", "port": 1, "connect_timeout_s": 0.3})
    assert run(config) == ExitCode.UNREACHABLE
    assert "127.0.0.1:1" in caplog.text


def test_a_missing_initial_adapter_is_a_configuration_error(
    live: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = live.configure(1, initial_adapter=tmp_path / "nowhere")
    assert run(config) == ExitCode.CONFIG
    assert "nowhere" in caplog.text


def test_a_password_file_that_is_missing_is_a_configuration_error(
    live: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker = {"host": "127.0.0.1", "username": "coord", "password_file": tmp_path / "no-password"}
    assert run(live.configure(1, broker=broker)) == ExitCode.CONFIG
    assert "no-password" in caplog.text


def test_a_state_folder_of_another_run_is_a_configuration_error(
    live: Any, caplog: pytest.LogCaptureFixture
) -> None:
    unreachable = {"host": "127.0.0.1", "port": 1, "connect_timeout_s": 0.1}
    run(live.configure(1, broker=unreachable))
    assert run(live.configure(1, broker=unreachable, codec="fp32")) == ExitCode.CONFIG
    assert "state_dir" in caplog.text


def test_the_aggregator_imports_no_torch() -> None:
    code = "import sys, aggregator.runtime; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"


def test_a_disk_that_fails_ends_the_process_before_anything_is_acknowledged(make_rig: Any) -> None:
    """What the broker has not been told to forget, it delivers again after the restart."""

    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()
    rig.state.store._connection.execute("PRAGMA query_only = ON")
    rig.link.acknowledged.clear()
    with pytest.raises(StoreUnavailable, match="journal"):
        rig.finish()
    assert rig.link.acknowledged == []
    rig.restart()
    rig.finish()
    assert rig.current() == 1


def test_a_publication_that_fits_no_packet_is_dropped_and_said(
    make_rig: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(rounds=1).start()
    publish = rig.link.publish

    def refuse(publication: Any) -> None:
        if publication.topic.endswith("/model"):
            raise ValueError("a packet of 9 bytes, at most 8 are sent")
        publish(publication)

    rig.link.publish = refuse
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    assert "not published" in caplog.text


def test_a_server_step_that_leaves_float32_is_a_configuration_error() -> None:

    with pytest.raises(OverflowError, match="server_step"):
        step(
            np.full(2, 3e38, dtype=np.float32),
            np.full(2, 3e38, dtype=np.float64),
            server_step=1.0,
        )


def test_segments_fit_every_broker(live: Any) -> None:
    with pytest.raises(ValueError, match="segment_bytes"):
        live.configure(1, segment_bytes=MAX_SEGMENT_BYTES + 1)


def test_the_end_of_the_run_is_told_before_the_process_exits(make_rig: Any) -> None:
    """The link came back between two looks, and nothing has been said over it yet."""
    plan = {"eval_examples": 0}
    rig = make_rig(rounds=1, exit_when_finished=True, plan=plan).start()
    for device in rig.add("a", "b"):
        device.join()

    def cut(where: Any) -> None:
        if where == "before store.finish":
            rig.link.connected = False

    rig.crash_at = cut
    rig.finish()
    rig.link.connected = True
    assert not rig.service._may_exit()
    rig.regain_link()
    assert rig.service._may_exit()
    (_, payload) = rig.said(CoordStatus)[-1]
    assert control.decode(ServiceStatus, payload).state is ServiceState.FINISHED


def test_segments_fit_the_packets_that_are_configured(live: Any) -> None:
    broker = {"host": "localhost", "max_packet_bytes": 16_384}
    with pytest.raises(ValueError, match="lower segment_bytes to 16128"):
        live.configure(1, broker=broker, segment_bytes=16_384)
    live.configure(1, broker=broker, segment_bytes=16_128)
