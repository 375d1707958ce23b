"""Certificates: ended, not yet valid, of another name, of another authority, with another key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from transport.broker import TlsConfig
from transport.signing import SigningConfig

NOW = datetime.now(tz=timezone.utc)
DAY = timedelta(days=1)
Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(
    agent_config: Callable[..., AgentConfig], examine: Callable[..., dict[str, Finding]]
) -> Look:
    """Examines the certificate of one pair of files against one authority."""

    def run(authority: Any, cert: Path, key: Path, **how: Any) -> dict[str, Finding]:
        tls = TlsConfig(ca_file=authority.ca, cert_file=cert, key_file=key)
        return examine("certificate-valid", Context(agent_config(tls=tls), **how))

    return run


def test_a_right_certificate_is_right(look: Look, new_authority: Any) -> None:
    authority = new_authority()
    found = look(authority, *authority.sign("dev-1"))
    assert {one.state for one in found.values()} == {State.OK}
    assert "365 days" in found["certificate-valid"].text or "364" in found["certificate-valid"].text


@pytest.mark.parametrize(
    ("how", "state", "said"),
    [
        ({"ends": NOW - DAY}, State.FAIL, "ended on"),
        ({"ends": NOW + 10 * DAY}, State.WARN, "days"),
        ({"begins": NOW + 10 * DAY}, State.FAIL, "valid only from"),
    ],
)
def test_validity_is_measured_with_the_clock(
    look: Look, new_authority: Any, how: dict[str, Any], state: State, said: str
) -> None:
    authority = new_authority()
    found = look(authority, *authority.sign("dev-1", **how))["certificate-valid"]
    assert found.state is state
    assert said in found.text


def test_the_authority_ends_too(look: Look, new_authority: Any) -> None:
    authority = new_authority(ends=NOW + 3 * DAY)
    found = look(authority, *authority.sign("dev-1"))
    assert found["authority-valid"].state is State.WARN


def test_a_name_must_be_the_client_id(look: Look, new_authority: Any) -> None:
    authority = new_authority()
    found = look(authority, *authority.sign("x", common_name="dev-2"))["certificate-name"]
    assert found.state is State.FAIL
    assert "'dev-2'" in found.text
    found = look(authority, *authority.sign("y", common_name="dev-1", is_server=True))
    assert "not made for clients" in found["certificate-name"].text


def test_a_foreign_certificate_is_found(look: Look, new_authority: Any) -> None:
    ours, theirs = new_authority(), new_authority()
    found = look(ours, *theirs.sign("dev-1"))
    assert found["certificate-chain"].state is State.FAIL
    assert found["certificate-key"].state is State.OK


def test_another_key_is_found(look: Look, new_authority: Any, tmp_path: Path) -> None:
    authority = new_authority()
    cert, _ = authority.sign("dev-1")
    _, other = authority.sign("dev-2")
    assert "not the certificate's key" in look(authority, cert, other)["certificate-key"].text
    assert look(authority, cert, cert)["certificate-key"].state is State.FAIL
    absent = tmp_path / "absent"
    assert "cannot be read" in look(authority, cert, absent)["certificate-key"].text


def test_a_file_that_is_no_certificate_is_found(
    look: Look, new_authority: Any, tmp_path: Path
) -> None:
    authority = new_authority()
    cert, key = authority.sign("dev-1")
    found = look(authority, key, key)
    assert "no PEM certificate" in found["certificate-valid"].text
    assert found["certificate-key"].state is State.SKIP
    assert "cannot be read" in look(authority, tmp_path / "x", key)["certificate-valid"].text
    assert cert.exists()


def test_revocations_are_looked_up(look: Look, new_authority: Any) -> None:
    authority = new_authority()
    cert, key = authority.sign("dev-1")
    other, _ = authority.sign("dev-2")
    assert "no crl.pem" in look(authority, cert, key)["revocations"].text
    authority.revoke(other)
    assert look(authority, cert, key)["revocations"].state is State.OK
    authority.revoke(cert)
    assert "revoked" in look(authority, cert, key)["revocations"].text
    authority.revoke(other, next_update=NOW - DAY)
    assert look(authority, cert, key)["revocations"].state is State.WARN
    foreign = new_authority().revoke(other)
    (authority.folder / "crl.pem").write_bytes(foreign.read_bytes())
    assert "was not signed" in look(authority, cert, key)["revocations"].text
    (authority.folder / "crl.pem").write_text("nothing")
    assert look(authority, cert, key)["revocations"].state is State.FAIL


def test_without_a_certificate_the_rest_is_skipped(
    agent_config: Callable[..., AgentConfig],
    authority: Any,
    examine: Callable[..., dict[str, Finding]],
) -> None:
    found = examine("certificate-valid", Context(agent_config(tls=None)))
    assert "in clear" in found["certificate-valid"].text
    assert found["certificate-key"].state is State.SKIP
    alone = TlsConfig(ca_file=authority.ca)
    found = examine("certificate-valid", Context(agent_config(tls=alone)))
    assert found["certificate-valid"].state is State.WARN
    options = {"username": "dev-1"}
    context = Context(agent_config(tls=alone, broker_options=options))
    assert examine("certificate-valid", context)["certificate-valid"].state is State.OK


def test_signing_needs_a_key_that_can_sign(
    agent_config: Callable[..., AgentConfig], examine: Callable[..., dict[str, Finding]]
) -> None:
    assert "off" in examine("signing", Context(agent_config()))["signing"].text
    config = agent_config()
    signing = type(config.signing)(mode="required")
    assert isinstance(signing, SigningConfig)
    found = examine("signing", Context(agent_config(signing=signing)))["signing"]
    assert found.state is State.FAIL  # P-256, which TLS takes and signatures do not
