"""The base model and the layout against the run's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.base import base_digest
from agent.config import AgentConfig
from codec.layout import Layout
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from transport.control import RunAnnouncement

BASE = Path(__file__).parents[3] / "tools" / "base"
SHAPES = {"a.lora_A.weight": [2, 3], "a.lora_B.weight": [3, 2]}
LAYOUT = Layout.from_shapes(SHAPES).digest.hex()
Examine = Callable[..., dict[str, Finding]]


@pytest.fixture
def context(
    agent_config: Callable[..., AgentConfig], run: RunAnnouncement
) -> Callable[..., Context]:
    def make(model: str | None = str(BASE), **changes: str) -> Context:
        made = Context(agent_config(model=model))
        digest = base_digest(BASE).hex()
        made.known.run = replace(run, base_digest=digest, layout_digest=LAYOUT, **changes)
        return made

    return make


def _label(context: Context, version: int, **changes: object) -> None:
    run = context.known.run
    assert run is not None
    folder = context.agent.state_dir / "adapters"
    folder.mkdir(exist_ok=True)
    label = {"run": run.run, "layout": list(SHAPES.items())} | changes
    (folder / f"{version}.json").write_text(json.dumps(label))


def test_the_runs_own_model_is_right_and_nothing_is_written(
    context: Callable[..., Context], examine: Examine
) -> None:
    one = context()
    found = examine("model", one)
    assert {finding.state for finding in found.values()} == {State.OK}
    assert "the run's own" in found["model"].text
    assert list(one.agent.state_dir.iterdir()) == []


def test_another_model_is_found(
    context: Callable[..., Context], examine: Examine, tmp_path: Path
) -> None:
    other = tmp_path / "base"
    shutil.copytree(BASE, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    found = examine("model", context(model=str(other)))["model"]
    assert found.state is State.FAIL
    assert "has digest" in found.text
    (other / "config.json").write_text("{")
    assert "damaged" in examine("model", context(model=str(other)))["model"].text
    shutil.rmtree(other)
    assert "no such folder" in examine("model", context(model=str(other)))["model"].text


def test_without_a_run_there_is_nothing_to_compare_with(
    agent_config: Callable[..., AgentConfig], examine: Examine
) -> None:
    found = examine("model", Context(agent_config(model=str(BASE))))
    assert found["model"].state is State.OK
    assert found["layout"].state is State.SKIP
    assert examine("model", Context(agent_config()))["model"].state is State.WARN


def test_the_digests_cache_is_used(context: Callable[..., Context], examine: Examine) -> None:
    one = context()
    cache = one.agent.state_dir / "base_digest.json"
    base_digest(BASE, cache=cache)
    before = cache.stat().st_mtime_ns
    assert examine("model", one)["model"].state is State.OK
    assert cache.stat().st_mtime_ns == before


def test_adapters_must_have_the_runs_layout(
    context: Callable[..., Context], examine: Examine
) -> None:
    one = context()
    _label(one, 1)
    _label(one, 2, run="another", layout=[["x", [1]]])
    assert "the run's own" in examine("layout", one)["layout"].text
    _label(one, 3, layout=[["x", [1]]])
    assert examine("layout", one)["layout"].state is State.FAIL
    _label(one, 3, layout=7)
    assert examine("layout", one)["layout"].state is State.WARN
