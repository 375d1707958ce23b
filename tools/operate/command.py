"""`fedfstq command`: what an operator asks of devices. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no pydantic

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.exits import fail
from tools.operate.options import ConfigOption, FleetOption
from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.operate.asking import Result
    from tools.operate.login import OperatorConfig
    from transport.control import OperatorAction

# [s] For an answer; and for what a device has to finish first.
_ANSWER_S = 10.0
_WORK_S = 600.0


def command(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="[DEVICE]... ACTION",
            help="ping, pause, drain, resume or evaluate, after the devices that it is for.",
        ),
    ],
    everybody: Annotated[
        bool, typer.Option("--all", help="Every device that has left a status at the broker.")
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why, in a few words: the device's status shows them.")
    ] = "",
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0.1,
            max=86_400.0,
            metavar="SECONDS",
            help="10 by default; 600 for drain and evaluate, whose end is waited for.",
        ),
    ] = None,
    config: ConfigOption = None,
    fleet: FleetOption = None,
    login: Annotated[
        str, typer.Option("--as", metavar="NAME", help="An operator of that fleet.")
    ] = "operator",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, one entry per device.")
    ] = False,
) -> None:
    """Ask devices to pause, resume, drain, evaluate, or to answer; 1 where one did not.

    pause: take no new task until resumed; drain: the same, and wait until nothing waits on it.
    """
    from tools.operate.asking import document
    from tools.operate.conversation import Conversation
    from transport.errors import BadLinkConfig, BrokerUnreachable, LinkError

    # The link's own lines repeat what the last line says.
    logging.getLogger("transport").setLevel(logging.CRITICAL)
    devices, action = _targets(targets, everybody=everybody, reason=reason)
    settings = _settings(config, fleet, login)
    limit_s = timeout_s or (_WORK_S if action.value in {"drain", "evaluate"} else _ANSWER_S)
    try:
        results = Conversation(settings).ask(
            devices,
            action,
            words=reason,
            timeout_s=limit_s,
            tell=(lambda _: None) if as_json else _print,
        )
    except BadLinkConfig as error:
        fail(ExitCode.CONFIG, str(error))
    except BrokerUnreachable as error:
        fail(ExitCode.UNREACHABLE, str(error))
    except LinkError as error:
        fail(ExitCode.REFUSED, str(error))
    except KeyboardInterrupt:
        fail(ExitCode.INTERRUPTED, "stopped; what was asked for stays asked for")
    if as_json:
        print(json.dumps(document(results), indent=2))  # noqa: T201  # what was asked for
    elif not results:
        print("no device has left a status")  # noqa: T201  # what was asked for
    is_done = bool(results) and all(result.answered for result in results.values())
    raise typer.Exit(int(ExitCode.OK if is_done else ExitCode.FAILED))


def _targets(words: list[str], *, everybody: bool, reason: str) -> tuple[list[str], OperatorAction]:
    from transport.control import OperatorAction
    from transport.errors import InvalidIdentifier
    from transport.topics import identifier

    *devices, last = words
    known = {action.value: action for action in OperatorAction}
    if last not in known:
        fail(ExitCode.USAGE, f"{last!r} is no action: end with one of {', '.join(known)}")
    if bool(devices) is everybody:
        fail(ExitCode.USAGE, "name devices before the action, or all of them by --all")
    try:
        for device in devices:
            identifier(device)
    except InvalidIdentifier as error:
        fail(ExitCode.USAGE, str(error))
    if len(reason) > 200:  # noqa: PLR2004  # what an OperatorCommand holds
        fail(ExitCode.USAGE, "a reason has at most 200 characters")
    return list(dict.fromkeys(devices)), known[last]


def _settings(config: Path | None, fleet: Path | None, login: str) -> OperatorConfig:
    from tools.operate.login import fleet_here, from_file, from_fleet
    from tools.settings import SettingsError

    if config and fleet:
        fail(ExitCode.USAGE, "give --config or --fleet, not both")
    try:
        if config:
            return from_file(config)
        return from_fleet(fleet or fleet_here(), login=login)
    except SettingsError as error:
        fail(ExitCode.CONFIG, str(error))


def _print(result: Result) -> None:
    mark = "ok  " if result.answered else "FAIL"
    rtt = "" if result.rtt_ms is None else f" (round trip {result.rtt_ms:g} ms)"
    print(f"{mark} {result.client_id}: {result.text}{rtt}", flush=True)  # noqa: T201  # what was asked for
