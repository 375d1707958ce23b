"""The model of a broker keeps and forgets what a broker keeps and forgets."""

from __future__ import annotations

from typing import Any

import pytest

from tools.simulate.broker import TOPICS, Broker, Entry, Port, interest
from tools.simulate.clock import Clock
from transport.control import DeviceState, DeviceStatus
from transport.topics import (
    Address,
    Command,
    CoordRun,
    CoordStatus,
    DeviceTopic,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
    ModelWant,
    Response,
    UpManifest,
    UpSegment,
)

UID = "0123456789abcdef" * 2
ADDRESSES: list[Address] = [
    UpManifest("d1", UID),
    UpSegment("d1", UID, 3),
    Down("d1", UID),
    Down("d2", UID),
    ModelManifest(4),
    ModelManifest(4, delta=True),
    ModelManifest(5),
    ModelSegment(4, 0),
    ModelSegment(4, 0, delta=True),
    ModelWant("d1", 4),
    ModelWant("d1", 4, delta=True),
    CoordStatus(),
    CoordRun(),
    Model(),
    DeviceTopic("d1", "status"),
    DeviceTopic("d1", "progress"),
    DeviceTopic("d1", "telemetry"),
    Command("d1", "train", "1"),
    Command("d2", "eval", "1"),
    Response("d1", "train", "1"),
]
FILTERS = [
    *TOPICS.aggregator_filters(),
    *TOPICS.agent_filters("d1"),
    *TOPICS.model_filters(4),
    *TOPICS.model_filters(4, delta=True),
]


