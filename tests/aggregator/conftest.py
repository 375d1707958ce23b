"""A whole aggregator on a virtual clock, and scripted devices that speak the real protocol.

The rig runs the real shell (`aggregator.runtime.Service`) with the real journal in a temporary
folder; only the link and the clock are doubles. A crash drops the service between two effects, as
kill -9 would: what SQLite has committed and what was renamed is there, everything else is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from aggregator import fencing, gate, runtime
from aggregator.config import AggregatorConfig
from aggregator.outputs import FrozenUpdate
from aggregator.state_folder import open_state_folder
from codec.codec import Budget
from codec.layout import Layout
from codec.registry import codec_named
from transport import control, frame
from transport.control import (
    DeviceState,
    DeviceStatus,
    EvalCommand,
    EvalResponse,
    TrainCommand,
    TrainResponse,
)
from transport.errors import LinkLost
from transport.link import Delivery, LinkDown, LinkUp, Publication
from transport.messages import (
    Evaluation,
    Have,
    Manifest,
    Receipt,
    Segment,
    SegmentEntry,
    Want,
)
from transport.topics import (
    Command,
    CoordRun,
    CoordStatus,
    DeviceTopic,
    Down,
    Model,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)
from transport.transfer import Sender, SendManifest, SendSegment, Settled

FEDERATION = "lab"
TOPICS = Topics(FEDERATION)
SHAPES = {
    "base_model.model.layers.0.q.lora_A.weight": (4, 24),
    "base_model.model.layers.0.q.lora_B.weight": (24, 4),
    "base_model.model.layers.1.q.lora_A.weight": (5, 7),
}
LAYOUT = Layout.from_shapes(SHAPES)
BASE_DIGEST = hashlib.sha256(b"a base model").digest()
CONFIG_TEXT = '{"peft_type": "LORA", "r": 4, "lora_alpha": 8}'


class Crash(BaseException):
    """The process dies here."""


def write_initial_adapter(folder: Path, *, seed: int = 7) -> np.ndarray:
    """Write a PEFT folder as the agent's tool does, and return its flat values."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in SHAPES.items()}
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    (folder / "adapter_config.json").write_text(CONFIG_TEXT)
    facts = {"base_model": "tiny", "base_digest": BASE_DIGEST.hex()}
    (folder / "fedfstq.json").write_text(json.dumps(facts))
    return LAYOUT.flatten(tensors)


def read_flat(folder: Path) -> np.ndarray:

    return LAYOUT.flatten(load_file(folder / "adapter_model.safetensors"))


@dataclass(frozen=True)
class ScriptedUpdate:
    """One client update, made without any training: the same for the same device and round."""

    uid: str
    manifest: Manifest
    bodies: tuple[bytes, ...]
    delta: np.ndarray


def make_update(
    *,
    client_id: str,
    run: str,
    round_id: int,
    codec: str = "fp32",
    segment_bytes: int = 256,
    update_bytes: int | None = None,
    num_examples: int = 10,
    seq: int | None = None,
    delta: np.ndarray | None = None,
    **changes: Any,
) -> ScriptedUpdate:
    seed = int.from_bytes(hashlib.sha256(f"{client_id}/{round_id}".encode()).digest()[:4], "big")
    rng = np.random.default_rng(seed)
    if delta is None:
        delta = rng.normal(0, 0.01, LAYOUT.size).astype(np.float32)
    bodies = codec_named(codec).encode(
        delta,
        None,
        layout=LAYOUT,
        budget=Budget(update_bytes=update_bytes, segment_bytes=segment_bytes),
        seed=round_id,
    )
    manifest = Manifest(
        run=run,
        round_id=round_id,
        base_version=round_id - 1,
        base_digest=BASE_DIGEST,
        layout_digest=LAYOUT.digest,
        client_id=client_id,
        seq=round_id if seq is None else seq,
        codec=codec,
        num_examples=num_examples,
        segments=tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies),
        train_loss=2.0,
        steps=8,
        train_s=1.5,
        evaluation=Evaluation(loss=3.0 / round_id, tokens=100, correct=10),
    )
    manifest = replace(manifest, **changes)
    return ScriptedUpdate(frame.uid(manifest), manifest, bodies, delta)


