"""The broker's checks against real brokers: all is well on a right one, and each fault is found."""

from __future__ import annotations

import fcntl
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from tools.doctor.context import Answer, Context
from tools.doctor.door import Door
from tools.doctor.finding import Finding, State
from tools.doctor.mqtt_packets import Version
from tools.doctor.mqtt_session import FAILURE, Session
from transport import control
from transport.broker import TlsConfig
from transport.control import RunAnnouncement
from transport.sockets import tls_context
from transport.topics import Command, CoordRun, Topics

pytestmark = pytest.mark.broker

Examine = Callable[..., dict[str, Finding]]
States = Callable[[dict[str, Finding]], dict[str, str]]
NOW = datetime.now(tz=timezone.utc)
DAY = timedelta(days=1)
FLEET_ACL = (Path(__file__).parents[3] / "broker_config/acl").read_text()


@pytest.fixture
def device_finds(
    start_broker: Callable[..., Any], agent_config: Callable[..., AgentConfig], examine: Examine
) -> Examine:
    """What a device's checks find at a broker that is started with these options."""
    return lambda **options: examine(
        "acl-own", Context(agent_config(broker=start_broker(**options)))
    )


def test_all_is_well_for_a_device_on_a_right_broker(device_finds: Examine, states: States) -> None:
    found = device_finds()
    # Nobody announces a run there.
    assert states(found) == {"run": "WARN"}, found


def test_all_is_well_for_an_aggregator_on_a_right_broker(
    start_broker: Callable[..., Any],
    aggregator_config: Callable[..., AggregatorConfig],
    examine: Examine,
    states: States,
) -> None:
    found = examine("acl-own", Context(aggregator_config(broker=start_broker())))
    assert states(found) == {}, found


def test_without_rules_everything_that_must_be_forbidden_is_found_to_pass(
    device_finds: Examine, states: States
) -> None:
    found = device_finds(acl=None)
    assert states(found) == {
        "acl-publish": "FAIL",
        "acl-read": "FAIL",
        "acl-name": "SKIP",
        "run": "WARN",
    }
    assert "can speak for others" in found["acl-publish"].text
    assert "acl_file" in found["acl-publish"].mend


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("pattern read flx/v1/+/up/%u/#", {"acl-read": "FAIL"}),
        ("pattern write fl/v1/+/coord/run", {"acl-publish": "FAIL"}),
        ("pattern write flx/v1/+/up/+/+/m", {"acl-publish": "FAIL"}),
        ("pattern write fl/v1/+/d/%u/cmd/train/+", {"acl-publish": "FAIL"}),
    ],
)
def test_one_rule_too_much_is_found(
    rule: str, broken: dict[str, str], device_finds: Examine, states: States
) -> None:
    found = device_finds(acl=FLEET_ACL.replace("pattern write", f"{rule}\npattern write", 1))
    assert states(found) == broken | {"run": "WARN"}


def test_rules_that_shut_the_device_out_are_found(device_finds: Examine) -> None:
    found = device_finds(acl="user nobody\ntopic readwrite #\n")
    assert found["acl-own"].state is State.FAIL
    assert "client_id must be the certificate's CN" in found["acl-own"].mend
    assert found["acl-publish"].state is State.OK


def test_rules_that_name_one_federation_are_tried_in_it(
    device_finds: Examine, states: States
) -> None:
    rules = FLEET_ACL.replace("/v1/+/", "/v1/demo/")
    assert states(device_finds(acl=rules)) == {"run": "WARN", "packet-size": "SKIP"}
    found = device_finds(acl=rules.replace("d/%u/", "d/+/"))
    assert found["acl-publish"].state is State.FAIL


@pytest.mark.parametrize("bound", ["false", "true"])
def test_a_broker_that_takes_strangers_is_found(
    bound: str, device_finds: Examine, states: States
) -> None:
    found = device_finds(
        allow_anonymous="true",
        require_certificate="false",
        use_identity_as_username="false",
        use_username_as_clientid=bound,
    )
    assert states(found)["acl-anonymous"] == "FAIL"


def test_a_broker_that_takes_any_client_id_is_found(device_finds: Examine, states: States) -> None:
    found = device_finds(use_username_as_clientid="false")
    assert states(found) == {"acl-client-id": "FAIL", "run": "WARN"}
    assert "use_username_as_clientid" in found["acl-client-id"].mend


