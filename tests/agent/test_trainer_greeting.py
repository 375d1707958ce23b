"""What the trainer said last stands until its model or its text changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig
from agent.tasks import TaskFailed, TrainerHello, encode_line
from agent.trainer_greeting import GreetingFile

HELLO = TrainerHello(7, "2.4", "12.6", 90, 10, "ab" * 32)


def configured(folder: Path, **changes: Any) -> AgentConfig:
    options = {
        "federation": "fed",
        "client_id": "dev-1",
        "state_dir": folder,
        "model": str(folder / "model"),
        "data": {"train": folder / "train", "heldout": folder / "heldout.jsonl"},
    }
    return AgentConfig.model_validate(options | changes)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    for name in ("model/config.json", "model/model.safetensors", "train/a.jsonl", "heldout.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("one")
    GreetingFile(configured(tmp_path)).save(HELLO)
    return tmp_path


def test_a_hello_is_remembered(device: Path) -> None:
    assert GreetingFile(configured(device)).load() == HELLO


def test_nothing_is_remembered_before_the_first(tmp_path: Path) -> None:
    assert GreetingFile(configured(tmp_path)).load() is None


@pytest.mark.parametrize(
    "name", ["model/config.json", "model/model.safetensors", "train/a.jsonl", "heldout.jsonl"]
)
def test_a_file_that_has_changed_makes_it_untrue(device: Path, name: str) -> None:
    (device / name).write_text("another")
    assert GreetingFile(configured(device)).load() is None


def test_a_new_file_makes_it_untrue(device: Path) -> None:
    (device / "train" / "b.jsonl").write_text("more")
    assert GreetingFile(configured(device)).load() is None


@pytest.mark.parametrize("changes", [{"model": "other/model"}, {"model": None}])
def test_another_configuration_makes_it_untrue(device: Path, changes: dict[str, Any]) -> None:
    assert GreetingFile(configured(device, **changes)).load() is None


def test_text_that_the_agent_may_not_see_counts_by_its_name(device: Path) -> None:
    hidden = configured(device, data={"train": "/nowhere/private.jsonl"})
    GreetingFile(hidden).save(HELLO)
    assert GreetingFile(hidden).load() == HELLO


def test_a_file_of_anything_else_is_no_hello(device: Path) -> None:
    path = device / "trainer_hello.json"
    mark, _, _ = path.read_bytes().partition(b"\n")
    other = encode_line(TaskFailed("t", "r", "x", retryable=True))
    for content in (b"", b"\xff\xfe", mark, mark + b"\n" + other, b"x" * 100_000):
        path.write_bytes(content)
        assert GreetingFile(configured(device)).load() is None


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(device: Path) -> None:
    GreetingFile(configured(device, state_dir=device / "heldout.jsonl")).save(HELLO)
