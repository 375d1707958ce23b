"""Who may write and read what, asked of a real broker for every kind of topic there is."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from transport import topics
from transport.control import OperatorAction
from transport.topics import Topics

pytestmark = pytest.mark.broker

FLEET = Topics("demo")
UID = "0123456789abcdef" * 2
DEVICES = ("dev-1", "dev-2")
PEOPLE_AND_COORD = ("coord", "operator", "viewer")
EVERYBODY = frozenset(DEVICES + PEOPLE_AND_COORD)
MONITORS = frozenset({"operator", "viewer"})
FOLDER = Path(__file__).parents[2] / "broker_config"


def _table(device: str) -> dict[topics.Address, tuple[frozenset[str], frozenset[str]]]:
    """Address → (who may write it, who may read it), for a device's topics and the shared ones."""
    its = frozenset({device})
    coord = frozenset({"coord"})
    operator = frozenset({"operator"})  # clears what who is gone left, and alerts
    return {
        topics.UpManifest(device, UID): (its, coord),
        topics.UpSegment(device, UID, 3): (its, coord),
        topics.Down(device, UID): (coord, its),
        topics.ModelManifest(7): (coord, EVERYBODY),
        topics.ModelSegment(7, 2): (coord, EVERYBODY),
        topics.ModelWant(device, 7): (its, coord),
        topics.ModelManifest(7, delta=True): (coord, EVERYBODY),
        topics.ModelSegment(7, 2, delta=True): (coord, EVERYBODY),
        topics.ModelWant(device, 7, delta=True): (its, coord),
        topics.CoordStatus(): (coord | operator, MONITORS | coord),
        topics.CoordRun(): (coord, EVERYBODY),
        topics.RoundNow(): (coord, MONITORS),
        topics.RoundLast(): (coord, MONITORS),
        topics.Model(): (coord, EVERYBODY),
        topics.Alert("disk-full"): (coord | operator, MONITORS),
        topics.DeviceTopic(device, "status"): (its | operator, MONITORS | coord),
        topics.DeviceTopic(device, "info"): (its | operator, MONITORS),
        topics.DeviceTopic(device, "telemetry"): (its, MONITORS),
        topics.DeviceTopic(device, "progress"): (its, MONITORS | coord),
        topics.DeviceTopic(device, "energy"): (its | operator, MONITORS | coord),
        topics.Command(device, "train", "1"): (coord, MONITORS | its),
        topics.Command(device, "eval", "1"): (coord, MONITORS | its),
        **{
            topics.Command(device, action.value, "1"): (coord | operator, MONITORS | its)
            for action in OperatorAction
        },
        topics.Response(device, "train", "1"): (its, MONITORS | coord),
        topics.Response(device, "pause", "1"): (its, MONITORS | coord),
    }


TABLE = {address: who for device in DEVICES for address, who in _table(device).items()}


def test_the_table_has_every_kind_of_address_and_every_device_leaf() -> None:
    assert {type(address) for address in TABLE} == set(typing.get_args(topics.Address))
    leaves = {address.leaf for address in TABLE if isinstance(address, topics.DeviceTopic)}
    assert leaves == topics.DEVICE_LEAVES


@pytest.mark.parametrize("user", sorted(EVERYBODY))
def test_each_login_writes_exactly_what_is_its_own(any_rules: Any, login: Any, user: str) -> None:
    client = login(any_rules, user)
    written = {address for address in TABLE if client.publish(FLEET.topic(address))}
    assert written == {address for address, (writers, _) in TABLE.items() if user in writers}


def test_each_login_receives_exactly_what_it_may_read(any_rules: Any, login: Any) -> None:
    """Subscribing to everything is allowed; what may not be read is not delivered."""
    readers = {user: login(any_rules, user) for user in EVERYBODY}
    for reader in readers.values():
        reader.subscribe("#")
    for address, (writers, _) in TABLE.items():
        writer = next(user for user in (*DEVICES, "coord") if user in writers)
        assert readers[writer].publish(FLEET.topic(address)), address
    # Every acknowledged message is on its way before this one, which all may read.
    last = Topics("last").topic(topics.Model())
    assert readers["coord"].publish(last)
    for user, reader in readers.items():
        reader.wait_for(last)
        received = {FLEET.parse(topic) for topic, _ in reader.received if topic != last}
        assert received == {address for address, (_, who) in TABLE.items() if user in who}, user


@pytest.mark.parametrize("user", PEOPLE_AND_COORD)
def test_people_and_the_aggregator_cannot_act_as_devices(
    any_rules: Any, login: Any, user: str
) -> None:
    """A pattern line is for every login: without the deny lines a viewer could join a cohort."""
    client = login(any_rules, user)
    as_device = [
        address
        for address, (writers, _) in _table("dev-1").items()
        if "dev-1" in writers and client.publish(FLEET.topic(address).replace("dev-1", user))
    ]
    assert as_device == []


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def test_a_denied_publish_never_arrives_even_where_it_is_acknowledged(
    production: Any, login: Any, version: MQTTProtocolVersion
) -> None:
    coord = login(production, "coord")
    coord.subscribe("#")
    thief = login(production, "dev-2", version=version)
    stolen = FLEET.topic(topics.UpManifest("dev-1", UID))
    acknowledged = thief.publish(stolen)
    assert acknowledged == (version is MQTTProtocolVersion.MQTTv311)  # silent loss
    own = FLEET.topic(topics.UpManifest("dev-2", UID))
    assert thief.publish(own)
    coord.wait_for(own)
    assert [topic for topic, _ in coord.received] == [own]


def test_a_will_on_another_devices_topic_is_never_published(production: Any, login: Any) -> None:
    viewer = login(production, "viewer")
    viewer.subscribe("fl/#")
    forged = FLEET.topic(topics.DeviceTopic("dev-1", "status"))
    own = FLEET.topic(topics.DeviceTopic("dev-2", "status"))
    thief = login(production, "dev-2", will=forged)
    if not thief.ended:
        thief.leave_with_will()
    honest = login(production, "dev-2", will=own)
    honest.leave_with_will()
    viewer.wait_for(own)
    assert [topic for topic, _ in viewer.received] == [own]


def test_a_lost_device_is_shut_out_by_two_lines_and_a_reload(production: Any, login: Any) -> None:
    lost, other = login(production, "dev-1"), login(production, "dev-2")
    lost_topic = FLEET.topic(topics.DeviceTopic("dev-1", "status"))
    assert lost.publish(lost_topic)
    with production.acl.open("a") as acl:
        acl.write("\nuser dev-1\ntopic deny #\n")
    production.reload()
    assert not lost.publish(lost_topic)
    assert other.publish(FLEET.topic(topics.DeviceTopic("dev-2", "status")))
    lost.subscribe("#")
    coord = login(production, "coord")
    other.subscribe("#")
    assert coord.publish(FLEET.topic(topics.Model()))
    other.wait_for(FLEET.topic(topics.Model()))
    assert lost.received == []


def test_a_client_without_a_name_may_do_everything_in_development_only(
    start_broker: Any, login: Any
) -> None:
    broker = start_broker("mosquitto-dev.conf")
    nobody = login(broker, None)
    assert all(nobody.publish(FLEET.topic(address)) for address in TABLE)


def test_development_holds_names_to_the_production_rules() -> None:
    def rules(file: str) -> list[str]:
        lines = (FOLDER / file).read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    anonymous, production = rules("acl-dev"), rules("acl")
    start = anonymous.index(production[0])
    assert anonymous[start:] == production
    assert all(line.startswith("topic ") for line in anonymous[:start])
