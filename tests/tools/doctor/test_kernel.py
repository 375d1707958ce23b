"""BBR and the timeout of dead connections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from tools.doctor.kernel import judge_bbr, judge_user_timeout


@pytest.mark.parametrize(
    ("available", "allowed", "state", "mend"),
    [
        ("reno bbr cubic\n", "reno bbr cubic\n", State.OK, ""),
        ("reno cubic\n", "reno cubic\n", State.WARN, "modprobe tcp_bbr"),
        ("reno bbr\n", "reno\n", State.WARN, "'reno bbr'"),
        ("reno bbr\n", None, State.WARN, "'reno bbr'"),
        (None, None, State.SKIP, ""),
    ],
)
def test_bbr_must_be_there_and_allowed(
    available: str | None, allowed: str | None, state: State, mend: str
) -> None:
    found = judge_bbr(available, allowed)
    assert found.state is state
    assert mend in found.mend


def test_a_system_without_the_timeout_is_named() -> None:
    assert judge_user_timeout(takes=True).state is State.OK
    assert judge_user_timeout(takes=False).state is State.WARN


def test_the_files_are_read_below_the_root(
    tmp_path: Path, examine: Callable[..., dict[str, Finding]]
) -> None:
    folder = tmp_path / "proc/sys/net/ipv4"
    folder.mkdir(parents=True)
    (folder / "tcp_available_congestion_control").write_text("reno\n")
    found = examine("bbr", Context(root=tmp_path))
    assert found["bbr"].state is State.WARN
    assert found["tcp-timeout"].state is State.OK
