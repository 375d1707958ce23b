"""A layout, an adapter version and an update in small; a real broker; a scripted aggregator."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.commands import Commands
from agent.deliveries import Deliveries
from agent.job import JobPolicy
from agent.outputs import Adapter, Remembered, Upload
from agent.pauses import Pauses
from agent.payload import PayloadHeader, write_payload
from agent.session import Session
from agent.tasks import TrainerHello
from codec.codec import Budget
from codec.layout import Layout
from codec.registry import codec_named
from transport import control, frame
from transport.broker import BrokerConfig
from transport.control import (
    DeviceProfile,
    DeviceStatus,
    EnergyReport,
    EvalCommand,
    EvalResponse,
    ModelStatus,
    Progress,
    RunAnnouncement,
    Telemetry,
    TrainCommand,
    TrainingPlan,
    TrainResponse,
)
from transport.link import Delivery, Link, Publication
from transport.messages import (
    AdapterManifest,
    AdapterWant,
    Evaluation,
    Have,
    Manifest,
    Receipt,
    ReceiptState,
    Segment,
    SegmentEntry,
)
from transport.topics import (
    Address,
    Command,
    CoordRun,
    DeviceTopic,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
    ModelWant,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)
from transport.transfer import TransferPolicy

RUN = "0123456789abcdef" * 2
OTHER_RUN = "f" * 32
BASE = hashlib.sha256(b"base").digest()
LAYOUT = Layout.from_shapes({"a.lora_A.weight": (4, 16), "a.lora_B.weight": (16, 4), "z": (3,)})
LAYOUT_ROWS = tuple((tensor.name, tensor.shape) for tensor in LAYOUT.tensors)
SEGMENT_BYTES = 128


def entries(bodies: tuple[bytes, ...]) -> tuple[SegmentEntry, ...]:
    return tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies)


def announcement(run: str = RUN, **changes: Any) -> RunAnnouncement:
    fields: dict[str, Any] = {
        "run": run,
        "base_model": "base",
        "base_digest": BASE.hex(),
        "layout_digest": LAYOUT.digest.hex(),
        "codec": "fp32",
        "rounds": 3,
        "segment_bytes": SEGMENT_BYTES,
        "plan": TrainingPlan(local_steps=2),
    }
    return RunAnnouncement(**(fields | changes))


def adapter_numbers(version: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(version).normal(size=LAYOUT.size).astype(np.float32)


def adapter_message(
    version: int, run: str = RUN, **changes: Any
) -> tuple[AdapterManifest, tuple[bytes, ...]]:
    flat = adapter_numbers(version)
    bodies = codec_named("fp32").encode(
        flat, None, layout=LAYOUT, budget=Budget(None, SEGMENT_BYTES), seed=0
    )
    fields: dict[str, Any] = {
        "run": run,
        "version": version,
        "base_digest": BASE,
        "layout": LAYOUT_ROWS,
        "codec": "fp32",
        "segments": entries(bodies),
        "sha256": hashlib.sha256(flat.astype("<f4").tobytes()).digest(),
        "adapter_config": '{"r": 4}',
    }
    return AdapterManifest(**(fields | changes)), bodies


def adapter(version: int, run: str = RUN) -> Adapter:
    return Adapter(
        run=run,
        version=version,
        base_digest=BASE.hex(),
        layout=LAYOUT_ROWS,
        adapter_config='{"r": 4}',
        file=Path(f"/adapters/{version}.f32"),
    )


def upload(round_id: int, *, segments: int = 3, run: str = RUN) -> Upload:
    bodies = tuple(f"{round_id}/{index}".encode() * 8 for index in range(segments))
    manifest = Manifest(
        run=run,
        round_id=round_id,
        base_version=round_id - 1,
        base_digest=BASE,
        layout_digest=LAYOUT.digest,
        client_id="dev-1",
        seq=round_id,
        codec="fp32",
        num_examples=90,
        segments=entries(bodies),
        train_loss=1.5,
        steps=2,
        train_s=0.5,
        evaluation=None,
    )
    return Upload(frame.uid(manifest), manifest)


def header(lengths: tuple[int, ...], **changes: Any) -> PayloadHeader:
    fields: dict[str, Any] = {
        "run": RUN,
        "round_id": 1,
        "base_version": 0,
        "base_digest": BASE.hex(),
        "layout_digest": LAYOUT.digest.hex(),
        "codec": "fp32",
        "num_examples": 90,
        "train_loss": 1.5,
        "steps": 2,
        "train_s": 0.5,
        "evaluation": Evaluation(2.5, 100, 40),
        "lengths": lengths,
        "leftovers_used": (),
        "coordinates": 0,
    }
    return PayloadHeader(**(fields | changes))


def leave_payload(
    path: Path,
    delta: np.ndarray[Any, np.dtype[np.float32]],
    *,
    codec: str = "fp32",
    feedback: bool = False,
    **changes: Any,
) -> tuple[bytes, ...]:
    """Do what the trainer does at the end of a task."""
    most = None if codec_named(codec).dense else LAYOUT.size
    bodies = codec_named(codec).encode(
        delta, None, layout=LAYOUT, budget=Budget(most, SEGMENT_BYTES), seed=0
    )
    fields = {"codec": codec, "coordinates": LAYOUT.size if feedback else 0} | changes
    written = header(tuple(len(body) for body in bodies), **fields)
    write_payload(path, written, bodies, encoded=delta if feedback else None)
    return bodies


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """Everything that makes a run in small, by name."""
    return SimpleNamespace(
        RUN=RUN,
        OTHER_RUN=OTHER_RUN,
        BASE=BASE,
        LAYOUT=LAYOUT,
        LAYOUT_ROWS=LAYOUT_ROWS,
        SEGMENT_BYTES=SEGMENT_BYTES,
        announcement=announcement,
        adapter_numbers=adapter_numbers,
        adapter_message=adapter_message,
        entries=entries,
        adapter=adapter,
        upload=upload,
        header=header,
        leave_payload=leave_payload,
    )


class Listening:
    """Deliveries into a session that is connected, with a trainer and one update that waits."""

    TOPICS = Topics("fed")

    def __init__(self, seals: Any = None) -> None:
        self.upload = upload(1)
        self.now = 1.0
        pauses = Pauses()
        self.session = Session(
            "dev-1",
            remembered=Remembered(run=RUN, uploads=(self.upload,)),
            jobs=JobPolicy(),
            transfer=TransferPolicy(),
            rng=random.Random(1),
            pauses=pauses,
        )
        self.session.connected(0.0)
        self.session.trainer_ready(TrainerHello(1, "2.4", "", 90, 10, BASE.hex()), now=0.0)
        self.deliveries = Deliveries(
            self.TOPICS,
            client_id="dev-1",
            session=self.session,
            commands=Commands(self.session, pauses=pauses, boot="b07d"),
            clock=lambda: 500.0,
            seals=seals,
        )

    def take(self, address: Address | str, payload: bytes) -> list[Any]:
        """Deliver what came on a topic."""
        topic = address if isinstance(address, str) else self.TOPICS.topic(address)
        delivery = Delivery(topic, payload, 1, retain=False, mid=1)
        return list(self.deliveries.take(delivery, now=self.now))


@pytest.fixture(scope="session")
def listening() -> type[Listening]:
    return Listening


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[BrokerConfig]:
    """A real broker on a free loopback port."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with (tmp_path / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(port))
        yield BrokerConfig(host="127.0.0.1", port=port, connect_timeout_s=10.0)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(name="wait_until", scope="session")
