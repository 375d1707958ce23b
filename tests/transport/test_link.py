"""The link against a real mosquitto, and one test against the embedded amqtt."""

from __future__ import annotations

import asyncio
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from transport import link as link_module
from transport.broker import BrokerConfig, TlsConfig
from transport.errors import (
    BadLinkConfig,
    BrokerUnreachable,
    LinkLost,
    LoginRefused,
    Loss,
    PublishingRefused,
    SessionTakenOver,
)
from transport.link import Delivery, Link, LinkDown, LinkRefused, LinkUp, Publication
from transport.pulse import TURN_S
from transport.wire import publish_size

E = TypeVar("E")
WAIT_S = 15.0
Versions = pytest.mark.parametrize("version", ["3.1.1", "5"])
broker_test = pytest.mark.broker


@pytest.fixture
def make_link() -> Iterator[Callable[..., Link]]:
    """Opens links, and closes those that a test leaves open."""
    links: list[Link] = []

    def make(broker: BrokerConfig, client_id: str = "dev", *filters: str, **options: Any) -> Link:
        links.append(Link(broker, client_id=client_id, subscriptions=filters, **options))
        links[-1].open()
        return links[-1]

    yield make
    for one in links:
        one.close()


def next_event(link: Link, kind: type[E]) -> E:
    """The next event of this kind; others before it are skipped."""
    deadline = time.monotonic() + WAIT_S
    while True:
        event = link.events.get(timeout=max(0.01, deadline - time.monotonic()))
        if isinstance(event, kind):
            return event


