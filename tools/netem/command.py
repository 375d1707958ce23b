"""`fedfstq netem`: bad links, for this machine's interfaces and in a lab. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no pydantic

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.netem.interface import Interfaces
    from tools.netem.profile import Profile

netem = typer.Typer(
    name="netem",
    help="Put a bad link on an interface of this machine, or run a program behind one in a lab.",
    no_args_is_help=True,
)

InterfaceName = Annotated[str, typer.Option("--interface", "-i", help="No other is touched.")]
ProfileName = Annotated[
    str, typer.Option("--profile", "-p", help="A name from `netem profiles`, or a .yaml file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ForSeconds = Annotated[
    float | None,
    typer.Option("--for", min=0.1, metavar="SECONDS", help="Stay so long, then undo everything."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the commands, and run none.")]
WithIfb = Annotated[
    bool, typer.Option("--ifb/--no-ifb", help="What the interface receives as well, by an ifb.")
]


@netem.command()
def up(
    interface: InterfaceName,
    profile: ProfileName,
    ifb: WithIfb = True,
    dry_run: DryRun = False,
    for_s: ForSeconds = None,
    yes_default_route: Annotated[
        bool, typer.Option(help="Also where everything else is reached by this interface.")
    ] = False,
) -> None:
    """Give an interface a bad link; one with phases needs this process to stay."""
    with _one_line_errors():
        from tools.netem.profile import load_profile

        wanted = load_profile(profile)
        if dry_run:
            _print_plan(interface, wanted, with_ifb=ifb, for_s=for_s)
            return
        is_held = bool(wanted.phases) or for_s is not None
        _hold_after(
            interface,
            wanted,
            for_s=for_s,
            begin=lambda interfaces: interfaces.up(
                interface,
                wanted,
                with_ifb=ifb,
                is_held=is_held,
                default_route_too=yes_default_route,
            ),
        )


@netem.command("set")
def change(interface: InterfaceName, profile: ProfileName, for_s: ForSeconds = None) -> None:
    """Give an interface that is up another bad link."""
    with _one_line_errors():
        from tools.netem.profile import load_profile

        wanted = load_profile(profile)
        is_held = bool(wanted.phases) or for_s is not None
        _hold_after(
            interface,
            wanted,
            for_s=for_s,
            begin=lambda interfaces: interfaces.change(interface, wanted, is_held=is_held),
        )


@netem.command()
def down(interface: InterfaceName) -> None:
    """Take away what `up` made, also where its process was killed."""
    with _one_line_errors():
        _interfaces().down(interface)


@netem.command()
def status(as_json: AsJson = False) -> None:
    """Show which interfaces have a bad link from here, and what it has lost."""
    with _one_line_errors():
        found = _interfaces().status()
        if as_json:
            document = [
                {
                    "interface": one.state.interface,
                    "profile": one.state.profile,
                    "ifb": one.state.ifb,
                    "pid": one.state.owner.pid if one.state.owner and one.is_held else None,
                    "qdiscs": one.qdiscs,
                }
                for one in found
            ]
            print(json.dumps(document, indent=2))  # noqa: T201  # the answer
            return
        for one in found:
            print(f"{one.state.interface}: {one.state.profile}{_held(one.state.owner)}")  # noqa: T201
            for qdisc in one.qdiscs:
                counts = f"{qdisc.get('packets', 0)} packets, {qdisc.get('drops', 0)} lost"
                print(f"  {qdisc['kind']} {qdisc['handle']} {counts}")  # noqa: T201
        if not found:
            print("no interface has a link from `fedfstq netem up`")  # noqa: T201


@netem.command()
def profiles(as_json: AsJson = False) -> None:
    """List the links that have names."""
    with _one_line_errors():
        from tools.netem.profile import load_profile, profile_names

        found = [load_profile(name) for name in profile_names()]
        if as_json:
            print(json.dumps([one.model_dump(mode="json") for one in found], indent=2))  # noqa: T201
            return
        for one in found:
            print(f"{one.name:<15}{one.title}")  # noqa: T201


@netem.command()
def lab(
    profile: ProfileName,
    command: Annotated[
        list[str], typer.Argument(help="After --: runs on every device, and knows LAB_SERVER.")
    ],
    server: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Runs on the server side meanwhile.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, max=250, help="Each with its own link.")] = 1,
    router: Annotated[
        str, typer.Option(help="kernel, vm, or auto: this machine's kernel where it has netem.")
    ] = "auto",
) -> None:
    """Run a program behind a bad link, in network namespaces of its own; no interface is touched.

    Programs find each other by LAB_SERVER, LAB_ADDRESS (their own) and LAB_SIDE (device-1, ...).
    """
    with _one_line_errors():
        from tools.netem.run_lab import run_lab

        code = run_lab(
            profile,
            command,
            server=shlex.split(server) if server else None,
            devices=devices,
            router=router,
        )
        raise typer.Exit(code)


def _hold_after(
    interface: str,
    profile: Profile,
    *,
    for_s: float | None,
    begin: Callable[[Interfaces], None],
) -> None:
    """Begin, and stay where the profile has phases or an end."""
    from tools.netem.interface import stop_signals

    interfaces = _interfaces()
    with stop_signals() as wait:
        begin(interfaces)
        if profile.phases or for_s is not None:
            interfaces.hold(interface, profile, for_s=for_s, wait=wait)
        else:
            print(f"# `fedfstq netem down --interface {interface}` undoes it")  # noqa: T201


def _interfaces() -> Interfaces:
    from tools.netem.interface import Interfaces, Machine
    from tools.netem.state import InterfaceState, StateFiles, state_folder

    files = StateFiles(InterfaceState, state_folder())
    return Interfaces(files, Machine(), tell=lambda line: print(line, flush=True))  # noqa: T201  # the commands, as they run


def _print_plan(interface: str, profile: Profile, *, with_ifb: bool, for_s: float | None) -> None:
    from tools.netem.plan import plan

    print("\n".join(plan(interface, profile, with_ifb=with_ifb, for_s=for_s)))  # noqa: T201  # the answer


def _held(owner: object) -> str:
    pid = getattr(owner, "pid", None)
    return "" if pid is None else f", held by process {pid}"


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from tools.netem.errors import NetemError

    try:
        yield
    except NetemError as error:
        print(f"fedfstq: {error}", file=sys.stderr)  # noqa: T201  # this is a command's last word
        raise typer.Exit(int(error.exit_code)) from error
    except KeyboardInterrupt as error:
        print("fedfstq: stopped; everything is undone", file=sys.stderr)  # noqa: T201  # the same
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from error
