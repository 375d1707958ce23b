"""The lines are those of mosquitto 2.0.11 with OpenSSL 3."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.broker_log import MAX_PENDING, BrokerLog

FOREIGN = b"1795403509: OpenSSL Error[0]: error:0A000086:SSL routines::certificate verify failed"
WITHOUT = b"17: OpenSSL Error[0]: error:0A0000C7:SSL routines::peer did not return a certificate"
GONE = b"1795403509: Client <unknown> disconnected: Protocol error."


def begun(address: str, port: int) -> bytes:
    return f"1795403509: New connection from {address}:{port} on port 8883.".encode()


def logged_in(address: str, port: int, name: str = "nano-01") -> bytes:
    line = f"17: New client connected from {address}:{port} as {name} (p2, c1, k60, u'{name}')."
    return line.encode()


def heard(*lines: bytes) -> list[str]:
    log = BrokerLog()
    return [text for line in lines if (text := log.receive(line)) is not None]


def test_who_is_refused_is_named_with_what_to_look_at() -> None:
    (text,) = heard(begun("10.0.0.9", 4711), FOREIGN, GONE)
    assert text == (
        "the broker refused a login from 10.0.0.9: certificate verify failed (its certificate is "
        "of another authority, expired or revoked)"
    )
    (text,) = heard(begun("10.0.0.9", 4711), WITHOUT, GONE)
    assert text.endswith("(it has no certificate)")


def test_those_who_have_logged_in_or_gone_are_not_suspected() -> None:
    lines = [begun("10.0.0.1", 1), logged_in("10.0.0.1", 1), begun("10.0.0.2", 2), GONE]
    (text,) = heard(*lines, begun("10.0.0.9", 3), FOREIGN)
    assert "from 10.0.0.9:" in text


def test_where_two_may_be_meant_nobody_is_named() -> None:
    (text,) = heard(begun("10.0.0.1", 1), begun("10.0.0.9", 2), FOREIGN)
    assert "from an address it does not tell" in text
    (text,) = heard(begun("10.0.0.9", 1), begun("10.0.0.9", 2), FOREIGN)
    assert "from 10.0.0.9:" in text


def test_a_failure_that_names_its_address_is_told_with_it() -> None:
    line = (
        b"17: Client connection from 10.0.0.9 failed: error:0A000086:SSL routines::certificate "
        b"verify failed."
    )
    for before in ((), (begun("10.0.0.1", 1), begun("10.0.0.9", 2))):
        (text,) = heard(*before, line)
        assert "from 10.0.0.9: certificate verify failed (its certificate is of" in text
    (text,) = heard(
        b"17: Client connection from ::1 failed: error:0A00010B:SSL routines::wrong version number."
    )
    assert text.endswith("from ::1: wrong version number (it does not speak TLS)")


def test_a_login_that_is_not_authorised_is_named() -> None:
    (text,) = heard(b"17: Client nano-07 disconnected, not authorised.")
    assert text == "the broker refused the login of nano-07: not authorised"


def test_everyday_lines_say_nothing() -> None:
    lines = (begun("10.0.0.1", 1), logged_in("10.0.0.1", 1), b"17: Client nano-01 disconnected.")
    assert heard(*lines, b"17: Saving in-memory database to /var/lib/mosquitto.", b"") == []


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([FOREIGN, GONE, WITHOUT]))))
def test_no_line_is_too_strange(lines: list[bytes]) -> None:
    for text in heard(*lines):
        assert len(text) < 250


def test_a_flood_of_connections_is_not_remembered() -> None:
    log = BrokerLog()
    for port in range(10 * MAX_PENDING):
        log.receive(begun("10.0.0.9", port))
    assert len(log._pending) == MAX_PENDING
