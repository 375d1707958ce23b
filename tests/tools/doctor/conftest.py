"""A fleet's certificates, right and wrong, and real brokers with right and wrong rules."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.config import AgentConfig, DataConfig
from aggregator.config import AggregatorConfig
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from tools.doctor.plan import GROUPS
from tools.doctor.runner import Group, run_group
from transport.broker import BrokerConfig, TlsConfig
from transport.control import RunAnnouncement, TrainingPlan

ACL = Path(__file__).parents[3] / "broker_config" / "acl"
NOW = datetime.now(tz=timezone.utc)
DAY = timedelta(days=1)
# Options of the broker's configuration that the tests break one by one.
RULES = {
    "allow_anonymous": "false",
    "require_certificate": "true",
    "use_identity_as_username": "true",
    "use_username_as_clientid": "true",
    "max_packet_size": "262144",
    "max_inflight_messages": "64",
}


class Authority:
    """Signs certificates with any name and any validity."""

    def __init__(self, folder: Path, *, ends: datetime = NOW + 3650 * DAY) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a fleet")])
        self.certificate = (
            self._builder(name, self.key, ends=ends)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    @staticmethod
    def _builder(
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        ends: datetime,
        begins: datetime = NOW - DAY,
    ) -> x509.CertificateBuilder:
        begins = min(begins, ends - DAY)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    def sign(
        self,
        file: str,
        *,
        common_name: str | None = None,
        begins: datetime = NOW - DAY,
        ends: datetime = NOW + 365 * DAY,
        is_server: bool = False,
        hosts: Sequence[str] = ("localhost",),
    ) -> tuple[Path, Path]:
        """Write a certificate and its key and return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or file)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            self._builder(name, key, begins=begins, ends=ends)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if is_server:
            names = [x509.DNSName(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        paths = self.folder / f"{file}.crt", self.folder / f"{file}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths

    def revoke(self, *certificates: Path, next_update: datetime = NOW + 30 * DAY) -> Path:
        """Write a list of revocations that names these certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(min(NOW, next_update) - DAY)
            .next_update(next_update)
        )
        for path in certificates:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
            )
        crl = builder.sign(self.key, hashes.SHA256())
        path = self.folder / "crl.pem"
        path.write_bytes(crl.public_bytes(Encoding.PEM))
        return path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("fleet"))
    for name in ("dev-1", "coord", "operator"):
        made.sign(name)
    made.sign("broker", is_server=True)
    return made


@pytest.fixture
def new_authority(tmp_path: Path) -> Callable[..., Authority]:
    """Makes further authorities, each in a folder of its own."""
    count = iter(range(100))
    return lambda **how: Authority(tmp_path / f"authority-{next(count)}", **how)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Broker:
    """A mosquitto that is running."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def start_broker(tmp_path: Path, authority: Authority) -> Iterator[Callable[..., Broker]]:
    """Starts brokers whose rules are the fleet's but for what is said; they end with the test."""
    mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    running: list[Broker] = []

    def start(
        *,
        acl: str | None = "the fleet's",
        certificate: str = "broker",
        certificates: Authority = authority,
        tls: bool = True,
        **changes: str,
    ) -> Broker:
        port, folder = _free_port(), tmp_path / f"broker-{len(running)}"
        folder.mkdir()
        # Started as root it would become a user of its own, who cannot read the test's files.
        lines = [f"user {getpass.getuser()}", f"listener {port} 127.0.0.1"]
        rules = {name: RULES[name] for name in ("allow_anonymous", "max_packet_size")}
        if tls:
            rules = dict(RULES)
            lines += [
                f"cafile {certificates.ca}",
                f"certfile {certificates.folder / certificate}.crt",
                f"keyfile {certificates.folder / certificate}.key",
            ]
        if acl is not None:
            (folder / "acl").write_text(ACL.read_text() if acl == "the fleet's" else acl)
            lines.append(f"acl_file {folder / 'acl'}")
        rules |= changes
        lines += [f"{name} {value}" for name, value in rules.items()]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [mosquitto, "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        running.append(Broker(port, process, folder / "log"))
        give_up = time.monotonic() + 20
        while not _answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up, "mosquitto does not listen"
            time.sleep(0.02)
        return running[-1]

    yield start
    for broker in running:
        broker.stop()


@pytest.fixture
def agent_config(tmp_path: Path, authority: Authority) -> Callable[..., AgentConfig]:
    """Makes an agent's configuration; its state folder is there, its text as well."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "example number {i}"}}\n' for i in range(100)))

    def make(
        *,
        broker: Broker | None = None,
        name: str = "dev-1",
        tls: TlsConfig | str | None = "the fleet's",
        broker_options: dict[str, Any] | None = None,
        **changes: Any,
    ) -> AgentConfig:
        if isinstance(tls, str):
            folder = authority.folder
            tls = TlsConfig(
                ca_file=authority.ca,
                cert_file=folder / f"{name}.crt",
                key_file=folder / f"{name}.key",
            )
        settings = {"host": "localhost", "port": broker.port if broker else 1, "tls": tls}
        fields: dict[str, Any] = {
            "federation": "demo",
            "client_id": name,
            "state_dir": state,
            "data": DataConfig(train=text),
            "broker": BrokerConfig(**settings | (broker_options or {})),
        }
        return AgentConfig(**fields | changes)

    return make


@pytest.fixture
def aggregator_config(
    agent_config: Callable[..., AgentConfig], tmp_path: Path
) -> Callable[..., AggregatorConfig]:
    """Makes an aggregator's configuration."""

    def make(*, broker: Broker | None = None, **changes: Any) -> AggregatorConfig:
        agent = agent_config(broker=broker, name="coord")
        fields: dict[str, Any] = {
            "federation": "demo",
            "state_dir": agent.state_dir,
            "initial_adapter": tmp_path / "initial",
            "broker": agent.broker,
        }
        return AggregatorConfig(**fields | changes)

    return make


@pytest.fixture
def examine() -> Callable[..., dict[str, Finding]]:
    """Runs the group that has a check and returns its findings by name."""

    def run(check: str, context: Context) -> dict[str, Finding]:
        (group,) = (group for group in GROUPS if check in group.names)
        found = list(run_group(group, context))
        assert {finding.check for finding in found} == set(group.names)
        return {finding.check: finding for finding in found}

    return run


@pytest.fixture
def group() -> type[Group]:
    return Group


@pytest.fixture
def states() -> Callable[[dict[str, Finding]], dict[str, str]]:
    """Returns the state of each check that is not OK."""
    return lambda found: {
        name: one.state.value for name, one in found.items() if one.state is not State.OK
    }


@pytest.fixture
def run() -> RunAnnouncement:
    return RunAnnouncement(
        run="0123456789abcdef" * 2,
        base_model="tiny",
        base_digest="ab" * 32,
        layout_digest="cd" * 32,
        codec="fstq-r",
        rounds=20,
        segment_bytes=65_536,
        plan=TrainingPlan(max_tokens=16),
    )


class OldBroker(threading.Thread):
    """Speaks MQTT 3.1.1 alone, knows no rules, and tells everybody everything, or nothing."""

    def __init__(self, *, echoes: bool) -> None:
        super().__init__(daemon=True)
        self._echoes = echoes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.start()

    def run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as stream:
            while first := stream.read(1):
                length = shift = 0
                while (byte := stream.read(1)[0]) & 0x80:
                    length |= (byte & 0x7F) << shift
                    shift += 7
                body = stream.read(length | byte << shift)
                match first[0] >> 4:
                    case 1:
                        sock.sendall(bytes((0x20, 2, 0, 0 if body[6] == 4 else 1)))
                        if body[6] != 4:
                            return
                    case 3:
                        end = 2 + int.from_bytes(body[:2], "big")
                        if self._echoes and len(body) < 120:
                            again = body[:end] + body[end + 2 :]
                            sock.sendall(bytes((0x30, len(again))) + again)
                        sock.sendall(bytes((0x40, 2)) + body[end : end + 2])
                    case 8:
                        sock.sendall(bytes((0x90, 3)) + body[:2] + b"\0")
                    case 10:
                        sock.sendall(bytes((0xB0, 2)) + body[:2])
                    case 12:
                        sock.sendall(bytes((0xD0, 0)))
                    case 14:
                        return


@pytest.fixture
def old_broker() -> Iterator[Callable[..., int]]:
    """Starts brokers that speak MQTT 3.1.1 alone; returns their ports."""
    started: list[OldBroker] = []

    def start(*, echoes: bool) -> int:
        started.append(OldBroker(echoes=echoes))
        return started[-1].port

    yield start
    for broker in started:
        broker.stop()
        broker.join(10)