def matches(topic_filter: str, topic: str) -> bool:
    """Say what MQTT says, for filters without #."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(
        one in {"+", level} for one, level in zip(wanted, levels, strict=True)
    )


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_a_subscription_brings_what_its_filter_matches(address: Address) -> None:
    for topic_filter in FILTERS:
        kind, key = interest(topic_filter)
        from tools.simulate.broker import key_of  # noqa: PLC0415 - beside its use

        brings = isinstance(address, kind) and key in {None, key_of(address)}
        if kind is ModelWant:  # one interest for both forms: an aggregator asks for both
            continue
        assert brings == matches(topic_filter, TOPICS.topic(address)), topic_filter


class Client:
    def __init__(self, broker: Broker, name: str, *filters: str) -> None:
        self.got: list[Entry] = []
        self.taken_over = 0
        will = DeviceTopic(name, "status"), DeviceStatus(DeviceState.LOST, "x")
        self.port = Port(name, deliver=self.got.append, taken_over=self._taken_over, will=will)
        self.known = broker.attach(self.port, filters)

    def _taken_over(self) -> None:
        self.taken_over += 1

    @property
    def messages(self) -> list[Any]:
        return [entry.message for entry in self.got]


@pytest.fixture
def broker() -> Broker:
    return Broker(Clock())


STATUS = "fl/v1/sim/d/+/status"
DOWN = "flx/v1/sim/down/d1/+"


def test_a_session_holds_what_comes_while_its_client_is_away(broker: Broker) -> None:
    first = Client(broker, "d1", DOWN)
    broker.publish("coord", Down("d1", UID), "one", retain=False)
    broker.detach(first.port)
    broker.publish("coord", Down("d1", UID), "two", retain=False)
    again = Client(broker, "d1", DOWN)
    assert again.known
    assert again.messages == ["one", "two"]  # the first was never acknowledged


def test_what_is_acknowledged_does_not_come_again(broker: Broker) -> None:
    first = Client(broker, "d1", DOWN)
    broker.publish("coord", Down("d1", UID), "one", retain=False)
    first.got[0].acknowledged_at = 0.0
    broker.detach(first.port)
    assert Client(broker, "d1", DOWN).messages == []


def test_an_acknowledgement_that_was_on_its_way_is_lost_with_the_connection(
    broker: Broker,
) -> None:
    first = Client(broker, "d1", DOWN)
    broker.publish("coord", Down("d1", UID), "one", retain=False)
    first.got[0].acknowledged_at = 1.0
    broker.lose_acknowledgements(first.port)
    broker.detach(first.port)
    assert Client(broker, "d1", DOWN).messages == ["one"]


def test_a_will_is_published_where_nobody_said_goodbye(broker: Broker) -> None:
    watcher = Client(broker, "coord", STATUS)
    broker.detach(Client(broker, "d1").port, goodbye=True)
    assert watcher.messages == []
    broker.detach(Client(broker, "d2").port)
    assert [message.state for message in watcher.messages] == [DeviceState.LOST]


def test_a_second_connection_takes_the_first_over(broker: Broker) -> None:
    first = Client(broker, "d1", DOWN)
    second = Client(broker, "d1", DOWN)
    assert (first.taken_over, second.known) == (1, True)
    broker.publish("coord", Down("d1", UID), "one", retain=False)
    assert (first.messages, second.messages) == ([], ["one"])


def test_nobody_writes_under_another_name(broker: Broker) -> None:
    watcher = Client(broker, "coord", *TOPICS.aggregator_filters())
    broker.publish("d2", UpManifest("d1", UID), "forged", retain=False)
    assert watcher.messages == []


def test_retained_messages_come_with_a_subscription_until_they_are_cleared(
    broker: Broker,
) -> None:
    broker.publish("coord", Model(), "newest", retain=True)
    assert Client(broker, "d1", "fl/v1/sim/model").messages == ["newest"]
    assert all(entry.retained for entry in Client(broker, "d2", "fl/v1/sim/model").got)
    broker.publish("coord", Model(), None, retain=True)
    assert Client(broker, "d3", "fl/v1/sim/model").messages == []


def test_a_resumed_subscription_brings_retained_messages_to_a_new_session_only(
    broker: Broker,
) -> None:
    name = "fl/v1/sim/model"
    broker.publish("coord", Model(), "newest", retain=True)

    def come(client_id: str) -> list[Entry]:
        got: list[Entry] = []
        will = DeviceTopic(client_id, "status"), None
        port = Port(client_id, deliver=got.append, taken_over=lambda: None, will=will)
        broker.attach(port, [name], resumed=[name])
        broker.detach(port, goodbye=True)
        for entry in got:
            entry.acknowledged_at = 0.0
        return got

    assert (len(come("d1")), len(come("d1"))) == (1, 0)


def test_a_kill_loses_what_came_after_the_last_save(broker: Broker) -> None:
    Client(broker, "d1", DOWN)
    broker.publish("coord", Down("d1", UID), "saved", retain=False)
    image = broker.image()
    broker.publish("coord", Down("d1", UID), "lost", retain=False)
    broker.kill()
    broker.start(image)
    assert Client(broker, "d1", DOWN).messages == ["saved"]


def test_a_wiped_broker_knows_nobody(broker: Broker) -> None:
    Client(broker, "d1", DOWN)
    broker.publish("coord", Model(), "newest", retain=True)
    broker.kill()
    broker.start(None)
    client = Client(broker, "d1", DOWN, "fl/v1/sim/model")
    assert (client.known, client.messages) == (False, [])


def test_an_expired_session_is_forgotten_while_its_client_is_away(broker: Broker) -> None:
    client = Client(broker, "d1", DOWN)
    broker.expire("d1")  # it is here
    broker.detach(client.port)
    broker.expire("d1")
    broker.publish("coord", Down("d1", UID), "one", retain=False)
    assert not Client(broker, "d1", DOWN).known


def test_a_full_queue_drops_silently(broker: Broker) -> None:
    broker.queue_limit = 2
    client = Client(broker, "d1", DOWN)
    broker.detach(client.port)
    for number in range(5):
        broker.publish("coord", Down("d1", UID), number, retain=False)
    assert Client(broker, "d1", DOWN).messages == [0, 1]