def give_wait_until() -> Callable[..., None]:
    """Return the poll that every test uses."""
    return wait_until


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.02)


@dataclass
class Aggregator:
    """A scripted aggregator: publishes a run, and journals what comes; tests decide the rest."""

    broker: BrokerConfig
    client_id: str = "dev-1"
    epoch: int = 1
    answers: bool = True  # Have after every segment
    journals: int = 10**9  # segments that are taken; the rest is as if lost
    topics: Topics = field(default_factory=lambda: Topics("fed"))
    states: list[tuple[str, int]] = field(default_factory=list)
    statuses: list[DeviceStatus] = field(default_factory=list)
    profiles: list[DeviceProfile] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    telemetry: list[Telemetry] = field(default_factory=list)
    energy: list[tuple[EnergyReport, int]] = field(default_factory=list)  # updates before each
    trains: list[TrainResponse] = field(default_factory=list)
    evals: list[EvalResponse] = field(default_factory=list)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    announced: list[str] = field(default_factory=list)
    segments: dict[str, dict[int, bytes]] = field(default_factory=dict)
    wants: list[AdapterWant] = field(default_factory=list)

    def open(self) -> None:
        device = f"{self.topics.monitoring}/d/+"
        filters = (*self.topics.aggregator_filters(), *(
            f"{device}/{leaf}" for leaf in ("info", "progress", "telemetry")
        ))  # fmt: skip
        self.link = Link(self.broker, client_id="coord", subscriptions=filters)
        self.link.open()
        self.link.wait_connected(10)

    def publish(self, address: Address, payload: bytes, *, retain: bool = False) -> None:
        self.link.publish(Publication(self.topics.topic(address), payload, retain=retain))

    def begin(self, run: RunAnnouncement | None = None, *, version: int = 0) -> None:
        """Announce a run once the device is there: commands are not retained."""
        self.until(lambda: self.statuses)
        run = run or announcement()
        self.publish(CoordRun(), control.encode(run), retain=True)
        self.publish_model(version, run.run)

    def publish_model(self, version: int, run: str = RUN, *, frames: bool = True) -> None:
        manifest, bodies = adapter_message(version, run)
        if frames:
            self.publish(ModelManifest(version), frame.encode(manifest), retain=True)
            for index, body in enumerate(bodies):
                address = ModelSegment(version, index)
                self.publish(address, frame.encode(Segment(body)), retain=True)
        size = sum(len(body) for body in bodies)
        status = ModelStatus(run, version, manifest.sha256.hex(), size, len(bodies))
        self.publish(Model(), control.encode(status), retain=True)

    def command_train(self, round_id: int, run: str = RUN) -> None:
        command = TrainCommand(run, self.epoch, round_id, round_id - 1, 60.0, 7, None)
        address = Command(self.client_id, "train", str(round_id))
        self.publish(address, control.encode(command))

    def command_eval(self, version: int, run: str = RUN) -> None:
        command = EvalCommand(run, self.epoch, version, 60.0)
        self.publish(Command(self.client_id, "eval", str(version)), control.encode(command))

    def settle(self, uid: str, state: ReceiptState, accepted: frozenset[int]) -> None:
        total = len(self.manifests[uid].segments)
        receipt = Receipt(self.epoch, state, "" if accepted else "late", accepted, total)
        self.publish(Down(self.client_id, uid), frame.encode(receipt))

    def complete(self, uid: str) -> bool:
        return len(self.segments.get(uid, {})) == len(self.manifests[uid].segments)

    def until(self, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Take what comes until a condition holds."""

        def holds() -> object:
            while not self.link.events.empty():
                event = self.link.events.get()
                if isinstance(event, Delivery):
                    self._take(event)
                    self.link.acknowledge(event)
            return condition()

        wait_until(holds, timeout_s)

    def _take(self, delivery: Delivery) -> None:
        payload = delivery.payload
        if not payload:
            return
        match self.topics.parse(delivery.topic):
            case DeviceTopic(_, "status"):
                self.statuses.append(control.decode(DeviceStatus, payload))
                status = self.statuses[-1]
                self.states.append((status.state.value, status.round_id))
            case DeviceTopic(_, "info"):
                self.profiles.append(control.decode(DeviceProfile, payload))
            case DeviceTopic(_, "progress"):
                self.progress.append(control.decode(Progress, payload))
            case DeviceTopic(_, "telemetry"):
                self.telemetry.append(control.decode(Telemetry, payload))
            case DeviceTopic(_, "energy"):
                self.energy.append((control.decode(EnergyReport, payload), len(self.announced)))
            case Response(_, "train", _):
                self.trains.append(control.decode(TrainResponse, payload))
            case Response(_, "eval", _):
                self.evals.append(control.decode(EvalResponse, payload))
            case UpManifest(_, uid):
                manifest = frame.decode(Manifest, payload)
                assert frame.uid(manifest) == uid
                self.manifests[uid] = manifest
                self.announced.append(uid)
                self._have(uid)
            case UpSegment(_, uid, index):
                self._take_segment(uid, index, frame.decode(Segment, payload).body)
            case ModelWant():
                self.wants.append(frame.decode(AdapterWant, payload))

    def _take_segment(self, uid: str, index: int, body: bytes) -> None:
        held = self.segments.setdefault(uid, {})
        if index not in held and sum(map(len, self.segments.values())) >= self.journals:
            return
        assert hashlib.sha256(body).digest() == self.manifests[uid].segments[index].sha256
        held[index] = body
        self._have(uid)

    def _have(self, uid: str) -> None:
        if self.answers:
            held = frozenset(self.segments.get(uid, {}))
            have = Have(self.epoch, held, len(self.manifests[uid].segments))
            self.publish(Down(self.client_id, uid), frame.encode(have))


@pytest.fixture
def aggregator(mosquitto: BrokerConfig) -> Iterator[Aggregator]:
    """A scripted aggregator, connected."""
    scripted = Aggregator(mosquitto)
    scripted.open()
    yield scripted
    scripted.link.close()


@dataclass
class AgentProcess:
    """One agent as a process of its own, with the trainer's double."""

    broker: BrokerConfig
    folder: Path
    silence_s: float = 1800.0
    root: Path = Path("/")
    process: subprocess.Popen[bytes] | None = None

    @property
    def state_dir(self) -> Path:
        return self.folder / "s"

    def start(self) -> None:
        self.state_dir.mkdir(exist_ok=True)
        double = Path(__file__).with_name("trainer_double.py")
        program = (
            "import sys; from pathlib import Path; from agent.config import AgentConfig;"
            "from agent import runtime; from agent.job import JobPolicy;"
            f"runtime.JobPolicy = lambda: JobPolicy(silence_s={self.silence_s});"
            "sys.exit(runtime.run(AgentConfig.model_validate_json(sys.argv[1]),"
            " trainer_command=[sys.executable, sys.argv[2]],"
            f" root=Path({str(self.root)!r})))"
        )
        config = {
            "federation": "fed",
            "client_id": "dev-1",
            "broker": self.broker.model_dump(mode="json"),
            "state_dir": str(self.state_dir),
            "data": {"train": "/nowhere"},
            "telemetry_interval_s": 0.2,
        }
        command = [sys.executable, "-c", program, json.dumps(config), str(double)]
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def script(self, text: str) -> None:
        self.state_dir.mkdir(exist_ok=True)
        (self.state_dir / "double.json").write_text(text)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(20)
        self.process = None
        return code

    def trained(self) -> list[str]:
        path = self.state_dir / "trained.log"
        return path.read_text().split() if path.exists() else []

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()


@pytest.fixture
def agent_process(mosquitto: BrokerConfig, tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent's process, not started; killed at the end where it still runs."""
    process = AgentProcess(mosquitto, tmp_path)
    yield process
    if process.process is not None:
        process.kill()
    sys.stderr.write(process.log() if (tmp_path / "agent.log").exists() else "")


@pytest.fixture
def make_board(tmp_path: Path) -> Callable[[str], Path]:
    """Lay out a board's files as `boards/<name>.json` has them; null is a file that cannot be read.

    A folder in a file's place stands for that: reading it fails for root as well.
    """

    def make(name: str) -> Path:
        root = tmp_path / name
        tree = json.loads((Path(__file__).parent / "boards" / f"{name}.json").read_text())
        for place, content in tree.items():
            file = root / place
            if content is None:
                file.mkdir(parents=True)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)
        return root

    return make
