"""Links on this machine's own interfaces: set up, changed, followed through phases, taken down.

Nothing is touched that was not named, and nothing is taken away that was not made here: a qdisc
that somebody else put on an interface is refused, and what was made stands in a state file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from tools.netem import commands
from tools.netem.commands import Command
from tools.netem.errors import NetemError, Refused, Unavailable
from tools.netem.profile import Profile
from tools.netem.programs import (
    CommandFailed,
    kernel_has_netem,
    may_administer,
    no_netem,
    output_of,
    run_all,
)
from tools.netem.schedule import Schedule
from tools.netem.state import InterfaceState, StateFiles, this_process

_END_S: Final = 5.0
_POLL_S: Final = 0.05
_NO_HANDLE: Final = "0:"

# Waits so many seconds, or for ever; returns whether it was ended before.
Wait: TypeAlias = Callable[[float | None], bool]


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """What is on an interface.

    Attributes:
        state: What was asked for.
        is_held: A process follows its phases, or will end it.
        qdiscs: What `tc -s` says about the interface and its ifb device.
    """

    state: InterfaceState
    is_held: bool
    qdiscs: list[dict[str, Any]]


class Machine:
    """The interfaces of this machine, and the programs that change them."""

    def run(self, todo: Iterable[Command]) -> None:
        """Run commands up to the first that fails."""
        run_all(todo)

    def interfaces(self) -> tuple[str, ...]:
        """Return the names of all interfaces."""
        return tuple(sorted(entry.name for entry in Path("/sys/class/net").iterdir()))

    def default_routes(self) -> frozenset[str]:
        """Return the interfaces by which everything else is reached."""
        routes = []
        for family in ("-4", "-6"):
            answer = output_of("ip", "-j", family, "route", "show", "default", missing="")
            routes += json.loads(answer or "[]")
        return frozenset(route["dev"] for route in routes if "dev" in route)

    def qdiscs(self, interface: str) -> list[dict[str, Any]]:
        """Return the qdiscs of an interface with their counters, none where it is gone."""
        show = ("tc", "-j", "-s", "qdisc", "show", "dev", interface)
        found: list[dict[str, Any]] = json.loads(output_of(*show, missing="") or "[]")
        return found

    def check_able(self) -> None:
        """Raise `Unavailable` where a link cannot be changed on this machine."""
        if not may_administer():
            raise Unavailable("changing a link needs root (or CAP_NET_ADMIN): use sudo")
        if not kernel_has_netem():
            raise no_netem()


class Interfaces:
    """What `fedfstq netem up` and its like do."""

    def __init__(
        self, files: StateFiles[InterfaceState], machine: Machine, *, tell: Callable[[str], None]
    ) -> None:
        """Work on this machine; `tell` gets each command before it runs, and what happens."""
        self._files = files
        self._machine = machine
        self._tell = tell

    def up(
        self,
        interface: str,
        profile: Profile,
        *,
        with_ifb: bool,
        is_held: bool,
        default_route_too: bool,
    ) -> None:
        """Give an interface a profile's first link.

        Args:
            interface: Its name.
            profile: What it shall be like.
            with_ifb: Incoming packets as well.
            is_held: This process stays, and will take it down.
            default_route_too: Go ahead even where everything else is reached by it.

        Raises:
            Refused: It is not there, in use, or the default route's.
            Unavailable: There is no right to, or no netem.
        """
        self._check(interface, with_ifb=with_ifb, default_route_too=default_route_too)
        self._machine.check_able()
        self._make(interface, profile, with_ifb=with_ifb, is_held=is_held)

    def change(self, interface: str, profile: Profile, *, is_held: bool) -> None:
        """Give an interface that is set up another profile's first link.

        Raises:
            Refused: It is not set up, or a process follows its phases.
        """
        state = self._state(interface)
        if state.owner is not None and state.owner.alive:
            raise Refused(
                f"process {state.owner.pid} holds {interface} in {state.profile}:"
                f" end it, or `fedfstq netem down --interface {interface}`"
            )
        self._machine.check_able()
        self._unmake(state)
        self._make(interface, profile, with_ifb=state.ifb is not None, is_held=is_held)

    def hold(self, interface: str, profile: Profile, *, for_s: float | None, wait: Wait) -> None:
        """Follow a profile's phases until the time is over or a wait is ended; then undo all."""
        state = self._state(interface)
        began_at = time.monotonic()
        schedule = Schedule()
        schedule.apply([1], profile, now=began_at)
        schedule.changes(began_at)
        end_at = None if for_s is None else began_at + for_s
        try:
            while end_at is None or time.monotonic() < end_at:
                now = time.monotonic()
                moments = [at for at in (schedule.next_wakeup(now), end_at) if at is not None]
                if wait(max(0.0, min(moments) - now) if moments else None):
                    break
                for change in schedule.changes(time.monotonic()):
                    self._run(commands.change(interface, change.link, ifb=state.ifb))
        finally:
            self._unmake(state)

    def down(self, interface: str) -> None:
        """Take away what was set up, also what a killed process left behind.

        Raises:
            Refused: Nothing was set up here.
        """
        state = self._state(interface)
        owner = state.owner
        if owner is not None and owner.alive and owner != this_process():
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGTERM)
            deadline = time.monotonic() + _END_S
            while owner.alive and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if self._files.read(interface) is None:
                self._tell(f"# process {owner.pid} has taken it down")
                return
        self._unmake(state)

    def status(self) -> list[InterfaceStatus]:
        """Return every interface that is set up."""
        found = []
        for name in self._files.names():
            state = self._files.read(name)
            if state is None:
                continue
            devices = [state.interface] + ([state.ifb] if state.ifb else [])
            qdiscs = [qdisc for device in devices for qdisc in self._machine.qdiscs(device)]
            found.append(InterfaceStatus(state, bool(state.owner and state.owner.alive), qdiscs))
        return found

    def _check(self, interface: str, *, with_ifb: bool, default_route_too: bool) -> None:
        present = self._machine.interfaces()
        if interface not in present:
            raise Refused(f"there is no interface {interface}: there are {', '.join(present)}")
        state = self._files.read(interface)
        if state is not None:
            raise Refused(
                f"{interface} is {state.profile} already: use `fedfstq netem set`, or"
                f" `fedfstq netem down --interface {interface}` first"
            )
        if interface in self._machine.default_routes() and not default_route_too:
            raise Refused(
                f"{interface} is the default route's: you may lose this machine."
                " Add --yes-default-route (and --for SECONDS) if that is what you want"
            )
        for qdisc in self._machine.qdiscs(interface):
            is_incoming = qdisc["kind"] in {"ingress", "clsact"}
            is_foreign = qdisc.get("root") and qdisc["handle"] != _NO_HANDLE
            if is_foreign or (is_incoming and with_ifb):
                raise Refused(
                    f"{interface} has a qdisc that is not ours ({qdisc['kind']}"
                    f" {qdisc['handle']}): remove it with tc first, if it is yours to remove"
                )
        if with_ifb and commands.ifb_name(interface) in present:
            raise Refused(
                f"there is an interface {commands.ifb_name(interface)} that is not ours:"
                " remove it with `ip link del`, or use --no-ifb"
            )

    def _make(self, interface: str, profile: Profile, *, with_ifb: bool, is_held: bool) -> None:
        ifb = commands.ifb_name(interface) if with_ifb else None
        owner = this_process() if is_held else None
        state = InterfaceState(interface=interface, profile=profile.name, ifb=ifb, owner=owner)
        self._files.write(interface, state)  # first: whatever happens, `down` knows what to undo
        try:
            self._run(commands.set_up(interface, profile.at(0.0)[0], ifb=ifb))
        except BaseException:
            self._unmake(state)
            raise

    def _unmake(self, state: InterfaceState) -> None:
        for command in commands.take_down(state.interface, ifb=state.ifb):
            with contextlib.suppress(CommandFailed):  # half of it may be gone, or never was there
                self._run([command])
        left = [one for one in self._machine.qdiscs(state.interface) if _is_ours(one)]
        if left:
            raise NetemError(
                f"{left[0]['kind']} {left[0]['handle']} is still on {state.interface}:"
                f" try `tc qdisc del dev {state.interface} root` as root"
            )
        self._files.remove(state.interface)

    def _state(self, interface: str) -> InterfaceState:
        state = self._files.read(interface)
        if state is None:
            raise Refused(f"`fedfstq netem up` has made nothing on {interface}: nothing is changed")
        return state

    def _run(self, todo: Iterable[Command]) -> None:
        for command in todo:
            self._tell(commands.render(command))
            self._machine.run([command])


@contextlib.contextmanager
def stop_signals() -> Iterator[Wait]:
    """Have SIGINT, SIGTERM and SIGHUP end waits instead of the process; what is ignored stays so.

    A handler could come between any two steps of what must not stop half-way; here they wait.
    """
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    numbers = {number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def wait(timeout_s: float | None) -> bool:
        if timeout_s is None:
            return bool(signal.sigwait(numbers))
        return signal.sigtimedwait(numbers, timeout_s) is not None

    try:
        yield wait
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_ours(qdisc: dict[str, Any]) -> bool:
    return bool(qdisc["handle"] == commands.HANDLE)
