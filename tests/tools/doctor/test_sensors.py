"""Sensors that are there, and those that a Jetson should have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.config import AgentConfig
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from tools.doctor.sensors import judge_sensors


@pytest.mark.parametrize(
    ("values", "jetson", "state"),
    [
        ({"temp_c": 40.0, "power_w": 5.0}, True, State.OK),
        ({"temp_c": 40.0, "power_w": None}, True, State.WARN),
        ({"temp_c": 40.0, "power_w": None}, False, State.OK),
        ({"temp_c": None, "rails_w": {}, "power_mode": ""}, False, State.WARN),
    ],
)
def test_a_jetson_has_all_sensors_and_others_at_least_one(
    values: dict[str, object], state: State, *, jetson: bool
) -> None:
    assert judge_sensors(values, jetson=jetson).state is state


def test_absent_sensors_are_named() -> None:
    text = judge_sensors({"temp_c": 41.5, "power_w": None}, jetson=False).text
    assert text == "temp_c 41.5; not: power_w"


def test_this_machine_is_read(
    agent_config: Callable[..., AgentConfig], examine: Callable[..., dict[str, Finding]]
) -> None:
    assert "cpu_pct" in examine("sensors", Context(agent_config()))["sensors"].text