def test_a_broker_that_believes_a_claimed_user_name_is_found(device_finds: Examine) -> None:
    found = device_finds(
        use_identity_as_username="false",
        use_username_as_clientid="false",
        allow_anonymous="true",
    )
    assert found["acl-own"].state is State.FAIL
    assert found["acl-name"].state is State.FAIL
    assert "not its certificate" in found["acl-name"].text


def test_small_packets_are_found(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    aggregator_config: Callable[..., AggregatorConfig],
    examine: Examine,
    states: States,
) -> None:
    broker = start_broker(max_packet_size="50000")
    found = examine("acl-own", Context(agent_config(broker=broker)))
    assert states(found) == {"broker-limits": "WARN", "packet-size": "SKIP", "run": "WARN"}
    found = examine("acl-own", Context(aggregator_config(broker=broker)))
    assert found["broker-limits"].state is State.FAIL


@pytest.mark.parametrize(
    ("options", "broken"),
    [
        pytest.param(
            {"message_size_limit": "60000"}, {"packet-size": "FAIL"}, id="drops large messages"
        ),
        pytest.param({"max_inflight_messages": "4"}, {"broker-limits": "WARN"}, id="few at once"),
    ],
)
def test_a_limit_that_is_too_low_is_found(
    options: dict[str, str], broken: dict[str, str], device_finds: Examine, states: States
) -> None:
    assert states(device_finds(**options)) == broken | {"run": "WARN"}


def login(authority: Any, name: str, **how: Any) -> TlsConfig:
    """What a service logs in with that believes the authority which signed its certificate."""
    cert, key = authority.sign(name, **how)
    return TlsConfig(ca_file=authority.ca, cert_file=cert, key_file=key)


def test_a_certificate_that_has_ended_is_refused_by_the_broker(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    new_authority: Callable[..., Any],
    examine: Examine,
) -> None:
    authority = new_authority()
    authority.sign("broker", is_server=True)
    tls = login(authority, "dev-1", ends=NOW - DAY)
    broker = start_broker(certificates=authority)
    context = Context(agent_config(broker=broker, tls=tls))
    found = examine("acl-own", context)
    assert found["broker-tls"].state is State.FAIL
    assert "expired" in found["broker-tls"].text
    assert found["acl-publish"].state is State.SKIP
    assert "first mend broker-tls" in found["acl-publish"].text
    assert examine("certificate-valid", context)["certificate-valid"].state is State.FAIL


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ends": NOW - DAY}, "has ended"),
        ({"begins": NOW + DAY}, "not valid yet"),
        ({"hosts": ("elsewhere.example",)}, "is not for localhost"),
    ],
)
def test_a_brokers_certificate_that_is_wrong_is_found(
    how: dict[str, Any],
    said: str,
    *,
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    new_authority: Callable[..., Any],
    examine: Examine,
) -> None:
    authority = new_authority()
    authority.sign("broker", is_server=True, **how)
    tls = login(authority, "dev-1")
    broker = start_broker(certificates=authority)
    found = examine("acl-own", Context(agent_config(broker=broker, tls=tls)))
    assert found["broker-tls"].state is State.FAIL
    assert said in found["broker-tls"].text
    assert found["broker-login"].state is State.SKIP


def test_another_authority_is_found_on_either_side(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    authority: Any,
    new_authority: Callable[..., Any],
    examine: Examine,
) -> None:
    broker = start_broker()
    ours = login(new_authority(), "dev-1")
    found = examine("acl-own", Context(agent_config(broker=broker, tls=ours)))
    assert "did not sign the broker's certificate" in found["broker-tls"].text
    half = ours.model_copy(update={"ca_file": authority.ca})
    found = examine("acl-own", Context(agent_config(broker=broker, tls=half)))
    assert found["broker-tls"].state is State.FAIL
    assert "refused this service's certificate" in found["broker-tls"].text


def test_a_wrong_name_is_found(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    authority: Any,
    examine: Examine,
) -> None:
    tls = login(authority, "another", common_name="dev-7")
    found = examine("acl-own", Context(agent_config(broker=start_broker(), tls=tls)))
    assert found["acl-own"].state is State.FAIL


