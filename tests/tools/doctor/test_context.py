"""Asking the system's programs, and reading its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from tools.doctor import context
from tools.doctor.context import Context, Role, ask_system


def test_a_program_answers_or_is_missing_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_system(["echo", "x"]).out == "x\n"
    assert ask_system(["false"]).code == 1
    assert ask_system(["no-such-program-at-all"]).code == 127
    monkeypatch.setattr(context, "_COMMAND_S", 0.05)
    assert ask_system(["sleep", "30"]).code == 124


def test_role_and_unit_follow_from_the_configuration(
    agent_config: Callable[..., AgentConfig],
    aggregator_config: Callable[..., AggregatorConfig],
) -> None:
    assert Context().role is None
    agent = Context(agent_config())
    assert (agent.role, agent.unit) == (Role.AGENT, "fedfstq-agent@dev-1.service")
    aggregator = Context(aggregator_config())
    assert (aggregator.role, aggregator.unit) == (Role.AGGREGATOR, "fedfstq-aggregator.service")


def test_files_are_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/x").write_bytes(b"a\xff")
    assert Context(root=tmp_path).text("etc/x") == "a\N{REPLACEMENT CHARACTER}"
    assert Context(root=tmp_path).text("etc/y") is None
