from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.config import AggregatorConfig
from codec.registry import CODECS, codec_named

LEAST = {
    "federation": "lab",
    "state_dir": "/tmp/state",
    "initial_adapter": "/tmp/adapter",
    "rounds": 3,
    "goal": 4,
    "quorum": 2,
    "deadline_s": 60,
}


def test_names_and_folders_are_a_configuration() -> None:
    names = {key: LEAST[key] for key in ("federation", "state_dir", "initial_adapter")}
    least = AggregatorConfig.model_validate(names)
    assert (least.rounds, least.goal, least.quorum, least.deadline_s) == (20, 4, 2, 1800.0)
    assert least.over_selection > 1.0


@pytest.mark.parametrize(("goal", "quorum"), [(1, 1), (2, 1), (3, 2), (10, 5), ("7", 4)])
def test_the_quorum_is_half_the_goal_where_it_is_not_given(goal: Any, quorum: int) -> None:
    values = {key: value for key, value in LEAST.items() if key != "quorum"}
    assert AggregatorConfig.model_validate(values | {"goal": goal}).quorum == quorum
    with pytest.raises(ValidationError, match="goal"):
        AggregatorConfig.model_validate(values | {"goal": "many"})


def config(**changes: Any) -> AggregatorConfig:
    return AggregatorConfig.model_validate(LEAST | changes)


def test_the_least_configuration_takes_the_codec_that_the_benchmarks_chose() -> None:
    least = config()
    assert least.codec == "fstq-r"
    assert [least.budget_bytes(80_000, round_id=number) for number in (1, 3)] == [1500, 8000]
    assert least.devices_to_open == 2
    assert config(min_devices=4).devices_to_open == 4


def test_the_paper_s_codec_has_the_paper_s_budget_by_default() -> None:
    assert config(codec="fstq").budget_bytes(1000, round_id=1) == 600


def test_the_budget_is_in_bits_or_in_bytes() -> None:
    assert config(bits_per_coordinate=2).budget_bytes(1000, round_id=1) == 250
    assert config(bits_per_coordinate=0.01).budget_bytes(1000, round_id=1) == 64
    assert config(update_bytes=777).budget_bytes(1000, round_id=1) == 777
    assert config(codec="fp32").budget_bytes(1000, round_id=1) is None


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"quorum": 5}, "lower the quorum"),
        ({"update_bytes": 900, "bits_per_coordinate": 2}, "give one of them"),
        ({"codec": "fp32", "update_bytes": 900}, "dense"),
        ({"codec": "fp16", "bits_per_coordinate": 2}, "dense"),
        ({"codec": "zip"}, "no codec is named 'zip'; known: fstq"),
        ({"codec": "eden", "error_feedback": True}, "exchangeable"),
        ({"bits_per_coordinate": 0}, "bits_per_coordinate"),
        ({"bits_per_coordinate": {"first": 0.1}}, "last"),
        ({"bits_per_coordinate": {"first": 0.1, "last": -1}}, "last"),
        ({"plan": {"learning_rat": 0.1}}, "learning_rat"),
        ({"federation": "My Lab"}, "a-z"),
        ({"client_id": ""}, "a-z"),
        ({"rounds": 0}, "rounds"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"goals": 3}, "goals"),
        ({"server_momentum": 1}, "server_momentum"),
        ({"keep_versions": 1}, "keep_versions to at least 2, or server_momentum to 0"),
        ({"plan": "fast"}, "plan"),
        ({"plan": {"local_steps": "many"}}, "local_steps"),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_names_it(changes: Any, hint: Any) -> None:
    with pytest.raises(ValidationError, match=hint):
        config(**changes)


def test_it_survives_the_way_through_json() -> None:
    first = config(plan={"local_steps": 3}, broker={"host": "example", "port": 8883})
    assert AggregatorConfig.model_validate_json(first.model_dump_json()) == first


def test_every_registered_codec_can_be_the_runs() -> None:
    for name in CODECS:
        dense = codec_named(name).dense
        assert (config(codec=name).budget_bytes(1000, round_id=1) is None) == dense


def test_the_budget_may_follow_the_rounds() -> None:
    following = config(rounds=3, bits_per_coordinate={"first": 0.1, "last": 0.4})
    sizes = [following.budget_bytes(80_000, round_id=round_id) for round_id in (1, 2, 3, 4)]
    assert sizes == [1000, 2000, 4000, 4000]


def test_a_budget_may_be_cut_to_a_least_that_is_never_above_it() -> None:
    assert config().least_bytes(80_000, round_id=1) == 500
    assert config(min_bits_per_coordinate=0.1).least_bytes(80_000, round_id=1) == 1000
    assert config(bits_per_coordinate=0.01).least_bytes(80_000, round_id=1) == 100
    assert config(codec="fp32").least_bytes(80_000, round_id=1) is None
    with pytest.raises(ValidationError, match="min_bits_per_coordinate"):
        config(codec="fp32", min_bits_per_coordinate=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"late": "keep"},
        {"max_staleness": 0},
        {"max_staleness": 33},
        {"norm_factor": 0.5},
        {"norm_policy": "warn"},
        {"quota_segments_per_s": 0},
        {"max_open_updates": 0},
    ],
)
def test_policies_and_quotas_that_cannot_be_are_refused(changes: Any) -> None:
    with pytest.raises(ValidationError):
        config(**changes)
