"""A real mosquitto on a free port with this repository's configuration, and clients to try it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tools.init.certificates import Login as Named
from tools.init.certificates import Pair, Validity, new_serial, sign
from tools.init.fleet import Role
from tools.init.operations import FleetWish, add_devices, add_person, make_fleet

FOLDER = Path(__file__).parents[2] / "broker_config"
DYNAMIC_SECURITY = "dynamic-security"
PLUGIN = Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")
WAIT_S = 20.0


def _wait(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, f"waited {WAIT_S} s for {what}"
        time.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Broker:
    """A mosquitto that runs one of our configurations from a copy with other paths and port."""

    def __init__(self, folder: Path, *, config: str, fleet: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.certificates = folder / "certs"
        self.fleet = fleet
        self.tls = config != "mosquitto-dev.conf"
        self.acl = folder / "acl"
        _flatten(fleet, self.certificates)
        source = fleet / "broker" if self.tls else FOLDER
        shutil.copy(source / ("acl" if self.tls else "acl-dev"), self.acl)
        shutil.copy(fleet / "broker" / "dynamic-security.json", folder)
        text = (source / ("mosquitto.conf" if self.tls else config)).read_text()
        if config == DYNAMIC_SECURITY:
            option = f"plugin_opt_config_file {folder}/dynamic-security.json"
            text = text.replace("acl_file /etc/mosquitto/acl", f"plugin {PLUGIN}\n{option}")
        for ours, here in (
            ("/etc/mosquitto/acl", f"{self.acl}"),
            ("broker_config/acl-dev", f"{self.acl}"),
            ("/etc/mosquitto/certs", f"{self.certificates}"),
            ("/var/lib/mosquitto/", f"{folder}/"),
            ("demo-out/", f"{folder}/"),
            ("listener 8883", f"listener {self.port} 127.0.0.1"),
            ("listener 1883 127.0.0.1", f"listener {self.port} 127.0.0.1"),
        ):
            text = text.replace(ours, here)
        # As root, mosquitto would become a user that cannot read the test's folder.
        text += f"\nuser {pwd.getpwuid(os.geteuid()).pw_name}\n"
        self.config = folder / "mosquitto.conf"
        self.config.write_text(text)
        self.start()

    def start(self) -> None:
        mosquitto = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert mosquitto is not None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([mosquitto, "-c", self.config], stderr=log)
        _wait(lambda: self._process.poll() is not None or _answers(self.port), "the broker")
        assert self._process.poll() is None, self.log()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT_S)

    def reload(self) -> None:
        """Have the broker read its ACL and certificates again, the fleet's newest ones."""
        _flatten(self.fleet, self.certificates)
        # Reading the ACL warns about its six patterns without %u; the broker, a single thread,
        # serves clients again only after the last line.
        seen = self.log().count("ACL pattern")
        self._process.send_signal(signal.SIGHUP)
        _wait(lambda: self.log().count("ACL pattern") == seen + 6, "the reload")

    def log(self) -> str:
        return (self.folder / "log").read_text()


