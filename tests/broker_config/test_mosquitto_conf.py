"""Both configurations start in a real mosquitto and keep their promises about logins and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transport import topics
from transport.broker import BrokerConfig
from transport.topics import Topics

pytestmark = pytest.mark.broker

FLEET = Topics("demo")
FOLDER = Path(__file__).parents[2] / "broker_config"


def _options(file: str) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for line in (FOLDER / file).read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            options.setdefault(name, []).append(value)
    return options


def test_both_configurations_start_without_complaints_beyond_the_expected(either: Any) -> None:
    """The four patterns without %u are meant; a test may run as root; nothing else is said."""
    complaints = [
        line
        for line in either.log().splitlines()
        if ("Warning" in line or "Error" in line or "Note" in line)
        and "does not contain '%c' or '%u'" not in line
        and "should not be run as root" not in line
    ]
    assert complaints == []


def test_a_login_without_a_certificate_is_refused(production: Any, login: Any) -> None:
    assert login(production, None, client_id="dev-1").outcome == "closed"


def test_a_login_from_another_authority_is_refused(
    production: Any, login: Any, foreign_certificates: Path
) -> None:
    assert login(production, "dev-1", certificates=foreign_certificates).outcome == "closed"


def test_the_brokers_own_certificate_is_no_login(production: Any, login: Any) -> None:
    assert login(production, "broker").outcome == "closed"


def test_a_certificates_name_is_the_user_name(production: Any, login: Any) -> None:
    """Whatever client id it asks for, it writes under its certificate's name only."""
    device = login(production, "dev-1", client_id="dev-2")
    assert device.outcome == "Success"
    assert device.publish(FLEET.topic(topics.DeviceTopic("dev-1", "status")))
    assert not device.publish(FLEET.topic(topics.DeviceTopic("dev-2", "status")))


def test_a_certificates_name_is_the_client_id(production: Any, login: Any) -> None:
    """Its own second login takes its session over; nobody else's does, whatever id it claims."""
    victim = login(production, "dev-1", client_id="dev-1")
    thief = login(production, "dev-2", client_id="dev-1")
    assert thief.outcome == "Success"
    assert victim.publish(FLEET.topic(topics.DeviceTopic("dev-1", "status")))
    again = login(production, "dev-1", client_id="some-other-id")
    victim.wait_ended()
    assert again.publish(FLEET.topic(topics.DeviceTopic("dev-1", "status")))
    assert not thief.ended


def test_a_packet_of_the_services_limit_passes_and_one_beyond_the_brokers_does_not(
    either: Any, login: Any
) -> None:
    topic = FLEET.topic(topics.UpSegment("dev-1", "0" * 32, 0))
    device = login(either, "dev-1")
    assert device.publish(topic, b"x" * (BrokerConfig().max_packet_bytes - 200))
    limit = int(_options("mosquitto.conf")["max_packet_size"][0])
    assert not device.publish(topic, b"x" * limit)
    device.wait_ended()


def test_retained_state_survives_a_restart_of_the_broker(either: Any, login: Any) -> None:
    status = FLEET.topic(topics.DeviceTopic("dev-1", "status"))
    assert login(either, "dev-1").publish(status, retain=True)
    either.stop()
    either.start()
    viewer = login(either, "viewer")
    viewer.subscribe("fl/#")
    viewer.wait_for(status)


def test_development_listens_on_loopback_alone() -> None:
    assert _options("mosquitto-dev.conf")["listener"] == ["1883 127.0.0.1"]


def test_production_has_no_way_in_but_tls_with_certificates() -> None:
    options = _options("mosquitto.conf")
    assert options["listener"] == ["8883"]
    for name, value in {
        "allow_anonymous": "false",
        "require_certificate": "true",
        "use_identity_as_username": "true",
        "use_username_as_clientid": "true",
        "per_listener_settings": "false",
    }.items():
        assert options[name] == [value], name


@pytest.mark.parametrize("file", ["mosquitto.conf", "mosquitto-dev.conf"])
def test_nothing_is_dropped_silently_by_size(file: str) -> None:
    assert "message_size_limit" not in _options(file)  # its default, 0, is the only honest value


def test_the_broker_takes_more_than_the_services_send() -> None:
    limit = int(_options("mosquitto.conf")["max_packet_size"][0])
    assert limit >= 2 * BrokerConfig().max_packet_bytes
