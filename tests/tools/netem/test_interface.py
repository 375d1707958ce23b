"""Links on interfaces: refusals, and everything undone whatever happens, on a pretended machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tools.netem.commands import HANDLE, Command, render
from tools.netem.errors import NetemError, NoNetem, Refused, Unavailable
from tools.netem.interface import Interfaces, Machine, stop_signals
from tools.netem.profile import Phase, Profile, load_profile
from tools.netem.programs import CommandFailed, no_netem
from tools.netem.state import InterfaceState, Owner, StateFiles, _started_ticks

STEADY = load_profile("lossy-5")
BLINKING = Profile(
    name="blinking", title="x", phases=(Phase(for_s=0.05), Phase(for_s=0.05, cut=True))
)


class Pretended(Machine):
    """A machine with eth0 (the default route's) and eth1, whose kernel does as it is told."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.links = {"lo", "eth0", "eth1"}
        self.found: dict[str, list[dict[str, Any]]] = {"eth1": [{"kind": "mq", "handle": "0:"}]}
        self.fails_at: str | None = None
        self.is_able: NetemError | None = None

    def run(self, todo: Iterable[Command]) -> None:
        for command in todo:
            line = render(command)
            if self.fails_at is not None and self.fails_at in line:
                raise CommandFailed(f"`{line}` failed: No such device")
            self.ran.append(line)
            match command:
                case ("tc", "qdisc", "add", "dev", device, "root", *_):
                    self.found.setdefault(device, []).append(
                        {"kind": "netem", "handle": HANDLE, "root": True, "packets": 7, "drops": 1}
                    )
                case ("tc", "qdisc", "del", "dev", device, "root"):
                    if not any(one["handle"] == HANDLE for one in self.found.get(device, [])):
                        raise CommandFailed("there is none")
                    self.found[device] = [
                        one for one in self.found[device] if one["handle"] != HANDLE
                    ]

    def interfaces(self) -> tuple[str, ...]:
        return tuple(sorted(self.links))

    def default_routes(self) -> frozenset[str]:
        return frozenset({"eth0"})

    def qdiscs(self, interface: str) -> list[dict[str, Any]]:
        return self.found.get(interface, [])

    def check_able(self) -> None:
        if self.is_able is not None:
            raise self.is_able


@pytest.fixture
def machine() -> Pretended:
    return Pretended()


@pytest.fixture
def files(tmp_path: Path) -> StateFiles[InterfaceState]:
    return StateFiles(InterfaceState, tmp_path)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def interfaces(
    machine: Pretended, files: StateFiles[InterfaceState], told: list[str]
) -> Interfaces:
    return Interfaces(files, machine, tell=told.append)


def pause(timeout_s: float | None) -> bool:
    assert timeout_s is not None
    time.sleep(timeout_s)
    return False


def up(interfaces: Interfaces, interface: str = "eth1", **changes: Any) -> None:
    options = {"with_ifb": True, "is_held": False, "default_route_too": False} | changes
    profile = options.pop("profile", STEADY)
    interfaces.up(interface, profile, **options)


def test_up_runs_what_it_tells_and_down_undoes_it(
    interfaces: Interfaces,
    machine: Pretended,
    files: StateFiles[InterfaceState],
    told: list[str],
) -> None:
    up(interfaces)
    assert machine.ran == told
    assert len(told) == 6
    (status,) = interfaces.status()
    assert status.state.profile == "lossy-5"
    assert not status.is_held
    assert {one["handle"] for one in status.qdiscs} == {"0:", HANDLE}
    interfaces.down("eth1")
    assert machine.ran[-1] == "tc qdisc del dev eth1 root"
    assert files.names() == ()


def refused(interfaces: Interfaces, machine: Pretended, *arguments: str, **changes: Any) -> str:
    with pytest.raises(Refused) as caught:
        up(interfaces, *arguments, **changes)
    assert machine.ran == []
    return str(caught.value)


def test_an_interface_that_is_not_there_is_refused(
    interfaces: Interfaces, machine: Pretended
) -> None:
    assert "eth0, eth1, lo" in refused(interfaces, machine, "eth7")


def test_the_default_routes_interface_needs_a_yes(
    interfaces: Interfaces, machine: Pretended
) -> None:
    assert "--yes-default-route" in refused(interfaces, machine, "eth0")
    up(interfaces, "eth0", default_route_too=True)
    assert machine.ran


@pytest.mark.parametrize(
    ("qdisc", "with_ifb", "is_refused"),
    [
        ({"kind": "htb", "handle": "1:", "root": True}, False, True),
        ({"kind": "netem", "handle": HANDLE, "root": True}, False, True),
        ({"kind": "clsact", "handle": "ffff:"}, True, True),
        ({"kind": "ingress", "handle": "ffff:"}, True, True),
        ({"kind": "ingress", "handle": "ffff:"}, False, False),
        ({"kind": "fq_codel", "handle": "0:", "root": True}, True, False),
    ],
)
def test_a_qdisc_of_somebody_else_is_not_overwritten(
    interfaces: Interfaces,
    machine: Pretended,
    qdisc: dict[str, Any],
    *,
    with_ifb: bool,
    is_refused: bool,
) -> None:
    machine.found["eth1"] = [qdisc]
    if is_refused:
        assert qdisc["kind"] in refused(interfaces, machine, with_ifb=with_ifb)
    else:
        up(interfaces, with_ifb=with_ifb)


def test_an_ifb_of_somebody_else_is_not_taken(interfaces: Interfaces, machine: Pretended) -> None:
    machine.links.add("ifb-eth1")
    assert "ifb-eth1" in refused(interfaces, machine)


def test_what_is_up_already_is_refused(interfaces: Interfaces, machine: Pretended) -> None:
    up(interfaces)
    machine.ran.clear()
    assert "netem set" in refused(interfaces, machine)


@pytest.mark.parametrize("error", [no_netem(), Unavailable("use sudo")])
def test_what_the_machine_cannot_do_leaves_no_trace(
    interfaces: Interfaces,
    machine: Pretended,
    files: StateFiles[InterfaceState],
    error: NetemError,
) -> None:
    machine.is_able = error
    with pytest.raises(type(error)):
        up(interfaces)
    assert machine.ran == []
    assert files.names() == ()


def test_the_error_without_netem_names_the_lab() -> None:
    assert isinstance(no_netem(), NoNetem)
    assert "fedfstq netem lab" in str(no_netem())


def test_half_a_link_is_undone_when_the_rest_fails(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState]
) -> None:
    machine.fails_at = "matchall"
    with pytest.raises(CommandFailed, match="No such device"):
        up(interfaces)
    assert machine.ran[-3:] == [
        "tc qdisc del dev eth1 ingress",
        "ip link del dev ifb-eth1",
        "tc qdisc del dev eth1 root",
    ]
    assert files.names() == ()