class FakeLink:
    """What the service believes to be a link: it records, and delivers nothing by itself."""

    def __init__(self, *_: Any, will: Publication, **__: Any) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.will = will
        self.connected = False
        self.alive = True
        self.published: list[Publication] = []
        self.acknowledged: list[Delivery] = []
        self.farewell: Publication | None = None
        self.repeats = 0

    def open(self) -> None:
        self.connected = True

    def wait_connected(self, timeout_s: float) -> None:
        assert timeout_s > 0

    def is_turning(self, now: float) -> bool:
        return self.alive and now >= 0.0

    def publish(self, publication: Publication) -> None:
        if not self.connected:
            raise LinkLost("not connected")
        self.published.append(publication)

    def repeat(self) -> None:
        self.repeats += 1

    def acknowledge(self, delivery: Delivery) -> None:
        self.acknowledged.append(delivery)

    def close(self, *, farewell: Publication | None = None) -> None:
        self.farewell = farewell


@dataclass
class Device:
    """A device that trains nothing: it answers commands with made-up updates, by script."""

    client_id: str
    rig: Rig
    codec: str = "fp32"
    declines: bool = False
    silent: bool = False
    num_examples: int = 10
    most_segments: int | None = None  # how many of an update's segments get through
    make: Callable[..., ScriptedUpdate] = make_update
    session: str = "s1"
    online: bool = False
    updates: dict[int, ScriptedUpdate] = field(default_factory=dict)
    senders: dict[str, Sender] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    trained: list[int] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)

    def status(self, state: DeviceState) -> None:
        self.online = state not in {DeviceState.OFFLINE, DeviceState.LOST}
        status = DeviceStatus(state, self.session)
        self.rig.say(DeviceTopic(self.client_id, "status"), status, retain=True)

    def join(self) -> None:
        self.status(DeviceState.IDLE)

    def lose(self) -> None:
        for sender in self.senders.values():
            sender.disconnected(self.rig.now)
        self.status(DeviceState.LOST)

    def come_back(self) -> None:
        self.join()
        self.reconnect()

    def reconnect(self) -> None:
        for sender in self.senders.values():
            self._send(sender, sender.connected(self.rig.now))

    def hear(self, address: Any, payload: bytes) -> None:
        if self.silent or not self.online:
            return
        match address:
            case Command(_, "train", _):
                self._train(control.decode(TrainCommand, payload))
            case Command(_, "eval", _):
                self._evaluate(control.decode(EvalCommand, payload))
            case Down(_, uid):
                self._answer(uid, payload)

    def tick(self) -> None:
        if self.online:
            for sender in list(self.senders.values()):
                self._send(sender, sender.tick(self.rig.now))

    def next_wakeup(self) -> float | None:
        moments = [sender.next_wakeup() for sender in self.senders.values()] if self.online else []
        return min((moment for moment in moments if moment is not None), default=None)

    def _train(self, command: TrainCommand) -> None:
        answer = TrainResponse(command.run, command.round_id, not self.declines, "by script")
        self.rig.say(Response(self.client_id, "train", str(command.round_id)), answer)
        if self.declines or command.round_id in self.updates:
            return
        self.trained.append(command.round_id)
        config = self.rig.config
        update = self.make(
            client_id=self.client_id,
            run=command.run,
            round_id=command.round_id,
            codec=self.codec,
            segment_bytes=config.segment_bytes,
            update_bytes=command.update_bytes,
            num_examples=self.num_examples,
        )
        self.updates[command.round_id] = update
        sender = Sender(update.uid, update.manifest, rng=random.Random(1))
        self.senders[update.uid] = sender
        self._send(sender, sender.connected(self.rig.now))

    def _evaluate(self, command: EvalCommand) -> None:
        self.evaluated.append(command.version)
        report = EvalResponse(command.run, command.version, 1.5, 200, 100)
        self.rig.say(Response(self.client_id, "eval", str(command.version)), report)

    def _answer(self, uid: str, payload: bytes) -> None:
        sender = self.senders.get(uid)
        if sender is None:
            return
        kinds: dict[int, Any] = {3: Want, 4: Have, 5: Receipt}
        message = frame.decode(kinds[payload[1]], payload)
        self._send(sender, sender.receive(message, now=self.rig.now))

    def _send(self, sender: Sender, outputs: list[Any]) -> None:
        update = next(entry for entry in self.updates.values() if entry.uid == sender.uid)
        for output in outputs:
            match output:
                case SendManifest(uid):
                    self.rig.say(UpManifest(self.client_id, uid), update.manifest)
                case SendSegment(uid, index, _):
                    if self.most_segments is None or index < self.most_segments:
                        body = Segment(update.bodies[index])
                        self.rig.say(UpSegment(self.client_id, uid, index), body)
                case Settled(uid, receipt):
                    self.receipts[uid] = receipt