def test_a_broker_without_tls_is_told_from_one_with_it(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
) -> None:
    broker = start_broker(tls=False, allow_anonymous="true")
    found = examine("acl-own", Context(agent_config(broker=broker)))
    assert "broke the handshake off" in found["broker-tls"].text
    assert "broker.port" in found["broker-tls"].mend
    found = examine("acl-own", Context(agent_config(broker=broker, tls=None)))
    assert found["broker-tls"].state is State.WARN
    assert found["broker-certificate"].state is State.SKIP
    assert found["acl-anonymous"].state is State.FAIL


def test_a_wrong_password_is_tried_where_the_login_has_one(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
    tmp_path: Path,
) -> None:
    users, secret = tmp_path / "users", tmp_path / "secret"
    subprocess.run(["mosquitto_passwd", "-b", "-c", users, "dev-1", "right"], check=True)
    users.chmod(0o600)
    secret.write_text("right\n")
    broker = start_broker(tls=False, password_file=str(users))
    options = {"username": "dev-1", "password_file": secret}
    found = examine(
        "acl-own", Context(agent_config(broker=broker, tls=None, broker_options=options))
    )
    assert found["broker-login"].state is State.OK
    assert found["acl-name"].state is State.OK
    secret.write_text("wrong\n")
    found = examine(
        "acl-own", Context(agent_config(broker=broker, tls=None, broker_options=options))
    )
    assert found["broker-login"].state is State.FAIL


def test_no_broker_and_no_name_are_one_line_each(
    agent_config: Callable[..., AgentConfig], examine: Examine
) -> None:
    found = examine("acl-own", Context(agent_config()))
    assert found["broker-tcp"].state is State.FAIL
    assert "no broker listens there" in found["broker-tcp"].text
    options = {"host": "no-such-host.invalid"}
    found = examine("acl-own", Context(agent_config(broker_options=options)))
    assert found["broker-dns"].state is State.FAIL
    assert found["broker-tcp"].state is State.SKIP


def _cut(door: Door, name: str) -> Session:
    session = door.session(Version.V5)
    session.connect(name, clean_start=False, session_expiry_s=3600)
    return session


def test_a_session_that_was_not_there_is_not_left_behind(
    start_broker: Callable[..., Any], agent_config: Callable[..., AgentConfig], examine: Examine
) -> None:
    config = agent_config(broker=start_broker())
    examine("acl-own", Context(config))
    session = _cut(Door(config.broker), "dev-1")
    assert session.answer is not None
    assert not session.answer.session_present
    session.leave(keep_session=False)


def test_the_services_own_session_and_what_waits_in_it_stay(
    start_broker: Callable[..., Any], agent_config: Callable[..., AgentConfig], examine: Examine
) -> None:
    """A command that waited for the device before the doctor came is delivered after it left."""
    broker = start_broker()
    config, coord = agent_config(broker=broker), agent_config(broker=broker, name="coord")
    topics = Topics("demo")
    came: queue.Queue[str] = queue.Queue()
    with _device(config, came) as device:
        subscribed = threading.Event()
        device.on_subscribe = lambda *_: subscribed.set()
        device.subscribe(topics.agent_filters("dev-1")[2], qos=1)
        assert subscribed.wait(20)
    sender = _cut(Door(coord.broker), "coord")
    command = topics.topic(Command("dev-1", "train", "1"))
    assert sender.publish(command, b"{}") < FAILURE
    sender.leave(keep_session=False)
    found = examine("acl-own", Context(config))
    assert found["acl-client-id"].state is State.OK
    with _device(config, came):
        assert came.get(timeout=20) == command


def _client(config: AgentConfig, name: str) -> paho.Client:
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
    )
    assert config.broker.tls is not None
    client.tls_set_context(tls_context(config.broker.tls))
    return client