def no_event(link: Link, kind: type[Any], *, for_s: float = 0.3) -> bool:
    deadline = time.monotonic() + for_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            if isinstance(link.events.get(timeout=left), kind):
                return False
        except queue.Empty:
            return True
    return True


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@broker_test
@Versions
def test_what_is_published_is_delivered(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    link = make_link(mosquitto.config(mqtt_version=version), "dev", "a/+")
    link.wait_connected(WAIT_S)
    assert next_event(link, LinkUp) == LinkUp(session_present=False)
    assert link.connected
    assert link.alive
    for qos in (0, 1):
        link.publish(Publication("a/b", b"payload", qos=qos))
        delivery = next_event(link, Delivery)
        assert (delivery.topic, delivery.payload, delivery.qos) == ("a/b", b"payload", qos)
        link.acknowledge(delivery)
    size = sum(publish_size("a/b", 7, qos=qos, mqtt_version=version) for qos in (0, 1))  # type: ignore[arg-type]
    assert (link.bytes_sent, link.bytes_received) == (size, size)


@broker_test
def test_a_link_turns_while_it_is_up_and_while_it_waits_for_a_broker(
    mosquitto: Any, make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.link._REST_S", 0.05)
    link = make_link(mosquitto.config())
    link.wait_connected(WAIT_S)
    assert link.is_turning(time.monotonic())
    mosquitto.stop()
    next_event(link, LinkDown)
    # Whatever it is doing now, it comes around; it is late only by a clock that is far ahead.
    eventually(lambda: not link._pulse.is_late(time.monotonic() + TURN_S - 1.0))
    assert link.is_turning(time.monotonic())
    assert not link.is_turning(time.monotonic() + 3600.0)
    link.close()
    assert not link.is_turning(time.monotonic())


@broker_test
def test_a_link_whose_thread_hangs_turns_no_more(
    mosquitto: Any, make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = make_link(mosquitto.config())
    link.wait_connected(WAIT_S)
    hanging, release = threading.Event(), threading.Event()

    def hang(point: str) -> None:
        if point == "link-turn" and threading.current_thread() is link._thread:
            hanging.set()
            release.wait()

    monkeypatch.setattr("transport.connection.reach", hang)
    assert hanging.wait(WAIT_S)
    assert link.alive
    assert not link.is_turning(time.monotonic() + TURN_S)
    release.set()


@broker_test
def test_the_connection_has_the_socket_options_of_long_uploads(
    mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    link = make_link(mosquitto.config())
    link.wait_connected(WAIT_S)
    assert link._connection is not None
    sock = link._connection._client.socket()
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 45_000


@broker_test
@Versions
def test_many_segments_arrive_in_order_and_none_is_dropped(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    """More than paho's default queue, the broker's in-flight window and its acknowledgements."""
    link = make_link(mosquitto.config(mqtt_version=version), "dev", "s")
    link.wait_connected(WAIT_S)
    for index in range(300):
        link.publish(Publication("s", index.to_bytes(2, "big") * 8_000))
    for index in range(300):
        delivery = next_event(link, Delivery)
        assert delivery.payload[:2] == index.to_bytes(2, "big")
        link.acknowledge(delivery)


@broker_test
@Versions
def test_what_is_not_acknowledged_comes_again_with_the_persistent_session(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    config = mosquitto.config(mqtt_version=version)
    link = make_link(config, "dev", "a")
    link.wait_connected(WAIT_S)
    link.publish(Publication("a", b"first"))
    link.acknowledge(next_event(link, Delivery))
    link.publish(Publication("a", b"second"))
    assert next_event(link, Delivery).payload == b"second"
    link.close()
    again = make_link(config, "dev", "a")
    assert next_event(again, LinkUp) == LinkUp(session_present=True)
    delivery = next_event(again, Delivery)
    assert delivery.payload == b"second"
    again.acknowledge(delivery)
    assert no_event(again, Delivery)


@broker_test
@Versions
def test_what_was_sent_while_away_is_delivered_after_link_up(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    config = mosquitto.config(mqtt_version=version)
    link = make_link(config, "dev", "a")
    link.wait_connected(WAIT_S)
    link.close()
    other = make_link(config, "other")
    other.wait_connected(WAIT_S)
    other.publish(Publication("a", b"meanwhile"))
    other.close()
    again = make_link(config, "dev", "a")
    assert isinstance(again.events.get(timeout=WAIT_S), LinkUp)
    delivery = again.events.get(timeout=WAIT_S)
    assert isinstance(delivery, Delivery)
    assert delivery.payload == b"meanwhile"


@broker_test
@Versions
def test_a_broker_that_restarts_brings_link_down_and_up_with_the_subscriptions(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    """Without persistence the broker forgets everything; the link does not."""
    link = make_link(mosquitto.config(mqtt_version=version), "dev", "a")
    link.wait_connected(WAIT_S)
    link.subscribe("b")
    link.unsubscribe("a")
    mosquitto.stop()
    assert next_event(link, LinkDown).reason
    assert not link.connected
    with pytest.raises(LinkLost, match="not connected"):
        link.publish(Publication("b", b"lost"))
    link.subscribe("c")
    mosquitto.start()
    assert next_event(link, LinkUp) == LinkUp(session_present=False)
    for topic in ("a", "b", "c"):
        link.publish(Publication(topic, topic.encode()))
    assert [next_event(link, Delivery).topic for _ in range(2)] == ["b", "c"]
    assert no_event(link, Delivery)


@broker_test
@Versions
def test_what_the_broker_says_of_itself_waits_in_no_queue(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    """A session that is away would find its queue full of it."""
    link = make_link(mosquitto.config(mqtt_version=version), "dev", "$SYS/broker/version")
    delivery = next_event(link, Delivery)
    assert delivery.payload.startswith(b"mosquitto")
    assert delivery.qos == 0


@broker_test
@Versions
def test_a_late_acknowledgement_is_harmless(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    """The packet identifier of an earlier connection may belong to another message now."""
    link = make_link(mosquitto.config(mqtt_version=version), "dev", "a")
    link.wait_connected(WAIT_S)
    link.publish(Publication("a", b"old"))
    old = next_event(link, Delivery)
    mosquitto.stop()
    next_event(link, LinkDown)
    link.acknowledge(old)
    mosquitto.start()
    next_event(link, LinkUp)
    link.publish(Publication("a", b"new"))
    new = next_event(link, Delivery)
    assert (new.mid, new.payload) == (old.mid, b"new")
    assert new.generation > old.generation
    link.acknowledge(old)
    link.close()
    again = make_link(mosquitto.config(mqtt_version=version), "dev", "a")
    assert next_event(again, Delivery).payload == b"new"


@broker_test
@Versions
def test_an_unsubscription_while_away_reaches_the_session_that_the_broker_kept(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    config = mosquitto.config(mqtt_version=version)
    first = make_link(config, "dev", "a", "b")
    first.wait_connected(WAIT_S)
    first.close()
    link = Link(config, client_id="dev", subscriptions=("b",))
    link.unsubscribe("a")
    link.open()
    try:
        assert next_event(link, LinkUp) == LinkUp(session_present=True)
        for topic in ("a", "b"):
            link.publish(Publication(topic, b"x"))
        assert next_event(link, Delivery).topic == "b"
    finally:
        link.close()


@broker_test
@Versions
def test_after_a_cut_only_what_is_unacknowledged_comes_again(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    """An adapter whose retained segments had come does not come once more."""
    config = mosquitto.config(mqtt_version=version)
    sender = make_link(config, "coord")
    sender.wait_connected(WAIT_S)
    topics = [*(f"m/s/{index}" for index in range(30)), "state"]
    for sent in [sender._publish(Publication(name, bytes(500), retain=True)) for name in topics]:
        sent.wait_for_publish(WAIT_S)
    link = make_link(config, "dev", "state", receive_maximum=4)
    link.wait_connected(WAIT_S)
    link.subscribe("m/s/+")
    taken = {"state"}
    while len(taken) < 21:
        delivery = next_event(link, Delivery)
        taken.add(delivery.topic)
        link.acknowledge(delivery)
    link._publish(Publication("behind-the-acknowledgements", b"")).wait_for_publish(WAIT_S)
    cut(link)
    next_event(link, LinkUp)
    again = []
    while len(again) < 11:
        again.append(next_event(link, Delivery))
        link.acknowledge(again[-1])
    again += rest(link)
    assert sorted(delivery.topic for delivery in again) == sorted(
        ["state", *(f"m/s/{index}" for index in range(30) if f"m/s/{index}" not in taken)]
    )


@broker_test
@Versions
def test_a_broker_that_lost_the_session_brings_everything_again(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    config = mosquitto.config(mqtt_version=version)
    link = make_link(config, "dev")
    link.wait_connected(WAIT_S)
    link.subscribe("m/+")
    mosquitto.stop()
    mosquitto.start()
    sender = make_link(config, "coord")
    sender.wait_connected(WAIT_S)
    sender.publish(Publication("m/0", b"x", retain=True))
    assert next_event(link, Delivery).topic == "m/0"


@broker_test
@Versions
def test_a_process_that_begins_anew_gets_everything_although_the_session_is_known(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    """What the process before it was brought may have been lost with its memory."""
    config = mosquitto.config(mqtt_version=version)
    sender = make_link(config, "coord")
    sender.wait_connected(WAIT_S)
    sender.publish(Publication("m/0", b"x", retain=True))
    first = make_link(config, "dev")
    first.wait_connected(WAIT_S)
    first.subscribe("m/+")
    first.acknowledge(next_event(first, Delivery))
    first.close()
    second = make_link(config, "dev")
    second.subscribe("m/+")
    assert next_event(second, LinkUp) == LinkUp(session_present=True)
    assert next_event(second, Delivery).topic == "m/0"


def cut(link: Link) -> None:
    """Break the connection as a network does; the broker keeps the session."""
    connection = link._connection
    assert connection is not None
    sock = connection._client.socket()
    assert sock is not None
    sock.shutdown(socket.SHUT_RDWR)
    next_event(link, LinkDown)


def rest(link: Link, *, for_s: float = 0.5) -> list[Delivery]:
    """Everything that still comes."""
    deliveries = []
    deadline = time.monotonic() + for_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            event = link.events.get(timeout=left)
        except queue.Empty:
            break
        if isinstance(event, Delivery):
            deliveries.append(event)
            link.acknowledge(event)
    return deliveries


SILENT_CLIENT = """
import sys, time
from transport.broker import BrokerConfig
from transport.link import Link, Publication
broker = BrokerConfig(host="127.0.0.1", port=int(sys.argv[1]), mqtt_version=sys.argv[2])
will = Publication("will", b"gone", retain=True)
link = Link(broker, client_id="dev", subscriptions=(), will=will)
link.open()
link.wait_connected(10)
print("up", flush=True)
time.sleep(60)
"""


@broker_test
@Versions
def test_the_will_is_published_when_the_process_is_killed(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    watcher = make_link(mosquitto.config(mqtt_version=version), "watcher", "will")
    watcher.wait_connected(WAIT_S)
    with subprocess.Popen(
        [sys.executable, "-c", SILENT_CLIENT, str(mosquitto.port), version],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.kill(process.pid, signal.SIGKILL)
    assert next_event(watcher, Delivery).payload == b"gone"


@broker_test
@Versions
def test_closing_publishes_the_farewell_and_not_the_will(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    config = mosquitto.config(mqtt_version=version)
    watcher = make_link(config, "watcher", "status")
    watcher.wait_connected(WAIT_S)
    link = make_link(config, "dev", will=Publication("status", b"lost"))
    link.wait_connected(WAIT_S)
    link.close(farewell=Publication("status", b"offline"))
    assert not link.alive
    assert not link.connected
    assert next_event(watcher, Delivery).payload == b"offline"
    assert no_event(watcher, Delivery)
    with pytest.raises(LinkLost):
        link.publish(Publication("status", b"after"))
    link.close()


def kill_unread(mosquitto: Any, link: Link) -> None:
    """Publish to a broker that is stopped (SIGSTOP) and then killed: it saw none of it."""
    mosquitto.process.send_signal(signal.SIGSTOP)
    link.publish(Publication("kept", b"control", retain=True))
    link.publish(Publication("segment", bytes(8_192), retain=True))
    mosquitto.process.kill()
    mosquitto.process.send_signal(signal.SIGCONT)
    mosquitto.process.wait(10)
    next_event(link, LinkDown)
    mosquitto.start()
    next_event(link, LinkUp)


@broker_test
def test_what_may_be_outdated_is_repeated_only_when_asked(
    mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    link = make_link(mosquitto.config(), "dev", repeats_by_itself=False)
    link.wait_connected(WAIT_S)
    kill_unread(mosquitto, link)
    link.publish(Publication("fresh", b"1", retain=True))
    reader = make_link(mosquitto.config(), "reader", "kept", "fresh")
    assert next_event(reader, Delivery).payload == b"1"
    assert no_event(reader, Delivery)
    link.repeat()
    assert next_event(reader, Delivery).payload == b"control"
    link.repeat()
    assert no_event(reader, Delivery)


@broker_test
@Versions
def test_unacknowledged_control_messages_are_published_again_before_link_up(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    config = mosquitto.config(mqtt_version=version)
    link = make_link(config, "dev")
    link.wait_connected(WAIT_S)
    kill_unread(mosquitto, link)
    reader = make_link(config, "reader", "kept", "segment")
    assert next_event(reader, Delivery).payload == b"control"
    assert no_event(reader, Delivery)


@broker_test
def test_an_address_without_a_broker_is_unreachable_and_named(
    make_link: Callable[..., Link],
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    link = make_link(BrokerConfig(host="127.0.0.1", port=port))
    eventually(lambda: "refused" in link._last_failure)
    with pytest.raises(BrokerUnreachable, match=f"127.0.0.1:{port}.*refused.*broker.port") as error:
        link.wait_connected(0.01)
    assert "\n" not in str(error.value)
    assert link.alive, "it keeps trying"


@broker_test
@pytest.mark.parametrize("spread_s", [0.0, 1000.0])
def test_a_broker_that_comes_later_is_found(
    spread_s: float, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    """Nobody spreads what was never up: its operator waits for it."""
    mosquitto.stop()
    link = make_link(mosquitto.config(), spread_s=spread_s)
    eventually(lambda: "refused" in link._last_failure)
    mosquitto.start()
    link.wait_connected(WAIT_S)
    assert isinstance(link.events.get(timeout=WAIT_S), LinkUp)


@pytest.fixture
def guarded(mosquitto_with: Callable[..., Any], tmp_path: Path) -> Any:
    """A broker with one user, "dev", whose password is "right"."""
    users = tmp_path / "users"
    tool = shutil.which("mosquitto_passwd", path="/usr/bin:/usr/sbin")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    subprocess.run([tool, "-b", "-c", str(users), "dev", "right"], check=True)
    users.chmod(0o644)  # started as root, mosquitto reads it as its own user
    return mosquitto_with("allow_anonymous false", f"password_file {users}")


@broker_test
@Versions
@pytest.mark.parametrize("username", [None, "dev", "stranger"])
def test_a_wrong_login_is_refused_at_once_and_for_good(
    username: str | None,
    version: str,
    guarded: Any,
    tmp_path: Path,
    make_link: Callable[..., Link],
) -> None:
    options: dict[str, Any] = {"mqtt_version": version}
    if username is not None:
        (tmp_path / "password").write_text("wrong\n")
        options |= {"username": username, "password_file": tmp_path / "password"}
    link = make_link(guarded.config(**options))
    with pytest.raises(LoginRefused, match=r"check broker\.username"):
        link.wait_connected(WAIT_S)
    assert isinstance(next_event(link, LinkRefused).error, LoginRefused)
    eventually(lambda: not link.alive)


@broker_test
@Versions
def test_the_right_password_is_accepted(
    version: str, guarded: Any, tmp_path: Path, make_link: Callable[..., Link]
) -> None:
    (tmp_path / "password").write_text("right\n")
    config = guarded.config(
        mqtt_version=version, username="dev", password_file=tmp_path / "password"
    )
    make_link(config).wait_connected(WAIT_S)


@broker_test
@Versions
def test_a_login_that_was_accepted_before_is_tried_again(
    version: str,
    guarded: Any,
    tmp_path: Path,
    make_link: Callable[..., Link],
) -> None:
    """A broker that restarts with its users missing for a while must not stop the fleet."""
    (tmp_path / "password").write_text("right\n")
    config = guarded.config(
        mqtt_version=version, username="dev", password_file=tmp_path / "password"
    )
    link = make_link(config)
    link.wait_connected(WAIT_S)
    users = (tmp_path / "users").read_text()
    guarded.stop()
    (tmp_path / "users").write_text("")
    guarded.start()
    next_event(link, LinkDown)
    eventually(lambda: "refused client" in link._last_failure)
    assert link.alive
    guarded.stop()
    (tmp_path / "users").write_text(users)
    guarded.start()
    next_event(link, LinkUp)


@broker_test
@Versions
def test_two_processes_with_one_client_id_do_not_take_turns_for_ever(
    version: str,
    mosquitto: Any,
    make_link: Callable[..., Link],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the two gives up, whether or not the broker says why; the other has the session."""
    monkeypatch.setattr(link_module, "_CUTS", 3)
    monkeypatch.setattr(link_module, "_LASTING_S", 0.0)
    config = mosquitto.config(mqtt_version=version)
    links = [make_link(config, "dev"), make_link(config, "dev")]
    eventually(lambda: sum(link.alive for link in links) == 1)
    [loser] = [link for link in links if not link.alive]
    [winner] = [link for link in links if link.alive]
    assert isinstance(next_event(loser, LinkRefused).error, SessionTakenOver)
    with pytest.raises(SessionTakenOver, match="'dev'"):
        loser.wait_connected(0.0)
    winner.wait_connected(WAIT_S)
    while not winner.events.empty():
        winner.events.get()
    assert no_event(winner, LinkDown, for_s=1.0)


@broker_test
def test_a_broker_that_restarts_often_is_no_other_process(
    mosquitto: Any, make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_CUTS", 2)
    monkeypatch.setattr(link_module, "_LASTING_S", 0.0)
    link = make_link(mosquitto.config())
    for _ in range(4):
        next_event(link, LinkUp)
        mosquitto.stop()
        next_event(link, LinkDown)
        mosquitto.start()
    next_event(link, LinkUp)
    assert link.alive


@broker_test
@Versions
def test_a_packet_beyond_the_limit_is_not_sent(
    version: str, mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    config = mosquitto.config(mqtt_version=version, max_packet_bytes=4_096)
    link = make_link(config, "dev", "a")
    link.wait_connected(WAIT_S)
    overhead = publish_size("a", 0, qos=1, mqtt_version=version) + 1  # type: ignore[arg-type]
    link.publish(Publication("a", bytes(4_096 - overhead)))
    next_event(link, Delivery)
    with pytest.raises(ValueError, match="4097 bytes"):
        link.publish(Publication("a", bytes(4_097 - overhead)))
    assert link.connected


@broker_test
def test_the_limit_that_a_broker_announces_counts_as_well(
    mosquitto_with: Callable[..., Any], make_link: Callable[..., Link]
) -> None:
    mosquitto = mosquitto_with("allow_anonymous true", "max_packet_size 5000")
    link = make_link(mosquitto.config(mqtt_version="5"))
    link.wait_connected(WAIT_S)
    assert link.max_packet_bytes == 5_000
    with pytest.raises(ValueError, match="at most 5000"):
        link.publish(Publication("a", bytes(5_000)))


@broker_test
def test_a_publication_that_the_acl_denies_is_logged_on_mqtt_5(
    mosquitto_with: Callable[..., Any],
    tmp_path: Path,
    make_link: Callable[..., Link],
    caplog: pytest.LogCaptureFixture,
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite allowed/#\n")
    mosquitto = mosquitto_with("allow_anonymous true", f"acl_file {acl}")
    link = make_link(mosquitto.config(mqtt_version="5"))
    link.wait_connected(WAIT_S)
    link.publish(Publication("allowed/a", b"x"))
    link.publish(Publication("denied/a", b"x"))
    eventually(lambda: "refused to publish" in caplog.text)
    assert link.connected


@broker_test
def test_a_service_whose_first_word_is_denied_has_another_name_than_it_thinks(
    mosquitto_with: Callable[..., Any], tmp_path: Path, make_link: Callable[..., Link]
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite allowed/#\n")
    mosquitto = mosquitto_with("allow_anonymous true", f"acl_file {acl}")
    link = make_link(mosquitto.config(mqtt_version="5"))
    link.wait_connected(WAIT_S)
    link.publish(Publication("denied/status", b"x"))
    refusal = next_event(link, LinkRefused).error
    assert isinstance(refusal, PublishingRefused)
    assert "client_id must be" in str(refusal)


@broker_test
def test_an_encrypted_connection_trusts_its_authority_alone(
    mosquitto_with: Callable[..., Any], tmp_path: Path, make_link: Callable[..., Link]
) -> None:
    """One self-signed certificate is authority, broker and device; a second one is a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    for name in ("fleet", "stranger"):
        subprocess.run(
            shlex.split(
                "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost"
                f" -addext subjectAltName=IP:127.0.0.1 -keyout {name}.key -out {name}.pem"
            ),
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        (tmp_path / f"{name}.key").chmod(0o644)  # for mosquitto's own user
    fleet, key = tmp_path / "fleet.pem", tmp_path / "fleet.key"
    mosquitto = mosquitto_with(
        f"cafile {fleet}",
        f"certfile {fleet}",
        f"keyfile {key}",
        "require_certificate true",
        "use_identity_as_username true",
    )
    mutual = TlsConfig(ca_file=fleet, cert_file=fleet, key_file=key)
    link = make_link(mosquitto.config(tls=mutual), "dev", "a")
    link.wait_connected(WAIT_S)
    link.publish(Publication("a", bytes(100_000)))
    assert len(next_event(link, Delivery).payload) == 100_000
    deceived = make_link(
        mosquitto.config(tls=mutual.model_copy(update={"ca_file": tmp_path / "stranger.pem"})),
        "dev-2",
    )
    stranger = {"cert_file": tmp_path / "stranger.pem", "key_file": tmp_path / "stranger.key"}
    for files in (stranger, {"cert_file": None, "key_file": None}):
        unknown = make_link(mosquitto.config(tls=mutual.model_copy(update=files)), "dev-3")
        with pytest.raises(LoginRefused, match=r"refused this service's certificate \("):
            unknown.wait_connected(WAIT_S)
    eventually(lambda: "certificate is not trusted" in deceived._last_failure)
    with pytest.raises(BrokerUnreachable, match="certificate is not trusted"):
        deceived.wait_connected(0.01)


def test_files_that_cannot_be_used_fail_before_anything_is_opened(tmp_path: Path) -> None:
    broker = BrokerConfig(username="u", password_file=tmp_path / "nowhere")
    with pytest.raises(BadLinkConfig, match="nowhere"):
        Link(broker, client_id="dev", subscriptions=())


def test_a_link_that_was_never_opened_closes() -> None:
    link = Link(BrokerConfig(), client_id="dev", subscriptions=())
    assert not link.alive
    assert link.max_packet_bytes == 131_072
    link.close(farewell=Publication("t", b"bye"))


@broker_test
def test_publishing_from_many_threads_keeps_every_packet_whole(
    mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    link = make_link(mosquitto.config(), "dev", "a")
    link.wait_connected(WAIT_S)

    def publish(thread: int) -> None:
        for _ in range(50):
            link.publish(Publication("a", bytes((thread,)) * 5_000))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        delivery = next_event(link, Delivery)
        assert delivery.payload == delivery.payload[:1] * 5_000
        link.acknowledge(delivery)
    for thread in threads:
        thread.join()


@broker_test
def test_the_wait_starts_over_after_a_connection_that_lasted(
    mosquitto: Any, make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_LASTING_S", 0.0)
    link = make_link(mosquitto.config())
    link.wait_connected(WAIT_S)
    link._failures = 20
    mosquitto.stop()
    next_event(link, LinkDown)
    assert link._failures <= 3


@broker_test
def test_devices_of_a_broker_that_ended_come_back_at_times_of_their_own(
    mosquitto: Any, make_link: Callable[..., Link]
) -> None:
    link = make_link(mosquitto.config(), spread_s=1000.0)
    link.wait_connected(WAIT_S)
    mosquitto.stop()
    next_event(link, LinkDown)
    assert link._reconnect.cause is Loss.BROKER
    link.close()
    assert not link.alive, "the wait ends with the link"


@pytest.fixture
def amqtt_port() -> Iterator[int]:
    """The embedded pure-Python broker, on a thread of its own."""
    amqtt_broker = pytest.importorskip("amqtt.broker", reason="amqtt is not installed")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    loop = asyncio.new_event_loop()
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker: Any = None

    async def start() -> None:
        nonlocal broker
        broker = amqtt_broker.Broker(config)
        await broker.start()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(WAIT_S)
    yield port
    asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result(WAIT_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    loop.close()


def test_the_embedded_broker_speaks_with_the_link(
    amqtt_port: int, make_link: Callable[..., Link]
) -> None:
    config = BrokerConfig(host="127.0.0.1", port=amqtt_port, mqtt_version="3.1.1")
    link = make_link(config, "dev", "a/+", will=Publication("will", b"gone"))
    link.wait_connected(WAIT_S)
    for index in range(30):
        link.publish(Publication("a/b", index.to_bytes(2, "big") * 8_000))
    for index in range(30):
        delivery = next_event(link, Delivery)
        assert delivery.payload[:2] == index.to_bytes(2, "big")
        link.acknowledge(delivery)
    link.publish(Publication("kept", b"state", retain=True))
    reader = make_link(config, "reader", "kept")
    assert next_event(reader, Delivery).payload == b"state"
