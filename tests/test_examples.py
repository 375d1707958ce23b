"""What the documentation shows is what the code takes."""

from __future__ import annotations

import dataclasses
import json
import re
from enum import Enum
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from tools.operate.login import OperatorConfig
from tools.settings import SettingsError, load
from transport import control
from transport.topics import DEVICE_LEAVES, Address, Topics

DOCS = Path(__file__).parents[1] / "docs"
SYSTEMD = Path(__file__).parents[1] / "systemd"
TOPICS = (DOCS / "topics.md").read_text(encoding="utf-8")
FLEET = Topics("clinics")
BULK = ("up/", "down/", "model/", "want/")
# Building blocks of messages, which never travel alone.
PARTS = {"TrainingPlan"}


def _messages() -> dict[str, type]:
    return {
        name: kind
        for name, kind in vars(control).items()
        if isinstance(kind, type)
        and dataclasses.is_dataclass(kind)
        and not issubclass(kind, Enum)
        and name not in PARTS
    }


def _shown() -> dict[str, tuple[str, str]]:
    """Message name → (topic, JSON) as docs/topics.md shows them."""
    pattern = r"^#### (\w+)\n\nOn `([^`]+)`\..*?```json\n(.*?)```"
    return {
        name: (topic, example)
        for name, topic, example in re.findall(pattern, TOPICS, flags=re.MULTILINE | re.DOTALL)
    }


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("aggregator.yaml", AggregatorConfig),
        ("agent.yaml", AgentConfig),
        ("operator.yaml", OperatorConfig),
    ],
)
def test_an_example_is_a_valid_configuration(file: str, model: type[BaseModel]) -> None:
    load(model, DOCS / "examples" / file)


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("aggregator.yaml", AggregatorConfig),
        ("agent.yaml", AgentConfig),
        ("operator.yaml", OperatorConfig),
    ],
)
def test_an_example_with_one_more_key_is_not(
    file: str, model: type[BaseModel], tmp_path: Path
) -> None:
    changed = tmp_path / file
    changed.write_text((DOCS / "examples" / file).read_text() + "\nroundz: 3\n")
    with pytest.raises(SettingsError, match="roundz"):
        load(model, changed)


def test_the_examples_belong_to_the_units_and_to_each_other() -> None:
    agent = load(AgentConfig, DOCS / "examples" / "agent.yaml")
    aggregator = load(AggregatorConfig, DOCS / "examples" / "aggregator.yaml")
    assert agent.federation == aggregator.federation
    assert agent.broker.address == aggregator.broker.address
    assert agent.trainer == "service"
    for unit, instance, state in (
        ("fedfstq-agent@.service", agent.client_id, agent.state_dir),
        ("fedfstq-trainer@.service", agent.client_id, agent.state_dir),
        ("fedfstq-aggregator.service", "", aggregator.state_dir),
    ):
        text = (SYSTEMD / unit).read_text().replace("%i", instance)
        (folder,) = re.findall(r"^StateDirectory=(.*)$", text, flags=re.MULTILINE)
        assert state == Path("/var/lib") / folder


def test_every_json_message_is_shown() -> None:
    assert set(_shown()) == set(_messages())


@pytest.mark.parametrize("name", sorted(_messages()))
def test_a_shown_message_is_what_the_code_writes(name: str) -> None:
    """Same keys in the same order, same types: reading and writing it again changes nothing."""
    _, example = _shown()[name]
    message: object = control.decode(_messages()[name], example.encode())
    written = json.loads(control.encode(message))
    assert json.dumps(written) == json.dumps(json.loads(example))


def test_the_tables_have_every_kind_of_topic() -> None:
    assert {place[0] for place in _tables().values()} == {
        kind.__name__ for kind in get_args(Address)
    }
    leaves = {place[1] for place in _tables().values() if place[0] == "DeviceTopic"}
    assert leaves == DEVICE_LEAVES


def test_a_message_is_shown_on_the_topic_that_the_table_gives_it() -> None:
    shown = {name: _place(f"{FLEET.monitoring}/{topic}") for name, (topic, _) in _shown().items()}
    assert shown == {name: place for name, place in _tables().items() if name in _messages()}


def _tables() -> dict[str, tuple[str, str]]:
    """Message, as a table's last column names it → the kind of its topic."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([^|]+) \|$", TOPICS, flags=re.MULTILINE)
    places = {}
    for row, message in rows:
        root = FLEET.bulk if row.startswith(BULK) else FLEET.monitoring
        topic = row.replace("<uid>", "0" * 32)
        places[message] = _place(f"{root}/{re.sub('<[a-z]+>', '1', topic)}")
    return places


def _place(topic: str) -> tuple[str, str]:
    """Return the kind of a topic, told apart further by leaf or command where it has one."""
    address = FLEET.parse(topic)
    return type(address).__name__, getattr(address, "leaf", getattr(address, "name", ""))
