"""What an idle agent costs its device: memory, and how often it wakes a core."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.broker, pytest.mark.processes]

ROOT = Path(__file__).parents[2]
MOST_RSS_KIB = 80 * 1024
# A wakeup and what it does take well under 1 ms of a core: 2 % of it are 20 ms in a second.
MOST_WAKEUPS_PER_S = 20.0
WATCHED_S = 6.0


@pytest.fixture
def idle_agent(mosquitto: Any, tmp_path: Path, wait_until: Any) -> Any:
    """A connected agent with nothing to do, as its service starts it; no trainer is there."""
    config = {
        "federation": "fed",
        "client_id": "dev-1",
        "broker": mosquitto.model_dump(mode="json"),
        "state_dir": str(tmp_path / "state"),
        "data": {"train": "/nowhere"},
        "trainer": "service",
    }
    (tmp_path / "agent.yaml").write_text(json.dumps(config))
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "tools.cli", "agent", "-c", str(tmp_path / "agent.yaml")]
        process = subprocess.Popen(command, stderr=log, cwd=ROOT)
    try:
        wait_until(lambda: "is up" in (tmp_path / "log").read_text())
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def numbers(status: Path, name: str) -> int:
    """Return one number of a `status` file of /proc."""
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def wakeups(pid: int) -> int:
    threads = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(numbers(thread, "voluntary_ctxt_switches") for thread in threads)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_agent_is_small_and_sleeps(idle_agent: int) -> None:
    time.sleep(2.0)  # what belongs to the start is over
    before, began = wakeups(idle_agent), time.monotonic()
    time.sleep(WATCHED_S)
    per_second = (wakeups(idle_agent) - before) / (time.monotonic() - began)
    assert numbers(Path(f"/proc/{idle_agent}/status"), "VmRSS") <= MOST_RSS_KIB
    assert per_second <= MOST_WAKEUPS_PER_S