class Rig:
    """One aggregator, its devices, a broker of two lines, and the clock that all of them see."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.root = root
        self.now = 1000.0
        self.batch = 128
        self.initial = write_initial_adapter(root / "initial")
        values: dict[str, Any] = {
            "federation": FEDERATION,
            "state_dir": root / "state",
            "initial_adapter": root / "initial",
            "rounds": 2,
            "goal": 2,
            "quorum": 2,
            "over_selection": 1.0,
            "deadline_s": 60.0,
            "codec": "fp32",
            "segment_bytes": 256,
            "downlink_codec": None,
            "server_momentum": 0.0,  # so that a version is the mean of what was sent
        }
        self.config = AggregatorConfig.model_validate(values | changes)
        self.devices: dict[str, Device] = {}
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[Any, bytes, bool]] = []
        self.crash_at: Callable[[str], None] = lambda _: None
        self.frozen: dict[int, tuple[FrozenUpdate, ...]] = {}
        self._inbox: list[Delivery] = []
        self._stack = ExitStack()
        self.service: Any = None
        self.link: Any = None
        self._seen = 0
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: 1.0e9)
        monkeypatch.setattr(runtime, "time", clock)
        monkeypatch.setattr(gate, "time", clock)
        # No other aggregator is there, unless a test lets one speak.
        monkeypatch.setattr(fencing, "CLAIM_S", 0.0)
        monkeypatch.setattr(fencing, "CLAIM_BESIDE_S", 0.0)
        monkeypatch.setattr(runtime, "Link", FakeLink)

    # The process -------------------------------------------------------------------------------

    def start(self) -> Rig:
        self._stack = ExitStack()
        state = self._stack.enter_context(open_state_folder(self.config))
        self.state = state
        self.service = runtime.Service(self.config, state)
        self.link = self.service._link
        self._seen = 0
        self.link.open()
        self._watch()
        self._subscribe()
        return self

    def kill(self) -> None:
        """End the process without a word; what is durable stays."""
        self._stack.close()
        self._inbox.clear()
        self.service = None

    def restart(self) -> Rig:
        self.kill()
        self.start()
        for device in self.devices.values():
            if device.online:
                device.reconnect()
        return self

    def lose_link(self) -> None:
        self.link.connected = False
        self.service._process([LinkDown("by script")])

    def regain_link(self) -> None:
        self.link.connected = True
        self._subscribe()

    # The world ---------------------------------------------------------------------------------

    def add(self, *client_ids: str, **script: Any) -> list[Device]:
        added = [Device(client_id, self, **script) for client_id in client_ids]
        self.devices.update({device.client_id: device for device in added})
        return added

    def say(self, address: Any, message: Any, *, retain: bool = False) -> None:
        """A device publishes; `message` may be raw bytes."""
        topic = TOPICS.topic(address)
        if isinstance(message, bytes):
            payload = message
        elif topic.startswith("flx/"):
            payload = frame.encode(message)
        else:
            payload = control.encode(message)
        if retain:
            self.retained[topic] = payload
        self._inbox.append(Delivery(topic, payload, qos=1, retain=False, mid=len(self._inbox) + 1))

    def settle(self) -> None:
        """Carry messages until nobody has anything to say at this moment."""
        for _ in range(2000):
            if not self._inbox:
                return
            taken, self._inbox = self._inbox[: self.batch], self._inbox[self.batch :]
            self.service._process(taken)
            self._carry()
        raise AssertionError("they talk for ever")

    def run_until(self, condition: Callable[[], bool], *, steps: int = 400) -> None:
        """Jump from one wakeup to the next until the condition holds."""
        for _ in range(steps):
            self.settle()
            if condition():
                return
            moments = [self.service._coordinator.next_wakeup()]
            moments += [device.next_wakeup() for device in self.devices.values()]
            due = [moment for moment in moments if moment is not None]
            assert due, "nothing is due, and the condition does not hold"
            self.now = max(self.now, min(due))
            for device in self.devices.values():
                device.tick()
            self.service._process([])
            self._carry()
        raise AssertionError("too many steps")

    def advance(self, seconds: float) -> None:
        """Let time pass, with everything that becomes due."""
        end = self.now + seconds
        self.run_until(lambda: self.now >= end or self._is_idle_until(end))
        self.now = max(self.now, end)
        self.service._process([])
        self._carry()
        self.settle()

    def finish(self) -> None:
        self.run_until(lambda: self.service._coordinator.state.value == "finished")

    # What can be seen --------------------------------------------------------------------------

    def said(self, kind: type, **wanted: Any) -> list[Any]:
        """Return the messages of an address kind that the aggregator has published."""
        return [
            (address, payload)
            for address, payload, _ in self.published
            if isinstance(address, kind)
            and all(getattr(address, name) == value for name, value in wanted.items())
        ]

    def summaries(self) -> list[dict[str, Any]]:
        lines = (self.config.state_dir / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def adapter(self, version: int) -> np.ndarray:
        return read_flat(self.config.state_dir / "adapters" / str(version))

    def current(self) -> int:
        return int((self.config.state_dir / "CURRENT").read_text())

    def _is_idle_until(self, end: float) -> bool:
        moments = [self.service._coordinator.next_wakeup()]
        moments += [device.next_wakeup() for device in self.devices.values()]
        return all(moment is None or moment > end for moment in moments)

    def _subscribe(self) -> None:
        """Deliver what is retained, and let the aggregator take the lead."""
        self.service._process([LinkUp(session_present=True)])
        own = {TOPICS.topic(address) for address in (CoordStatus(), CoordRun(), Model())}
        self.service._process(
            [
                Delivery(topic, self.retained[topic], qos=1, retain=True, mid=0)
                for topic in sorted(own & self.retained.keys())
            ]
        )
        question = self.link.published[-1]
        echo = Delivery(question.topic, question.payload, qos=1, retain=False, mid=0)
        self.service._process([echo])
        self.service._process([])
        assert self.service._fence.leads
        for topic in sorted(self.retained):
            if topic.endswith("/status") and "/d/" in topic:
                self._inbox.append(Delivery(topic, self.retained[topic], qos=1, retain=True, mid=0))
        self._carry()

    def _carry(self) -> None:
        """Hand what the aggregator has published to the devices."""
        while self._seen < len(self.link.published):
            publication = self.link.published[self._seen]
            self._seen += 1
            if publication.retain:
                self.retained[publication.topic] = publication.payload
                if not publication.payload:
                    del self.retained[publication.topic]
            address = TOPICS.parse(publication.topic)
            self.published.append((address, publication.payload, publication.retain))
            client_id = getattr(address, "client_id", None)
            if client_id in self.devices:
                self.devices[client_id].hear(address, publication.payload)

    def _watch(self) -> None:
        """Let `crash_at` see the moments before and after each durable effect."""
        store = self.state.store
        for owner, name in (
            (store, "write"),
            (store, "freeze"),
            (store, "reopen"),
            (store, "commit"),
            (store, "finish"),
            (self.state, "commit"),
        ):
            label = f"state.{name}" if owner is self.state else f"store.{name}"
            setattr(owner, name, self._watched(getattr(owner, name), label))

    def _watched(self, call: Callable[..., Any], label: str) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self.crash_at(f"before {label}")
            result = call(*arguments)
            if label == "store.freeze":
                self.frozen[arguments[0].record.round_id] = arguments[0].updates
            self.crash_at(f"after {label}")
            return result

        return watched


@pytest.fixture
def make_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**changes: Any) -> Rig:
        rig = Rig(tmp_path / f"rig{len(rigs)}", monkeypatch, **changes)
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        rig._stack.close()


@pytest.fixture
def update_maker() -> Callable[..., ScriptedUpdate]:
    return make_update


@pytest.fixture
def crash() -> type[Crash]:
    return Crash


@pytest.fixture
def layout() -> Layout:
    return LAYOUT


@pytest.fixture
def base_digest() -> bytes:
    return BASE_DIGEST


@pytest.fixture
def initial_adapter(tmp_path: Path) -> Path:
    write_initial_adapter(tmp_path / "initial-adapter")
    return tmp_path / "initial-adapter"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[int]:
    """A broker of this test alone, on a free port of the loopback interface."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "mosquitto.conf"
    path.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        "max_inflight_messages 64\nmax_queued_messages 20000\nset_tcp_nodelay true\n"
    )
    log = (tmp_path / "mosquitto.log").open("wb")
    broker = subprocess.Popen([program, "-c", path], stdout=log, stderr=log)
    try:
        _await_port(port)
        yield port
    finally:
        broker.terminate()
        broker.wait(10)
        log.close()


def _await_port(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("mosquitto did not listen within 10 s")
