"""What is made of a broker's answers and of errors on the way to it."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable

import pytest

from agent.config import AgentConfig
from tools.doctor import mqtt_packets as mqtt
from tools.doctor.broker import judge_limits, judge_login, judge_no_connection, judge_no_tls
from tools.doctor.context import Context
from tools.doctor.finding import State
from tools.doctor.mqtt_packets import ConnAck, Version
from transport.errors import BadLinkConfig


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "no broker listens"),
        (TimeoutError(), "does not answer"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
    ],
)
def test_a_connection_that_fails_says_where_to_look(error: OSError, said: str) -> None:
    found = judge_no_connection("h", 8883, error)
    assert found.state is State.FAIL
    assert said in found.text
    assert found.mend


@pytest.mark.parametrize(
    ("error", "said", "mend"),
    [
        (BadLinkConfig("broker.tls.ca_file x cannot be read"), "ca_file", "bundle"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "does not speak TLS", "8883"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] x"), "unknown ca", "cafile"),
        (ssl.SSLError(1, "[SSL: SSLV3_ALERT_CERTIFICATE_REVOKED] x"), "revoked", "renew"),
        (ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] x"), "required", "cert_file"),
        (ssl.SSLError(1, "[SSL: ALERT_INTERNAL_ERROR] x"), "internal error", "journalctl"),
        (ConnectionResetError(104, "reset"), "broke the handshake off", "broker.port"),
        (ssl.SSLError(1, "something else"), "something else", "journalctl"),
    ],
)
def test_a_handshake_that_fails_says_whose_side_it_is(
    error: Exception, said: str, mend: str
) -> None:
    found = judge_no_tls("h", error)
    assert found.state is State.FAIL
    assert said in found.text
    assert mend in found.mend


@pytest.mark.parametrize(
    ("code", "version", "wanted", "state", "said"),
    [
        (0, Version.V5, "5", State.OK, "MQTT 5"),
        (0, Version.V311, "3.1.1", State.OK, "MQTT 3.1.1"),
        (0, Version.V311, "5", State.FAIL, "3.1.1 alone"),
        (0, Version.V5, "3.1.1", State.WARN, "MQTT 5 as well"),
        (135, Version.V5, "5", State.FAIL, "not authorised"),
        (5, Version.V311, "5", State.FAIL, "not authorised"),
        (134, Version.V5, "5", State.FAIL, "password"),
        (200, Version.V5, "5", State.FAIL, "reason code 200"),
        (132, Version.V5, "5", State.FAIL, "does not speak MQTT 5"),
    ],
)
def test_a_login_is_judged_by_its_answer(
    code: int, version: Version, wanted: str, *, state: State, said: str
) -> None:
    found = judge_login(ConnAck(code, session_present=False), version, "dev-1", wanted=wanted)
    assert found.state is state
    assert said in found.text


@pytest.mark.parametrize(
    ("properties", "state", "said"),
    [
        ({}, State.OK, "no limit"),
        ({mqtt.MAXIMUM_PACKET_SIZE: 262_144}, State.OK, "262144"),
        ({mqtt.MAXIMUM_PACKET_SIZE: 100_000}, State.WARN, "smaller segments"),
        ({mqtt.MAXIMUM_PACKET_SIZE: 4_000}, State.FAIL, "cannot do with less"),
        ({mqtt.MAXIMUM_QOS: 0}, State.FAIL, "no QoS 1"),
        ({mqtt.RETAIN_AVAILABLE: 0}, State.FAIL, "retained"),
        ({mqtt.RECEIVE_MAXIMUM: 5}, State.WARN, "5 publications"),
        ({mqtt.SESSION_EXPIRY: 3600}, State.WARN, "1 h"),
        ({mqtt.SERVER_KEEP_ALIVE: 30}, State.WARN, "every 30 s"),
    ],
)
def test_limits_must_leave_what_the_services_need(
    agent_config: Callable[..., AgentConfig],
    properties: dict[int, int | str],
    state: State,
    said: str,
) -> None:
    found = judge_limits(properties, Version.V5, Context(agent_config()))
    assert found.state is state
    assert said in found.text


def test_the_older_protocol_tells_no_limits(agent_config: Callable[..., AgentConfig]) -> None:
    assert judge_limits({}, Version.V311, Context(agent_config())).state is State.SKIP
