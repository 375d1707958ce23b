"""A real mosquitto on a free loopback port, and one message of each kind."""

from __future__ import annotations

import getpass
import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from transport.broker import BrokerConfig
from transport.messages import (
    AdapterManifest,
    AdapterWant,
    Evaluation,
    Have,
    Manifest,
    Message,
    Receipt,
    ReceiptState,
    Segment,
    SegmentEntry,
    Want,
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def accepts_connections(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Mosquitto:
    """A broker that tests may stop, kill and start again on the same port."""

    folder: Path
    lines: tuple[str, ...]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        # Started as root it would become a user of its own, who cannot read the test's files.
        first = (f"user {getpass.getuser()}", f"listener {self.port} 127.0.0.1")
        config.write_text("\n".join((*first, *self.lines)) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(
                [shutil.which("mosquitto", path="/usr/sbin:/usr/bin") or "", "-c", str(config)],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 10
        while not accepts_connections(self.port):
            assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def config(self, **options: Any) -> BrokerConfig:
        return BrokerConfig(**{"host": "127.0.0.1", "port": self.port} | options)


@pytest.fixture
def mosquitto_with(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts brokers with these lines of configuration; they end with the test."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    brokers: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        folder = tmp_path / f"mosquitto-{len(brokers)}"
        folder.mkdir()
        broker = Mosquitto(folder, lines or ("allow_anonymous true",))
        broker.start()
        brokers.append(broker)
        return broker

    yield start
    for broker in brokers:
        broker.stop()


@pytest.fixture
def mosquitto(mosquitto_with: Callable[..., Mosquitto]) -> Mosquitto:
    """A broker that takes anybody."""
    return mosquitto_with()


def manifest_of(*bodies: bytes, **changes: Any) -> Manifest:
    """The manifest of an update with these segments."""
    entries = tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies)
    fields: dict[str, Any] = {
        "run": "0123456789abcdef" * 2,
        "round_id": 3,
        "base_version": 2,
        "base_digest": bytes(range(32)),
        "layout_digest": bytes(range(32, 64)),
        "client_id": "dev-1",
        "seq": 7,
        "codec": "fstq",
        "num_examples": 1200,
        "segments": entries,
        "train_loss": 2.25,
        "steps": 8,
        "train_s": 12.5,
        "evaluation": Evaluation(2.5, 1000, 420),
    }
    return Manifest(**fields | changes)


def adapter_manifest_of(*bodies: bytes, **changes: Any) -> AdapterManifest:
    """The manifest of an adapter version with these segments."""
    entries = tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies)
    fields: dict[str, Any] = {
        "run": "0123456789abcdef" * 2,
        "version": 2,
        "base_digest": bytes(range(32)),
        "layout": (("layers.0.q.lora_A.weight", (8, 64)), ("layers.0.q.lora_B.weight", (64, 8))),
        "codec": "fp32",
        "segments": entries,
        "sha256": bytes(range(64, 96)),
        "adapter_config": '{"peft_type": "LORA", "r": 8}',
    }
    return AdapterManifest(**fields | changes)


@pytest.fixture(scope="session")  # hypothesis runs a test many times within one fixture
def make_manifest() -> Callable[..., Manifest]:
    return manifest_of


@pytest.fixture
def make_adapter_manifest() -> Callable[..., AdapterManifest]:
    return adapter_manifest_of


# By the name of its golden file. Append only: what a released version wrote is read for ever.
GOLDEN: dict[str, Message] = {
    "manifest": manifest_of(b"one", b"two two", b"three"),
    "manifest-without-evaluation": manifest_of(b"one", evaluation=None),
    "segment": Segment(bytes(range(256))),
    "segment-zstd": Segment(b"the same again " * 40),
    "want": Want(5),
    "have": Have(5, frozenset({0, 2, 8}), 9),
    "receipt-accepted": Receipt(5, ReceiptState.ACCEPTED, "", frozenset(range(3)), 3),
    "receipt-partial": Receipt(5, ReceiptState.PARTIAL, "deadline", frozenset({1}), 3),
    "receipt-late": Receipt(5, ReceiptState.LATE, "closed", frozenset(), 3),
    "receipt-refused": Receipt(5, ReceiptState.REFUSED, "layout", frozenset(), 0),
    "adapter-manifest-zstd": adapter_manifest_of(b"one", b"two two"),
    "adapter-want": AdapterWant(frozenset({0, 2, 8})),
    "adapter-want-all": AdapterWant(None),
}


@pytest.fixture(params=GOLDEN)
def golden_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def golden_message(golden_name: str) -> Message:
    return GOLDEN[golden_name]


@pytest.fixture
def golden_bytes(golden_name: str) -> bytes:
    return (Path(__file__).parent / "golden" / f"{golden_name}.frame").read_bytes()
