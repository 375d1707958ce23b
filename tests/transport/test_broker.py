from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from transport.broker import BrokerConfig, TlsConfig


def test_the_port_follows_tls_where_it_is_not_given() -> None:
    assert BrokerConfig().address == ("localhost", 1883)
    assert BrokerConfig(tls=TlsConfig(ca_file=Path("ca"))).address == ("localhost", 8883)
    assert BrokerConfig(tls=TlsConfig(ca_file=Path("ca")), port=1).address == ("localhost", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"port": 0},
        {"port": 65_536},
        {"mqtt_version": "3.1"},
        {"keepalive_s": 0},
        {"connect_timeout_s": 0},
        {"max_packet_bytes": 100},
        {"hots": "typo"},
        {"tls": {"cert_file": "c"}},
        {"tls": {"ca_file": "c", "insecure": True}},
    ],
)
def test_wrong_values_and_unknown_keys_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BrokerConfig(**change)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError):
        BrokerConfig().host = "other"  # type: ignore[misc]


def test_there_is_no_field_for_a_password() -> None:
    """It would stand in YAML files, command lines and logs."""
    assert "password" not in BrokerConfig.model_fields
