"""Devices and a server in network namespaces of this machine, with real netem between them.

    device-1  10.77.0.1 ─┐
    device-2  10.77.0.2 ─┼─ router ── server 10.78.0.1
    ...                  ┘

Every device has a link of its own through the router: two queues, one each way. The router is a
namespace where this machine's kernel has netem, else a small virtual machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from typing_extensions import Self

from tools.netem import commands
from tools.netem.commands import Command
from tools.netem.errors import LabBroken, Refused, Unavailable
from tools.netem.namespaces import end_namespace, inside, make_namespace, within
from tools.netem.profile import Direction, Profile
from tools.netem.programs import kernel_has_netem, may_administer, need, output_of
from tools.netem.router import KernelRouter, Router
from tools.netem.router_vm import RouterVm
from tools.netem.schedule import Schedule
from tools.netem.state import LabState, StateFiles, state_folder, this_process

MAX_DEVICES: Final = 250
SERVER: Final = "server"
DEVICE: Final = "device"
_SERVER_ADDRESS: Final = "10.78.0.1"
_ROUTER_ADDRESSES: Final = ("10.77.0.254", "10.78.0.254")
_END_S: Final = 5.0
_UNLIMITED: Final = Profile(title="As fast as this machine is")


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """What one side has sent and received so far, headers and retransmissions included."""

    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """What one direction of a device's link has let through, and what it has lost."""

    passed_packets: int
    passed_bytes: int
    lost_packets: int


