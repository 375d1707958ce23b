"""`fedfstq doctor`: looks at everything a service needs, and says what mends what is wrong."""
# ruff: noqa: FBT002, PLC0415  # typer's options; `--help` loads no checks

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.doctor.context import Context
    from tools.doctor.finding import Finding


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(help="A service's YAML file; the one in /etc/fedfstq by default."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list of {check, state, text, mend}.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Leave out what speaks with the broker.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Only these checks, or those that begin so, as acl."),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Stop the running service for the checks that need its login, then start it.",
        ),
    ] = False,
) -> None:
    """Examine this machine and one service's configuration: OK, WARN or FAIL, and what mends it."""
    from tools.doctor.context import Context
    from tools.doctor.discover import SeveralFound, find, read
    from tools.doctor.finding import has_failed
    from tools.doctor.login import start_again
    from tools.doctor.plan import ALL_NAMES
    from tools.doctor.runner import is_named

    names = [name.strip() for name in only.split(",") if name.strip()] if only else []
    for name in names:
        if not any(is_named(check, [name]) for check in ALL_NAMES):
            _refuse(f"no check is named {name}; there are {', '.join(ALL_NAMES)}")
    try:
        path = config or find(Path("/"))
    except SeveralFound as error:
        _refuse(str(error))
    settings, first = read(path, environ=os.environ, looked=config is None)
    context = Context(config=settings, path=path, take_over=take_over)
    try:
        findings = list(_report(first, context, only=names, offline=offline, as_json=as_json))
    except KeyboardInterrupt:
        print("fedfstq: stopped", file=sys.stderr)  # noqa: T201  # the command's last word
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
    finally:
        start_again(context)
    raise typer.Exit(int(ExitCode.FAILED if has_failed(findings) else ExitCode.OK))


def _refuse(text: str) -> None:
    print(f"fedfstq: {text}", file=sys.stderr)  # noqa: T201  # the command's last word
    raise typer.Exit(int(ExitCode.USAGE))


def _report(
    first: Finding, context: Context, *, only: list[str], offline: bool, as_json: bool
) -> Iterator[Finding]:
    """Yield the findings, and print them as they come, or as JSON at the end."""
    from tools.doctor import report

    terminal = sys.stdout.isatty() and not as_json
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    findings = []
    for finding in _examine(first, context, only=only, offline=offline):
        findings.append(finding)
        if not as_json:
            for line in report.lines(finding, width=width, coloured=terminal):
                print(line, flush=True)  # noqa: T201  # what was asked for
        yield finding
    if as_json:
        print(report.as_json(findings))  # noqa: T201  # what was asked for
    else:
        print(report.summary(findings))  # noqa: T201  # what was asked for


def _examine(
    first: Finding, context: Context, *, only: list[str], offline: bool
) -> Iterator[Finding]:
    from tools.doctor.finding import State
    from tools.doctor.plan import GROUPS
    from tools.doctor.runner import is_named, run_group, selected

    if is_named(first.check, only) or first.state is State.FAIL:
        yield first
    for group in selected(GROUPS, role=context.role, only=only, offline=offline):
        _show(f"looking at {group.title} …")
        for finding in run_group(group, context):
            if is_named(finding.check, only):
                _show("")
                yield finding
                _show(f"looking at {group.title} …")
        _show("")


def _show(text: str) -> None:
    """Show on a terminal what is being looked at, in place of what stood there; "" for nothing."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)  # noqa: T201  # for whoever waits
