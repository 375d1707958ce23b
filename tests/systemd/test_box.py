"""The container that other tests trust: systemd runs in it, nothing of it is left behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system
BOX = Path(__file__).with_name("box.py")


def test_systemd_runs_and_nothing_else_has_been_started(box: Any) -> None:
    assert box.run("systemctl is-system-running").stdout == "running\n"
    assert box.run("cat /proc/1/comm").stdout == "systemd\n"
    services = box.run("systemctl list-units --type=service --state=running --plain --no-legend")
    ours = {line.split()[0] for line in services.stdout.splitlines()}
    assert {unit for unit in ours if not unit.startswith(("systemd-", "dbus"))} == set()


def test_its_network_is_a_loopback_alone(box: Any) -> None:
    assert box.run("ls /sys/class/net").stdout.split() == ["lo"]
    assert "state UNKNOWN" in box.run("ip -oneline link show lo").stdout


def test_what_is_written_there_is_not_written_here(box: Any) -> None:
    box.write("/etc/fedfstq-box-test/a file", "text\n", mode=0o640, owner="root:daemon")
    assert box.read("/etc/fedfstq-box-test/a file") == "text\n"
    assert box.run("stat -c %a:%G '/etc/fedfstq-box-test/a file'").stdout == "640:daemon\n"
    assert not Path("/etc/fedfstq-box-test").exists()


def test_a_folder_is_copied_under_the_name_that_is_given(box: Any, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "script").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "deep" / "script").chmod(0o755)
    box.copy(tmp_path, "/srv/copied here")
    assert box.run("'/srv/copied here/deep/script'").stdout == "hello\n"
    assert not Path("/srv/copied here").exists()


def test_a_service_is_started_killed_and_started_again_by_systemd(box: Any) -> None:
    box.write(
        "/etc/systemd/system/steady.service",
        "[Service]\nExecStart=/bin/sh -c 'echo begun; exec sleep 1000'\n"
        "Restart=always\nRestartSec=0\n[Install]\nWantedBy=multi-user.target\n",
    )
    box.run("systemctl daemon-reload && systemctl enable --now steady")
    first = box.show("steady", "MainPID")
    box.run("systemctl kill --kill-who=main --signal=KILL steady")
    box.wait(lambda: box.show("steady", "NRestarts") == "1", "a restart")
    box.wait(lambda: box.show("steady", "SubState") == "running", "the service")
    assert box.show("steady", "MainPID") != first
    assert box.journal("steady").count("begun") == 2
    box.run("systemctl stop steady")


def test_a_memory_limit_kills_who_takes_more(box: Any) -> None:
    limits = "--property=MemoryMax=60M --property=MemorySwapMax=0"
    greedy = f"systemd-run --quiet --wait {limits} {sys.executable} -c"
    assert box.run(f"{greedy} 'bytearray(30 << 20)'", check=False).returncode == 0
    assert box.run(f"{greedy} 'bytearray(300 << 20)'", check=False).returncode != 0


def test_a_command_that_fails_says_what_it_said(box: Any) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exit 3.*some words"):
        box.run("echo some words >&2; exit 3")
    assert box.run("exit 3", check=False).returncode == 3


def test_a_command_that_hangs_is_killed(box: Any) -> None:
    with pytest.raises(RuntimeError, match=r"killed after 0\.2 s"):
        box.run("sleep 1000", limit_s=0.2, check=False)


def test_what_stays_in_the_background_does_not_hold_a_command_up(box: Any) -> None:
    assert box.run("sleep 1000 & echo done", limit_s=20).stdout == "done\n"


def test_a_wait_that_is_in_vain_says_for_what(box: Any) -> None:
    with pytest.raises(RuntimeError, match=r"waited 0\.01 s for a miracle"):
        box.wait(lambda: False, "a miracle", limit_s=0.01)


def test_nothing_is_left_after_an_error_inside(box: Any) -> None:
    boot = sys.modules[type(box).__module__].boot
    leaders = []

    def fail_inside() -> None:
        with boot() as other:
            leaders.append(other.leader)
            raise ZeroDivisionError

    before = set(Path(tempfile.gettempdir()).glob("fedfstq-box-*"))
    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not Path(f"/proc/{leaders[0]}").exists()
    assert set(Path(tempfile.gettempdir()).glob("fedfstq-box-*")) <= before
    assert "fedfstq-box" not in Path("/proc/self/mounts").read_text()


def test_a_container_that_does_not_boot_says_what_it_said(
    box: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = sys.modules[type(box).__module__]
    monkeypatch.setattr(boxes, "_START", "echo no such disk; exit 3")
    with pytest.raises(boxes.BoxError, match=r"did not boot .exit 3.:\nno such disk"):
        boxes.boot().__enter__()


def test_a_container_ends_with_the_process_that_booted_it(box: Any) -> None:
    script = (
        "import importlib.util, os, sys\n"
        f"spec = importlib.util.spec_from_file_location('box', {str(BOX)!r})\n"
        "boxes = sys.modules['box'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(boxes)\n"
        "with boxes.boot() as box:\n"
        "    print(box.leader, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == -9
    leader = Path(f"/proc/{int(done.stdout)}")
    box.wait(lambda: not leader.exists(), "the end of the container")
    left = "fedfstq-box-*-*"
    assert list(Path(tempfile.gettempdir()).glob(left))
    with sys.modules[type(box).__module__].boot():
        pass
    owners = {path.name.split("-")[2] for path in Path(tempfile.gettempdir()).glob(left)}
    assert all(Path("/proc", owner).exists() for owner in owners)