def test_down_touches_nothing_that_up_has_not_made(
    interfaces: Interfaces, machine: Pretended
) -> None:
    with pytest.raises(Refused, match="nothing is changed"):
        interfaces.down("eth1")
    assert machine.ran == []


def test_down_finds_what_a_killed_process_left(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState]
) -> None:
    up(interfaces)
    state = files.read("eth1")
    assert state is not None
    gone = Owner(pid=2**22 + 1, started_ticks=1)
    files.write("eth1", state.model_copy(update={"owner": gone}))
    interfaces.down("eth1")
    assert not any(one["handle"] == HANDLE for one in machine.found["eth1"])
    assert files.names() == ()


def test_down_keeps_its_state_while_something_is_left(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState]
) -> None:
    up(interfaces)
    machine.fails_at = "del dev eth1 root"
    with pytest.raises(NetemError, match="still on eth1"):
        interfaces.down("eth1")
    assert files.names() == ("eth1",)


def test_down_asks_the_process_that_holds_the_link(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState], told: list[str]
) -> None:
    up(interfaces)
    state = files.read("eth1")
    assert state is not None
    path = files._path("eth1")
    script = f"import signal, os; signal.sigwait([15]); os.unlink({str(path)!r})"
    block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print(1, flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", block + script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        ticks = _started_ticks(holder.pid)
        assert ticks is not None
        owner = Owner(pid=holder.pid, started_ticks=ticks)
        files.write("eth1", state.model_copy(update={"owner": owner}))
        with pytest.raises(Refused, match=f"process {holder.pid} holds eth1"):
            interfaces.change("eth1", STEADY, is_held=False)
        machine.ran.clear()
        interfaces.down("eth1")
    assert machine.ran == []
    assert told[-1] == f"# process {holder.pid} has taken it down"


def test_set_replaces_the_link(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState]
) -> None:
    up(interfaces, with_ifb=False)
    machine.ran.clear()
    interfaces.change("eth1", load_profile("gprs"), is_held=False)
    assert machine.ran[0] == "tc qdisc del dev eth1 root"
    assert "rate 40kbit" in machine.ran[1]
    assert len(machine.ran) == 2
    state = files.read("eth1")
    assert state is not None
    assert state.profile == "gprs"


def test_phases_are_followed_until_the_time_is_over_and_then_undone(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState]
) -> None:
    up(interfaces, profile=BLINKING, with_ifb=False, is_held=True)
    interfaces.hold("eth1", BLINKING, for_s=0.3, wait=pause)
    changes = [line for line in machine.ran if " change " in line]
    assert len(changes) >= 2
    assert "loss 100%" in changes[0]
    assert "loss" not in changes[1]
    assert machine.ran[-1] == "tc qdisc del dev eth1 root"
    assert files.names() == ()


def test_a_signal_ends_a_steady_link_that_is_held(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState]
) -> None:
    up(interfaces, is_held=True)
    with stop_signals() as wait:
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
        began_at = time.monotonic()
        interfaces.hold("eth1", STEADY, for_s=60.0, wait=wait)
    assert time.monotonic() - began_at < 30
    assert machine.ran[-1] == "tc qdisc del dev eth1 root"
    assert files.names() == ()


def test_a_phase_that_fails_is_told_after_everything_is_undone(
    interfaces: Interfaces, machine: Pretended, files: StateFiles[InterfaceState]
) -> None:
    up(interfaces, profile=BLINKING, with_ifb=False, is_held=True)
    machine.fails_at = " change "
    with pytest.raises(CommandFailed):
        interfaces.hold("eth1", BLINKING, for_s=5.0, wait=pause)
    assert files.names() == ()


def test_the_real_machine_knows_its_loopback() -> None:
    machine = Machine()
    assert "lo" in machine.interfaces()
    assert "lo" not in machine.default_routes()
    assert machine.qdiscs("no-such-device") == []
