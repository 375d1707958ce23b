"""Network namespaces of this machine: made, entered, and ended with everything in them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.netem.commands import Command
from tools.netem.errors import LabBroken
from tools.netem.programs import output_of

_RUN: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_END_S: Final = 5.0


def within(namespace: str, command: Command) -> Command:
    """Return the command that runs another one in a namespace; it keeps the process number."""
    return ("ip", "netns", "exec", namespace, *command)


def make_namespace(name: str) -> None:
    """Make a namespace with its loopback up, and without the chatter of IPv6."""
    output_of("ip", "netns", "add", name)
    quiet = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; "
    quiet += "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
    output_of(*within(name, ("sh", "-c", quiet)), missing="")  # a kernel may have none
    output_of("ip", "-n", name, "link", "set", "lo", "up")


def end_namespace(name: str) -> None:
    """Kill what runs in a namespace, and remove it with its interfaces; it need not exist."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        pids = [int(pid) for pid in output_of("ip", "netns", "pids", name, missing="").split()]
        others = [pid for pid in pids if pid != os.getpid()]
        if not others:
            break
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    output_of("ip", "netns", "del", name, missing="")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have this thread in a namespace: sockets and threads made here stay there for good.

    Raises:
        LabBroken: The namespace cannot be entered.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: Path) -> None:
        with path.open("rb") as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET):
                raise LabBroken(f"cannot enter {path}: {os.strerror(ctypes.get_errno())}")

    here = Path(f"/proc/self/task/{threading.get_native_id()}/ns/net")
    with here.open("rb") as origin:
        enter(_RUN / namespace)
        try:
            yield
        finally:
            if libc.setns(origin.fileno(), _CLONE_NEWNET):
                raise LabBroken(f"cannot leave {namespace}: {os.strerror(ctypes.get_errno())}")