@contextmanager
def _device(config: AgentConfig, came: queue.Queue[str]) -> Iterator[paho.Client]:
    """The device's own client, whose session outlives it."""
    client = _client(config, "dev-1")
    client.on_message = lambda _client, _userdata, message: came.put(message.topic)
    keep = Properties(PacketTypes.CONNECT)
    keep.SessionExpiryInterval = 3600
    client.connect(*config.broker.address, clean_start=False, properties=keep)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def test_the_announced_run_is_noted(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
    states: States,
    run: RunAnnouncement,
) -> None:
    broker = start_broker()
    announce(agent_config(broker=broker, name="coord"), control.encode(run))
    context = Context(agent_config(broker=broker))
    assert states(examine("run", context)) == {}
    assert context.known.run == run
    announce(agent_config(broker=broker, name="coord"), b'{"run": 7}')
    assert states(examine("run", Context(agent_config(broker=broker)))) == {"run": "FAIL"}


def announce(coord: AgentConfig, payload: bytes) -> None:
    """Publish a retained run announcement as the aggregator."""
    client = _client(coord, "coord")
    client.connect(*coord.broker.address)
    client.loop_start()
    sent = client.publish(Topics("demo").topic(CoordRun()), payload, qos=1, retain=True)
    sent.wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


@pytest.fixture
def running(agent_config: Callable[..., AgentConfig]) -> Iterator[Callable[[], None]]:
    """A service that holds the lock of its state folder; the function ends it."""
    descriptor = os.open(agent_config().state_dir / "agent.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    held = [descriptor]
    yield lambda: os.close(held.pop())
    for left in held:
        os.close(left)


def test_a_service_that_runs_is_left_alone(
    running: Callable[[], None],
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
) -> None:
    assert running
    found = examine("acl-own", Context(agent_config(broker=start_broker())))
    assert found["acl-anonymous"].state is State.OK
    assert found["broker-login"].state is State.SKIP
    assert "--take-over" in found["broker-login"].mend
    assert found["acl-publish"].state is State.SKIP


def test_a_service_is_stopped_only_when_asked_and_started_again(
    running: Callable[[], None],
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
    states: States,
) -> None:
    asked: list[Sequence[str]] = []

    def ask(command: Sequence[str]) -> Answer:
        asked.append(command)
        if "stop" in command:
            running()
        return Answer(0, "")

    context = Context(agent_config(broker=start_broker()), ask=ask, take_over=True)
    found = examine("acl-own", context)
    assert states(found) == {"run": "WARN"}
    unit = "fedfstq-agent@dev-1.service"
    assert asked == [["systemctl", "stop", unit], ["systemctl", "start", unit]]
    assert context.known.stopped == []


def test_a_service_that_cannot_be_stopped_is_left_alone(
    running: Callable[[], None],
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
) -> None:
    assert running
    context = Context(
        agent_config(broker=start_broker()), ask=lambda _: Answer(5, ""), take_over=True
    )
    assert examine("acl-own", context)["broker-login"].state is State.SKIP
    assert context.known.stopped == []


def test_a_broker_of_mqtt_3_1_1_without_rules_is_found_by_what_comes_back(
    old_broker: Callable[..., int],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
) -> None:
    options = {"port": old_broker(echoes=True), "mqtt_version": "3.1.1"}
    config = agent_config(tls=None, broker_options=options)
    found = examine("acl-own", Context(config))
    assert found["broker-login"].state is State.OK
    assert found["acl-publish"].state is State.FAIL
    assert found["acl-read"].state is State.FAIL
    assert found["acl-own"].state is State.SKIP


def test_a_broker_of_mqtt_3_1_1_that_is_silent_proves_little(
    old_broker: Callable[..., int],
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
) -> None:
    options = {"port": old_broker(echoes=False)}
    found = examine("acl-own", Context(agent_config(tls=None, broker_options=options)))
    assert found["broker-login"].state is State.FAIL  # the service speaks 5
    assert "3.1.1" in found["broker-login"].mend
    assert found["acl-publish"].state is State.WARN


def test_a_revoked_certificate_is_refused_and_the_line_says_so(
    start_broker: Callable[..., Any],
    agent_config: Callable[..., AgentConfig],
    new_authority: Callable[..., Any],
    examine: Examine,
) -> None:
    authority = new_authority()
    authority.sign("broker", is_server=True)
    tls = login(authority, "dev-1")
    crl = authority.revoke(tls.cert_file)
    broker = start_broker(certificates=authority, crlfile=str(crl))
    found = examine("acl-own", Context(agent_config(broker=broker, tls=tls)))["broker-tls"]
    assert found.state is State.FAIL
    assert "revoked" in found.text
    assert "renew" in found.mend
