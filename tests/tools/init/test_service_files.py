"""What services are given is what the documentation shows, and what they themselves accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.init.errors import InitRefused
from tools.init.service_files import agent_file, aggregator_file, mosquitto_file, template

ROOT = Path(__file__).parents[3]


def test_the_documented_examples_are_what_is_written_for_their_fleet(make_record: Any) -> None:
    fleet = make_record()
    examples = ROOT / "docs" / "examples"
    assert agent_file(fleet, "nano-01") == (examples / "agent.yaml").read_text()
    assert aggregator_file(fleet, goal=8) == (examples / "aggregator.yaml").read_text()


def test_a_device_is_named_everywhere_in_its_file(make_record: Any) -> None:
    text = agent_file(make_record(port=18883), "site-7", changes=['data.train="/srv/a b"'])
    made = yaml.safe_load(text)
    assert "nano-01" not in text
    assert made["client_id"] == "site-7"
    assert made["state_dir"] == "/var/lib/fedfstq/site-7"
    assert made["broker"]["port"] == 18883
    assert made["broker"]["tls"]["key_file"] == "/etc/fedfstq/certs/site-7.key"
    assert made["data"]["train"] == "/srv/a b"


@pytest.mark.parametrize(("goal", "quorum"), [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_half_the_goal_is_the_quorum(make_record: Any, goal: int, quorum: int) -> None:
    made = yaml.safe_load(aggregator_file(make_record(), goal=goal))
    assert (made["goal"], made["quorum"]) == (goal, quorum)


def test_a_fleet_that_signs_says_so_to_both_sides(make_record: Any) -> None:
    fleet = make_record(signing=True)
    assert yaml.safe_load(agent_file(fleet, "nano-01"))["signing"] == "required"
    assert yaml.safe_load(aggregator_file(fleet, goal=2))["signing"] == {
        "mode": "required",
        "crl_file": "/etc/fedfstq/certs/crl.pem",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.trian=/x", "did you mean train"),
        ("uplink.share_of_time=7", "uplink.share_of_time"),
        ("device", "write --set key=value"),
        ("a b=c", "write --set key=value"),
        ("device={", "no YAML"),
    ],
)
def test_what_the_agent_would_not_take_is_not_written(
    make_record: Any, change: str, said: str
) -> None:
    with pytest.raises(InitRefused, match=said) as refusal:
        agent_file(make_record(), "nano-01", changes=[change])
    assert "\n" not in str(refusal.value)
    assert "/tmp" not in str(refusal.value)


def test_the_broker_listens_where_the_fleet_says(make_record: Any) -> None:
    assert mosquitto_file(make_record()) == template("mosquitto.conf")
    assert "\nlistener 18883\n" in mosquitto_file(make_record(port=18883))


def test_an_installed_package_has_every_template() -> None:
    """They are links into docs/ and broker_config/, which no wheel has."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("needs a checkout")
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["tools"]
    packed = {file for pattern in patterns for file in (ROOT / "tools").glob(pattern)}
    folder = ROOT / "tools" / "init" / "templates"
    assert {file.name for file in folder.iterdir()} == {
        "acl",
        "mosquitto.conf",
        "agent.yaml",
        "aggregator.yaml",
    }
    assert set(folder.iterdir()) <= packed
    assert all(file.is_file() for file in folder.iterdir())
