"""`fedfstq watch`: a fleet in a terminal, or as JSON. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415  # typer's options; `--help` loads no pydantic

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tools.exits import fail
from tools.operate.options import ConfigOption, FleetOption, WatcherOption
from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.monitor.observer import Observer
    from tools.operate.login import OperatorConfig

# [s] Between two pictures, and between two looks for the next change.
_PICTURE_S = 0.5
_LOOK_S = 0.5


def watch(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the snapshot, then one JSON object per change: path → value."
        ),
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Print how it is, and end.")] = False,
    config: ConfigOption = None,
    fleet: FleetOption = None,
    login: WatcherOption = "viewer",
) -> None:
    """Show a fleet as it is: round, devices, transfers, losses, watts, alerts. q ends it."""
    from tools.monitor.login import login_of
    from tools.monitor.observer import Observer
    from tools.settings import SettingsError
    from transport.errors import BadLinkConfig, BrokerUnreachable, LinkError

    # The link's own lines would stand across the picture, which says the same.
    logging.getLogger("transport").setLevel(logging.CRITICAL)
    try:
        settings = login_of(config, fleet, login)
        if once:
            with Observer(settings, purpose="watch") as observer:
                _print_once(observer, as_json=as_json)
        elif as_json:
            _stream(settings)
        else:
            with Observer(settings, purpose="watch") as observer:
                _show(observer)
    except (SettingsError, BadLinkConfig) as error:
        fail(ExitCode.CONFIG, str(error))
    except BrokerUnreachable as error:
        fail(ExitCode.UNREACHABLE, str(error))
    except LinkError as error:
        fail(ExitCode.REFUSED, str(error))
    except BrokenPipeError:
        # Whoever read has seen enough; nothing may be flushed into the pipe at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None


def _print_once(observer: Observer, *, as_json: bool) -> None:
    from rich.console import Console

    from tools.monitor.screen import screen

    observer.wait_settled()
    snapshot = observer.snapshot()
    if as_json:
        _print(snapshot)
        return
    console = Console(highlight=False)
    lines = 2 * len(snapshot["devices"]) + 50
    console.print(screen(snapshot, width=console.width, height=lines))


def _stream(settings: OperatorConfig) -> None:
    from tools.monitor.mailbox import Mailbox
    from tools.monitor.observer import Observer

    mailbox = Mailbox()
    with Observer(settings, purpose="watch", tell=mailbox.put) as observer:
        observer.wait_settled()
        mailbox.take(0)
        _print(observer.snapshot())
        while observer.refusal is None:
            if changes := mailbox.take(_LOOK_S):
                _print(changes)
        raise observer.refusal


def _show(observer: Observer) -> None:
    from rich.console import Console
    from rich.live import Live

    from tools.monitor.keyboard import keys_at_once, wait_for_key
    from tools.monitor.screen import screen

    console = Console(highlight=False)
    if not console.is_terminal:
        fail(ExitCode.USAGE, "this is no terminal: use --once, or --json")
    with keys_at_once(), Live(console=console, screen=True, auto_refresh=False) as live:
        while observer.refusal is None:
            width, height = console.size
            live.update(screen(observer.snapshot(), width=width, height=height), refresh=True)
            if "q" in wait_for_key(_PICTURE_S).lower():
                return
    raise observer.refusal


def _print(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)  # noqa: T201  # what was asked for
