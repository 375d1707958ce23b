from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import control
from transport.errors import MalformedMessage, MessageError, OversizedMessage

PLAN = control.TrainingPlan(local_steps=3)
MESSAGES: list[Any] = [
    PLAN,
    control.RunAnnouncement("r", "base", "bd", "ld", "fstq", 5, 32_768, PLAN),
    control.ServiceStatus(control.ServiceState.RUNNING, "s", "0.1"),
    control.RoundStatus("r", 1, control.RoundPhase.OPEN, 60.0, 4, 3, 2, 1, 0, 0, 100, 200),
    control.RoundSummary(
        "r", 1, 1, 3, 2, 1, 0, 12.5, 10, 9, 90, 50, None, 0, 2.5, 0.25, 1000, {"layout": 2}
    ),
    control.ModelStatus("r", 1, "ab", 1000, 3, 2.5),
    control.AlertNotice("warning", "something"),
    control.DeviceStatus(control.DeviceState.TRAINING, "s", 1),
    control.DeviceProfile("board", "0.1", "3.11", "2.13", "", 8000, 100, 10, "bd"),
    control.Telemetry(1.0, ram_used_mb=5, power_w=9.5, rails_w={"VDD_IN": 9.5}, on_mains=True),
    control.EnergyReport("r", 1, 90.5, None, None, 1.0, 80.5, 9.0, 12.0, 0.0, "ina"),
    control.Progress(1, step=2, steps=8, loss=2.5),
    control.TrainCommand("r", 1, 2, 1, 60.0, 7, None),
    control.EvalCommand("r", 1, 2, 60.0),
    control.TrainResponse("r", 1, accepted=True),
    control.EvalResponse("r", 1, 2.5, 100, 40),
    control.OperatorCommand("s", 812.5, "new fan"),
    control.OperatorResponse(
        control.Outcome.EXPIRED, "s", 812.5, control.DeviceState.PAUSED, 1, 6, "too late"
    ),
]


def name_of(message: Any) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_every_message_survives_its_json(message: Any) -> None:
    assert control.decode(type(message), control.encode(message)) == message


def test_these_are_all_messages_that_there_are() -> None:
    declared = {
        kind
        for kind in vars(control).values()
        if isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")
    }
    assert {type(message) for message in MESSAGES} == declared


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_json_is_flat_but_for_plan_counters_and_rails(message: Any) -> None:
    for key, value in json.loads(control.encode(message)).items():
        assert key in {"plan", "refused", "rails_w"} or not isinstance(value, dict | list)


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_every_prefix_is_malformed(message: Any) -> None:
    payload = control.encode(message)
    for length in range(len(payload)):
        with pytest.raises(MalformedMessage):
            control.decode(type(message), payload[:length])


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_keys_of_newer_writers_are_ignored(message: Any) -> None:
    payload = json.dumps(json.loads(control.encode(message)) | {"from_the_future": [1]}).encode()
    assert control.decode(type(message), payload) == message


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "1"},
        {"epoch": True},
        {"epoch": 1.5},
        {"epoch": None},
        {"run": 5},
        {"deadline_s": "60"},
        {"deadline_s": None},
        {"round_id": [1]},
    ],
)
def test_a_value_of_another_type_is_malformed(change: dict[str, Any]) -> None:
    fields = json.loads(control.encode(control.TrainCommand("r", 1, 2, 1, 60.0, 7, None)))
    with pytest.raises(MalformedMessage, match="TrainCommand"):
        control.decode(control.TrainCommand, json.dumps(fields | change).encode())


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_malformed(literal: str) -> None:
    payload = control.encode(control.EvalResponse("r", 1, 2.5, 1, 1)).replace(
        b"2.5", literal.encode()
    )
    with pytest.raises(MalformedMessage):
        control.decode(control.EvalResponse, payload)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1e999", "1e999", '"5"', "null", "true"])
def test_an_energy_that_is_no_number_is_malformed(number: str) -> None:
    report = control.EnergyReport("r", 1, 90.5, None, None, 1.0, 80.5, 9.0, 12.0, 0.0)
    payload = control.encode(report).replace(b"90.5", number.encode())
    with pytest.raises(MalformedMessage):
        control.decode(control.EnergyReport, payload)


def test_a_missing_key_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        control.decode(control.EvalCommand, b'{"run": "r", "epoch": 1, "version": 2}')


def test_an_unknown_state_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        control.decode(control.DeviceStatus, b'{"state": "asleep", "session": "s"}')


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"[]", b"5", b"{}", b"\xff\xfe", b'{"run": "\xff"}', b"[" * 50_000]
)
def test_what_is_no_such_message_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        control.decode(control.TrainCommand, payload)


def test_a_payload_beyond_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(OversizedMessage):
        control.decode(control.TrainCommand, b" " * (control.MAX_JSON_BYTES + 1))


def test_an_integer_is_a_number_of_seconds() -> None:
    """JSON of other writers has 60 where we write 60.0."""
    fields = json.loads(control.encode(control.EvalCommand("r", 1, 2, 60.0))) | {"deadline_s": 60}
    read = control.decode(control.EvalCommand, json.dumps(fields).encode())
    assert math.isclose(read.deadline_s, 60.0)


@settings(deadline=None, max_examples=200)
@given(payload=st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_random_bytes_raise_message_errors_alone(payload: bytes) -> None:
    for message in MESSAGES:
        try:
            control.decode(type(message), payload)
        except MessageError:
            continue


def test_errors_are_one_line() -> None:
    with pytest.raises(MalformedMessage) as caught:
        control.decode(control.TrainCommand, b'{"run": 5}')
    assert "\n" not in str(caught.value)