class Lab:
    """The context in which the namespaces exist; needs root."""

    def __init__(self, *, devices: int = 1, router: str = "auto") -> None:
        """Describe a lab; nothing is made before it is entered.

        Args:
            devices: How many there are.
            router: "kernel", "vm", or "auto": the kernel where it has netem.

        Raises:
            Refused: There are too many devices, or none.
        """
        if not 1 <= devices <= MAX_DEVICES:
            raise Refused(f"a lab of {devices} devices: there may be 1 to {MAX_DEVICES}")
        self.devices = tuple(f"{DEVICE}-{number}" for number in range(1, devices + 1))
        self.kind = router
        self._schedule = Schedule()
        self._changed = threading.Condition()
        self._failure: LabBroken | None = None
        self._is_ending = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not may_administer():
            raise Unavailable("a lab needs root: it makes network namespaces")
        need("ip", "iproute2")
        self._files = StateFiles(LabState, state_folder())
        sweep_labs(self._files)
        if self.kind == "auto":
            self.kind = "kernel" if kernel_has_netem() else "vm"
        try:
            self._build()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def address(self, side: str) -> str:
        """Return the IPv4 address of a side: "server", "device" (the first), or "device-7"."""
        return _SERVER_ADDRESS if side == SERVER else f"10.77.0.{self._number(side)}"

    def namespace(self, side: str) -> str:
        """Return the name of a side's network namespace."""
        return f"{self._tag}-{SERVER}" if side == SERVER else f"{self._tag}-d{self._number(side)}"

    def popen(
        self,
        side: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        output: IO[bytes] | int | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program on a side; it ends with the lab at the latest.

        Args:
            side: "server", "device" (the first), or "device-7".
            command: Its argv.
            environ: Added to this process's own, and to `self.environ`.
            output: Takes stdout and stderr; `subprocess.DEVNULL` and its like are allowed.
            cwd: Its working folder.
        """
        process = subprocess.Popen(  # noqa: S603  # the caller's own command
            within(self.namespace(side), tuple(command)),
            env={**os.environ, **self.environ(side), **(environ or {})},
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(self, side: str, command: Sequence[str], *, timeout_s: float = 60.0) -> str:
        """Run a program on a side to its end, and return what it wrote to stdout.

        Raises:
            LabBroken: It failed, or took too long.
        """
        try:
            done = subprocess.run(  # noqa: S603  # the caller's own command
                within(self.namespace(side), tuple(command)),
                env={**os.environ, **self.environ(side)},
                capture_output=True,
                text=True,
                check=True,
                timeout=timeout_s,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise LabBroken(f"{error}: {' '.join(str(error.stderr).split())}") from error
        return done.stdout

    def inside(self, side: str) -> contextlib.AbstractContextManager[None]:
        """Have this thread on a side: sockets and threads made meanwhile stay there for good."""
        return inside(self.namespace(side))

    def environ(self, side: str) -> dict[str, str]:
        """Return the variables with which programs find each other."""
        return {
            "LAB_SIDE": side,
            "LAB_SERVER": _SERVER_ADDRESS,
            "LAB_ADDRESS": self.address(side),
        }

    def apply(self, profile: Profile, *, device: str | None = None) -> None:
        """Give a device, or every one, this kind of link, from the first of its phases."""
        with self._changed:
            self._schedule.apply(self._numbers(device), profile, now=time.monotonic())
            self._update()

    def cut(self, device: str | None = None) -> None:
        """Let nothing pass, in either direction, until `restore`; every device by default."""
        with self._changed:
            self._schedule.cut(self._numbers(device))
            self._update()

    def restore(self, device: str | None = None) -> None:
        """End a cut: the link is again what its profile says."""
        with self._changed:
            self._schedule.restore(self._numbers(device))
            self._update()

    def link_bytes(self, side: str) -> LinkBytes:
        """Return what a side has sent and received so far."""
        show = ("ip", "-n", self.namespace(side), "-j", "-s", "link", "show", "eth0")
        counters = json.loads(output_of(*show))[0]["stats64"]
        return LinkBytes(counters["tx"]["bytes"], counters["rx"]["bytes"])

    def queues(self, device: str = DEVICE) -> tuple[QueueCounts, QueueCounts]:
        """Return the counts of a device's link since its profile was applied: up, then down."""
        parent = f"1:{self._number(device):x}"
        towards_devices, towards_server = self._router.interfaces
        up, down = (self._queue(interface, parent) for interface in
                    (towards_server, towards_devices))  # fmt: skip
        return up, down

    def _queue(self, interface: str, parent: str) -> QueueCounts:
        with self._changed:
            answer = self._router.run([("tc", "-j", "-s", "qdisc", "show", "dev", interface)])
        for queue in json.loads(answer):
            if queue.get("parent") == parent:
                return QueueCounts(queue["packets"], queue["bytes"], queue["drops"])
        raise LabBroken(f"the router's interface {interface} has no queue {parent}")

    def _number(self, side: str) -> int:
        name = f"{DEVICE}-1" if side == DEVICE else side
        if name not in self.devices:
            raise Refused(
                f"the lab has no {side}: there are {SERVER} and {', '.join(self.devices)}"
            )
        return self.devices.index(name) + 1

    def _numbers(self, device: str | None) -> list[int]:
        if device is None:
            return list(range(1, len(self.devices) + 1))
        return [self._number(device)]

    def _update(self) -> None:
        """Have the router do what is due; called with the lock held."""
        if self._failure is not None:
            raise LabBroken(f"the lab is broken: {self._failure}") from self._failure
        towards_devices, towards_server = self._router.interfaces
        todo: list[Command] = []
        for change in self._schedule.changes(time.monotonic()):
            number, link = change.number, change.link
            for interface, direction in ((towards_server, link.up), (towards_devices, link.down)):
                if change.is_new:
                    todo.append(commands.router_clear(interface, number))
                todo.append(
                    commands.router_leaf(
                        interface, number, direction, is_cut=link.cut, is_new=change.is_new
                    )
                )
        if todo:
            self._router.run(todo)
        self._changed.notify_all()

    def _follow(self) -> None:
        """Change links when their phases end, until the lab ends."""
        with self._changed:
            while True:
                now = time.monotonic()
                wakeup_at = self._schedule.next_wakeup(now)
                left_s = None if wakeup_at is None else max(0.0, wakeup_at - now)
                if not self._ends():
                    self._changed.wait(left_s)
                if self._ends():
                    return
                try:
                    self._update()
                except LabBroken as error:  # told to the next caller
                    self._failure = error
                    return

    def _ends(self) -> bool:
        return self._is_ending

    def _build(self) -> None:
        self._tag = f"fq{secrets.token_hex(2)}"
        hub = f"{self._tag}-hub"
        sides = [SERVER, *self.devices]
        namespaces = (hub, *map(self.namespace, sides))
        self._files.write(self._tag, LabState(namespaces=namespaces, owner=this_process()))
        self._cleanup.callback(self._files.remove, self._tag)
        for namespace in namespaces:
            self._cleanup.callback(end_namespace, namespace)
            make_namespace(namespace)
        self._router = self._start_router(hub)
        self._cleanup.callback(self._router.close)
        for side in sides:
            self._join(hub, side)
        self._configure_router()
        self._start_clock()
        self._cleanup.callback(self._end_processes)

    def _start_router(self, hub: str) -> Router:
        for bridge in ("devices", SERVER):
            output_of("ip", "-n", hub, "link", "add", bridge, "type", "bridge")
            output_of("ip", "-n", hub, "link", "set", bridge, "up")
        if self.kind == "kernel":
            return KernelRouter(hub)
        taps = ("tap0", "tap1")
        for tap, bridge in zip(taps, ("devices", SERVER), strict=True):
            output_of("ip", "-n", hub, "tuntap", "add", "dev", tap, "mode", "tap")
            output_of("ip", "-n", hub, "link", "set", tap, "master", bridge, "up")
        log = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory())) / "router.log"
        return RouterVm(namespace=hub, taps=taps, log=log)

    def _join(self, hub: str, side: str) -> None:
        """Give a side its address, and a cable to the router."""
        namespace, address = self.namespace(side), self.address(side)
        bridge = SERVER if side == SERVER else "devices"
        gateway = _ROUTER_ADDRESSES[1 if side == SERVER else 0]
        # Names of interfaces have 15 characters, and a device may be called like a bridge.
        cable = f"c-{side}"[:15]
        ip, there = ("ip", "-n", hub), ("ip", "-n", namespace)
        output_of(*ip, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns",
                  namespace)  # fmt: skip
        output_of(*ip, "link", "set", cable, "master", bridge, "up")
        # Packets as they are on a wire: netem would lose a bundle of them as one.
        output_of(*there, "link", "set", "eth0", "up", "gso_max_segs", "1")
        output_of(*there, "addr", "add", f"{address}/24", "dev", "eth0")
        output_of(*there, "route", "add", "default", "via", gateway)

    def _configure_router(self) -> None:
        router = self._router
        if isinstance(router, RouterVm):
            router.wait_booted()
        todo: list[Command] = []
        for interface, address in zip(router.interfaces, _ROUTER_ADDRESSES, strict=True):
            todo += [
                ("ip", "addr", "add", f"{address}/24", "dev", interface),
                ("ip", "link", "set", "dev", interface, "up"),
            ]
            if isinstance(router, RouterVm):
                todo.append(("ip", "link", "set", "dev", interface, "gro_max_size", "1"))
        addresses = [self.address(device) for device in self.devices]
        for interface, towards in zip(router.interfaces, ("devices", SERVER), strict=True):
            todo += commands.router_set_up(interface, addresses, towards=towards)
            todo += [
                commands.router_leaf(interface, number, Direction(), is_cut=False, is_new=True)
                for number in self._numbers(None)
            ]
        router.run(todo)

    def _start_clock(self) -> None:
        self._schedule.apply(self._numbers(None), _UNLIMITED, now=time.monotonic())
        clock = threading.Thread(target=self._follow, name="lab", daemon=True)
        clock.start()

        def end() -> None:
            with self._changed:
                self._is_ending = True
                self._changed.notify_all()
            clock.join(_END_S)

        self._cleanup.callback(end)

    def _end_processes(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _END_S
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def sweep_labs(files: StateFiles[LabState]) -> None:
    """Remove what labs left behind whose process was killed."""
    for name in files.names():
        state = files.read(name)
        if state is not None and state.owner.alive:
            continue
        for namespace in state.namespaces if state is not None else ():
            end_namespace(namespace)
        files.remove(name)