class Login:
    """An MQTT client that logs in as one user: by certificate, or by bare name without TLS."""

    def __init__(
        self,
        broker: Broker,
        user: str | None,
        *,
        client_id: str | None = None,
        version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5,
        certificates: Path | None = None,
        will: str | None = None,
    ) -> None:
        self.outcome = ""  # how the login went: "Success", a refusal's name, or "closed"
        self.ended = False
        self.received: list[tuple[str, bytes]] = []
        self._acknowledged: dict[int, ReasonCode] = {}
        self._subscribed = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or user or "",
            protocol=version,
            reconnect_on_failure=False,
        )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        if will is not None:
            self._client.will_set(will, b"will", qos=1)
        if broker.tls:
            folder = certificates or broker.certificates
            pair = (f"{folder}/{user}.crt", f"{folder}/{user}.key") if user else (None, None)
            self._client.tls_set(f"{broker.certificates}/ca.crt", *pair)
        elif user is not None:
            self._client.username_pw_set(user)
        try:
            self._client.connect("127.0.0.1", broker.port)
        except OSError:
            self.outcome = "closed"
            return
        self._client.loop_start()
        _wait(lambda: bool(self.outcome), f"an answer to {user}")

    def _on_connect(
        self, _c: Client, _u: object, _f: ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        self.outcome = code.getName()

    def _on_disconnect(
        self, _c: Client, _u: object, _f: DisconnectFlags, _r: ReasonCode, _p: Properties | None
    ) -> None:
        self.outcome = self.outcome or "closed"
        self.ended = True

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def _on_publish(
        self, _c: Client, _u: object, mid: int, code: ReasonCode, _p: Properties | None
    ) -> None:
        self._acknowledged[mid] = code

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> bool:
        """Publish with QoS 1 and return whether the acknowledgement says that it went through."""
        mid = self._client.publish(topic, payload, qos=1, retain=retain).mid
        _wait(lambda: mid in self._acknowledged or self.ended, f"the acknowledgement of {topic}")
        return mid in self._acknowledged and not self._acknowledged[mid].is_failure

    def subscribe(self, topic_filter: str) -> None:
        self._subscribed.clear()
        self._client.subscribe(topic_filter, qos=1)
        _wait(self._subscribed.is_set, f"the subscription to {topic_filter}")

    def wait_for(self, topic: str) -> None:
        _wait(lambda: any(seen == topic for seen, _ in self.received), f"a message on {topic}")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        _wait(condition, "what should have been received")

    def wait_ended(self) -> None:
        _wait(lambda: self.ended, "the broker to end the connection")

    def leave_with_will(self) -> None:
        """Leave in the way that makes an MQTT 5 broker publish the will at once."""
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        self.wait_ended()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _flatten(fleet: Path, folder: Path) -> None:
    """Copy every key and certificate of a fleet into one folder."""
    folder.mkdir(exist_ok=True)
    for pattern in (
        "ca.crt",
        "crl.pem",
        "*/*.crt",
        "*/*.key",
        "devices/*/*.crt",
        "devices/*/*.key",
    ):
        for file in fleet.glob(pattern):
            shutil.copy(file, folder)


def _make_fleet(path: Path) -> Path:
    now = datetime.now(timezone.utc)
    make_fleet(path, FleetWish(federation="demo", hosts=("localhost", "127.0.0.1")), now=now)
    add_devices(path, ["dev-1", "dev-2"], changes=(), now=now)
    add_person(path, "alice", Role.OPERATOR, now=now)
    return path


@pytest.fixture(scope="session")
def _fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make_fleet(tmp_path_factory.mktemp("fleet") / "demo")


@pytest.fixture
def fleet(_fleet: Path, tmp_path: Path) -> Path:
    """A fleet of two devices, as `fedfstq init` makes it, to be changed at will."""
    return shutil.copytree(_fleet, tmp_path / "fleet")


@pytest.fixture(scope="session")
def foreign_certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates with the same names from another authority."""
    folder = tmp_path_factory.mktemp("foreign")
    _flatten(_make_fleet(folder / "demo"), folder)
    return folder


@pytest.fixture
def expired_certificates(fleet: Path, tmp_path: Path) -> Path:
    """The first device's certificate, which the fleet's own authority let end yesterday."""
    authority = Pair((fleet / "ca.key").read_bytes(), (fleet / "ca.crt").read_bytes())
    now = datetime.now(timezone.utc).replace(microsecond=0)
    validity = Validity(now - timedelta(days=9), now - timedelta(days=1))
    folder = tmp_path / "expired"
    folder.mkdir()
    key = (fleet / "devices" / "dev-1" / "dev-1.key").read_bytes()
    signed = sign(Named("dev-1"), key, authority=authority, serial=new_serial(), validity=validity)
    (folder / "dev-1.key").write_bytes(key)
    (folder / "dev-1.crt").write_bytes(signed)
    return folder


@pytest.fixture
def start_broker(tmp_path: Path, fleet: Path) -> Iterator[Callable[..., Broker]]:
    """Starts mosquitto with one of our configurations; stops it after the test."""
    if shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        pytest.skip("needs mosquitto")
    brokers: list[Broker] = []

    def start(config: str, *, of: Path = fleet) -> Broker:
        brokers.append(Broker(tmp_path, config=config, fleet=of))
        return brokers[-1]

    yield start
    for broker in brokers:
        broker.stop()


@pytest.fixture
def production(start_broker: Callable[..., Broker]) -> Broker:
    return start_broker("mosquitto.conf")


@pytest.fixture(params=["mosquitto.conf", "mosquitto-dev.conf"])
def either(start_broker: Callable[..., Broker], request: pytest.FixtureRequest) -> Broker:
    return start_broker(request.param)


@pytest.fixture(params=["mosquitto.conf", "mosquitto-dev.conf", DYNAMIC_SECURITY])
def any_rules(start_broker: Callable[..., Broker], request: pytest.FixtureRequest) -> Broker:
    """A broker with each form of the rules that there is."""
    if request.param == DYNAMIC_SECURITY and not PLUGIN.exists():
        pytest.skip("needs Mosquitto's plugin for dynamic security")
    return start_broker(request.param)


@pytest.fixture
def login() -> Iterator[Callable[..., Login]]:
    """Logs a client in; closes it after the test."""
    clients: list[Login] = []

    def log_in(broker: Broker, user: str | None, **how: object) -> Login:
        clients.append(Login(broker, user, **how))  # type: ignore[arg-type]
        return clients[-1]

    yield log_in
    for client in clients:
        client.close()
