"""What is made of the answers."""

from __future__ import annotations

import pytest

from tools.doctor.acl import (
    judge_anonymous,
    judge_claimed_name,
    judge_client_id,
    judge_own,
    judge_packet_size,
    judge_publish,
    judge_read,
)
from tools.doctor.acl_trial import Trial, forbidden_filters
from tools.doctor.finding import State
from tools.doctor.mqtt_packets import Version
from transport.topics import Topics

REAL = Topics("clinics")
NOBODYS = Trial("dev-1", "doctor-other-1", Topics("doctor-1"))


def test_what_is_denied_and_what_passes_is_named() -> None:
    assert judge_own([], tried=3, me="x").state is State.OK
    assert "t and 1 more" in judge_own(["t", "u"], tried=3, me="x").text
    assert judge_publish([], tried=3, version=Version.V5).state is State.OK
    assert judge_publish([], tried=3, version=Version.V311).state is State.WARN
    assert "t and 2 more" in judge_publish(["t", "u", "v"], tried=3, version=Version.V5).text


def test_what_was_heard_must_not_be_heard() -> None:
    filters = forbidden_filters(NOBODYS, REAL)
    assert judge_read([], filters).state is State.OK
    # A command of the service's own session that had waited for it.
    assert judge_read(["fl/v1/other/coord/run"], filters).state is State.OK
    assert judge_read(["flx/v1/doctor-1/up/dev-1/0/m"], filters).state is State.FAIL
    assert judge_read(["fl/v1/clinics/d/dev-2/status"], filters).state is State.FAIL


@pytest.mark.parametrize(
    ("code", "ended", "state"),
    [
        (0, False, State.OK),
        (16, False, State.OK),
        (149, False, State.FAIL),
        (135, False, State.SKIP),
        (149, True, State.FAIL),
        (0, True, State.FAIL),
    ],
)
def test_the_largest_packet_must_pass(code: int, state: State, *, ended: bool) -> None:
    assert judge_packet_size(131_072, code=code, ended=ended).state is state


def test_strangers_and_impostors_are_refused() -> None:
    assert judge_anonymous(taken=False).state is State.OK
    assert judge_anonymous(taken=True).state is State.FAIL
    assert judge_client_id(free=False).state is State.OK
    assert judge_client_id(free=True).state is State.FAIL
    for is_password in (True, False):
        right = judge_claimed_name(believed=False, is_password=is_password)
        wrong = judge_claimed_name(believed=True, is_password=is_password)
        assert (right.state, wrong.state) == (State.OK, State.FAIL)
