"""The disk and the state folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from tools.doctor.context import Context
from tools.doctor.disk import (
    Folder,
    judge_absent,
    judge_agent_disk,
    judge_aggregator_disk,
    judge_state_dir,
    judge_sync,
)
from tools.doctor.finding import Finding, State

MIB = 1 << 20
HERE = Path("/var/lib/fedfstq")


@pytest.mark.parametrize(
    ("free", "state"),
    [(100 * MIB, State.FAIL), (1000 * MIB, State.WARN), (9000 * MIB, State.OK)],
)
def test_a_device_needs_room(free: int, state: State) -> None:
    assert judge_agent_disk(free, place=HERE).state is state


@pytest.mark.parametrize(
    ("free", "journal", "state"),
    [
        (100 * MIB, 0, State.FAIL),
        (3000 * MIB, 0, State.WARN),
        (3000 * MIB, 2000 * MIB, State.OK),
        (5000 * MIB, 0, State.OK),
    ],
)
def test_the_journal_must_have_the_room_that_it_may_take(
    free: int, journal: int, state: State
) -> None:
    found = judge_aggregator_disk(free, journal=journal, journal_max=4096 * MIB, place=HERE)
    assert found.state is state
    if state is State.WARN:
        assert f"journal_max_bytes: {2250 * MIB}" in found.mend


@pytest.mark.parametrize(
    ("owner", "mode", "user", "state"),
    [
        ("fedfstq", 0o700, "fedfstq", State.OK),
        ("root", 0o700, "fedfstq", State.FAIL),
        ("me", 0o700, None, State.OK),
        ("me", 0o755, None, State.WARN),
        ("me", 0o770, None, State.FAIL),
        ("me", 0o702, None, State.FAIL),
    ],
)
def test_a_state_folder_is_the_services_own(
    owner: str, mode: int, user: str | None, state: State
) -> None:
    assert judge_state_dir(Folder(owner, mode), HERE, user=user).state is state


def test_a_slow_disk_is_named() -> None:
    assert judge_sync(0.01, HERE).state is State.OK
    assert judge_sync(2.0, HERE).state is State.WARN


def test_a_state_folder_that_cannot_be_made_is_named() -> None:
    assert judge_absent(HERE / "x", HERE, can_make=True, unit="u").state is State.OK
    assert "-o fedfstq" in judge_absent(HERE / "x", HERE, can_make=False, unit="u").mend


def test_a_state_folder_is_written_to_and_left_as_it_was(
    agent_config: Callable[..., AgentConfig], examine: Callable[..., dict[str, Finding]]
) -> None:
    config = agent_config()
    found = examine("disk", Context(config))
    assert found["fsync"].state is State.OK
    assert list(config.state_dir.iterdir()) == []


def test_a_state_folder_that_is_not_there_is_not_made(
    tmp_path: Path,
    aggregator_config: Callable[..., AggregatorConfig],
    examine: Callable[..., dict[str, Finding]],
) -> None:
    absent = tmp_path / "a" / "b"
    found = examine("disk", Context(aggregator_config(state_dir=absent, journal_max_bytes=MIB)))
    assert found["disk"].state is State.OK
    assert found["state-dir"].state is State.OK
    assert found["fsync"].state is State.SKIP
    assert not absent.exists()
