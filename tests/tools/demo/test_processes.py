import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.demo.processes import Ended, Processes

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.stop()


def pid_of(processes: Processes, name: str) -> int:
    pids: dict[str, int] = json.loads((processes.folder / "pids.json").read_text())
    return pids[name]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def watch_until_restarted(processes: Processes, name: str, old_pid: int) -> int:
    for _ in range(200):
        assert processes.watch() == []
        if pid_of(processes, name) != old_pid:
            return pid_of(processes, name)
        time.sleep(0.05)
    raise AssertionError(f"{name} was not started again")


def watch_until_ended(processes: Processes) -> Ended:
    for _ in range(400):
        for ended in processes.watch():
            return ended
        time.sleep(0.05)
    raise AssertionError("nothing ended")


def test_a_killed_process_is_started_again_and_counted(processes: Processes) -> None:
    processes.start("one", SLEEPER)
    first = pid_of(processes, "one")
    os.kill(first, signal.SIGKILL)
    second = watch_until_restarted(processes, "one", first)
    assert alive(second)
    assert processes.restarts() == {"one": 1}


@pytest.mark.parametrize("code", [0, 2, 77, 78])
def test_an_exit_that_only_a_person_can_mend_is_final_and_quotes_the_last_line(
    processes: Processes, code: int
) -> None:
    command = f"import sys; print('first'); print('what is wrong'); sys.exit({code})"
    processes.start("one", (sys.executable, "-c", command))
    assert watch_until_ended(processes) == Ended("one", code, "what is wrong")
    assert not processes.running("one")


def test_stop_ends_every_process_and_empties_the_list_of_pids(processes: Processes) -> None:
    for name in ("one", "two"):
        processes.start(name, SLEEPER)
    pids = [pid_of(processes, name) for name in ("one", "two")]
    processes.stop()
    assert not any(alive(pid) for pid in pids)
    assert json.loads((processes.folder / "pids.json").read_text()) == {}


def test_a_process_that_ignores_the_request_is_killed(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.demo.processes.STOP_TIMEOUT_S", 0.2)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    processes.start("deaf", (sys.executable, "-c", f"{deaf}; time.sleep(60)"))
    log = processes.folder / "deaf.log"
    while not log.read_text():
        time.sleep(0.02)
    pid = pid_of(processes, "deaf")
    processes.stop()
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_when_the_demo_itself_is_killed_its_processes_end_too(tmp_path: Path) -> None:
    parent = (
        "import sys, time\nfrom pathlib import Path\nfrom tools.demo.processes import Processes\n"
        f"Processes(Path({str(tmp_path)!r})).start('one', {SLEEPER!r})\ntime.sleep(60)\n"
    )
    killed = Processes(tmp_path / "outer")
    killed.folder.mkdir()
    killed.start("parent", (sys.executable, "-c", parent))
    while not (tmp_path / "pids.json").exists():
        time.sleep(0.02)
    child = pid_of(Processes(tmp_path), "one")
    os.kill(pid_of(killed, "parent"), signal.SIGKILL)
    for _ in range(200):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)
    killed.stop()
