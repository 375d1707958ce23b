"""A listening socket is taken over from systemd, and whoever waits in it is told the truth."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.socket_activation import inherited_listener, turn_away
from agent.tasks import TrainerRefusal, decode_line

ROOT = Path(__file__).parents[2]
REFUSAL = TrainerRefusal("trainer-config", "no text", retryable=False)


def activated(
    listener: socket.socket, command: list[str], **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as systemd runs a service: with the socket as descriptor 3."""
    program = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    descriptor = listener.fileno()
    return subprocess.run(
        [sys.executable, "-c", program, str(descriptor), *command],
        check=False,
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environ},
    )


@pytest.fixture
def waiting(tmp_path: Path) -> Any:
    """A listener with two clients in its queue."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for client in clients:
            client.connect(str(tmp_path / "s"))
            client.settimeout(10)
        yield listener, clients
        for client in clients:
            client.close()


def test_everyone_who_waits_is_told_and_the_queue_is_empty(waiting: Any) -> None:
    listener, clients = waiting
    clients[0].close()  # one has given up
    turn_away(listener, REFUSAL)
    with clients[1].makefile("rb") as lines:
        assert decode_line(lines.readline()) == REFUSAL
        assert lines.read() == b""
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_socket_of_systemd_is_taken_over_and_blocks(waiting: Any) -> None:
    program = (
        "from agent.socket_activation import inherited_listener;"
        "l = inherited_listener();"
        "print(l.getblocking(), l.get_inheritable(), l.accept()[0].fileno() > 3)"
    )
    waiting[0].settimeout(0.0)
    done = activated(waiting[0], [sys.executable, "-c", program])
    assert done.stdout.split() == ["True", "False", "True"], done.stderr


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"},
    ],
)
def test_a_socket_that_is_not_for_this_process_is_left_alone(environ: dict[str, str]) -> None:
    assert inherited_listener(environ) is None


@pytest.mark.parametrize("broken", ["configuration", "text"])
def test_a_trainer_that_cannot_work_leaves_nobody_waiting_and_ends_with_78(
    waiting: Any, tmp_path: Path, broken: str
) -> None:
    config: dict[str, Any] = {
        "federation": "fed",
        "client_id": "dev-1",
        "state_dir": str(tmp_path),
        "model": str(ROOT / "tools" / "base"),
        "data": {"train": str(tmp_path / "missing.jsonl")},
        "trainer": "service",
    }
    if broken == "configuration":
        config["federatoin"] = config.pop("federation")
    (tmp_path / "agent.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tools.cli", "trainer", "-c", str(tmp_path / "agent.yaml")]
    done = activated(waiting[0], command)
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    with waiting[1][-1].makefile("rb") as lines:  # a newer one takes the place of an older one
        refusal = decode_line(lines.readline())
    assert isinstance(refusal, TrainerRefusal)
    assert (refusal.reason, refusal.retryable) == ("trainer-config", False)
    assert refusal.text in done.stderr
    with pytest.raises(BlockingIOError):
        waiting[0].accept()
