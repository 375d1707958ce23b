from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.config import AgentConfig

LEAST: dict[str, Any] = {
    "federation": "clinic",
    "client_id": "ward-3",
    "state_dir": "/var/lib/fedfstq",
    "data": {"train": "/srv/text.jsonl"},
}


def test_the_least_configuration_has_sound_defaults() -> None:
    config = AgentConfig.model_validate(LEAST)
    assert config.model is None
    assert config.trainer == "child"
    assert config.trainer_idle_s == 600.0
    assert config.broker.address == ("localhost", 1883)
    assert config.uplink.max_bytes is None
    assert config.reconnect_spread_s == 85.0, "what transport.reconnect simulates"
    assert config.trainer_socket == Path("/var/lib/fedfstq/trainer.sock")
    assert config.trainer_lock == Path("/var/lib/fedfstq/trainer.lock")


def test_a_configuration_survives_the_way_to_the_trainer() -> None:
    config = AgentConfig.model_validate(LEAST | {"model": "/base", "threads": 2})
    assert AgentConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "Ward 3"},
        {"federation": "a/b"},
        {"data": {"train": "/t", "heldout_share": 1.0}},
        {"data": {"train": "/t", "heldout_shar": 0.1}},
        {"devices": "cpu"},
        {"device": "tpu"},
        {"threads": 0},
        {"trainer_idle_s": 0},
        {"telemetry_interval_s": 0},
        {"uplink": {"share_of_time": 1.5}},
        {"uplink": {"most_bytes": 4096}},
        {"reconnect_spread_s": -1},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AgentConfig.model_validate(LEAST | wrong)
