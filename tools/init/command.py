"""`fedfstq init`: a fleet's folder, its devices, people and revocations. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no cryptography

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from transport.exit_codes import ExitCode

init = typer.Typer(
    name="init",
    help="Make a fleet: its authority, certificates, broker rules, and one bundle per machine.",
    no_args_is_help=True,
)

FleetOption = Annotated[
    Path | None,
    typer.Option(
        "--fleet", metavar="DIR", help="The fleet's folder; this one or ./fleet by default."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Change = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Any other key of its file; may be repeated."),
]


class Person(str, Enum):
    """What a person may do."""

    OPERATOR = "operator"
    VIEWER = "viewer"


class Keys(str, Enum):
    """What keys a fleet has."""

    ED25519 = "ed25519"
    P256 = "p256"


@init.command("fleet")
def new_fleet(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    federation: Annotated[
        str | None,
        typer.Option(help="Name of the federation, the third level of every topic: a-z, 0-9, -."),
    ] = None,
    broker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="The broker's name or address, as services use it; may be repeated, and the"
            " first is what services get.",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The broker's port; 8883 by default.")
    ] = None,
    key: Annotated[
        Keys | None,
        typer.Option(
            help="Kind of all keys: ed25519 by default; p256 where a TLS library lacks that."
        ),
    ] = None,
    goal: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help="Updates that close a round, and half of them at its deadline."
        ),
    ] = None,
    signing: Annotated[
        bool | None,
        typer.Option(
            "--signing",
            help="Services sign updates and receipts, so that a broker that was broken into"
            " cannot forge one.",
        ),
    ] = None,
    changes: Change = None,
) -> None:
    """Make a new fleet in a folder; repeated, bring its files and bundles in line."""
    with _one_line_errors():
        from tools.init.certificates import KeyKind, utc_now
        from tools.init.folder import FleetFolder
        from tools.init.next_steps import after_fleet
        from tools.init.operations import FleetWish, make_fleet

        wish = FleetWish(
            federation=federation,
            hosts=tuple(broker or ()),
            port=port,
            key=None if key is None else KeyKind(key.value),
            goal=goal,
            signing=signing,
            changes=tuple(changes or ()),
        )
        outcome = make_fleet(folder, wish, now=utc_now())
        _say(after_fleet(FleetFolder(folder), outcome.fleet))


@init.command()
def device(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="One device, or more.")],
    fleet: FleetOption = None,
    data: Annotated[
        str | None, typer.Option(help="The device's text: a .json or .jsonl file, or a folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder on the device that holds the base model.")
    ] = None,
    changes: Change = None,
) -> None:
    """Give devices a certificate and a configuration, and pack one bundle each."""
    with _one_line_errors():
        from tools.init.certificates import utc_now
        from tools.init.folder import FleetFolder
        from tools.init.next_steps import after_devices
        from tools.init.operations import add_devices

        place = _fleet_folder(fleet)
        named = {"data.train": data, "model": model}
        all_changes = [
            *(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None),
            *(changes or ()),
        ]
        outcome = add_devices(place, names, changes=all_changes, now=utc_now())
        _say(after_devices(FleetFolder(place), tuple(dict.fromkeys(names)), outcome.fleet))


@init.command()
def person(
    name: Annotated[str, typer.Argument(help="The person's login: a-z, 0-9 and -.")],
    role: Annotated[Person, typer.Option(help="A viewer sees, an operator also commands.")],
    fleet: FleetOption = None,
) -> None:
    """Give a person a certificate, and the broker a rule for her."""
    with _one_line_errors():
        from tools.init.certificates import utc_now
        from tools.init.fleet import Role
        from tools.init.folder import FleetFolder
        from tools.init.next_steps import after_person
        from tools.init.operations import add_person

        place = _fleet_folder(fleet)
        outcome = add_person(place, name, Role(role.value), now=utc_now())
        _say(after_person(FleetFolder(place), name, outcome.fleet, outcome.bundles))


@init.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A device, a person, or coord.")],
    fleet: FleetOption = None,
) -> None:
    """Shut a device or a person out: its certificates are good no more."""
    with _one_line_errors():
        from tools.init.certificates import utc_now
        from tools.init.folder import FleetFolder
        from tools.init.next_steps import after_revocation
        from tools.init.operations import revoke as revoke_name

        place = _fleet_folder(fleet)
        outcome = revoke_name(place, name, now=utc_now())
        _say(after_revocation(FleetFolder(place), name, outcome.fleet, outcome.bundles))


@init.command()
def renew(
    name: Annotated[str, typer.Argument(help="A device, a person, coord, or broker.")],
    fleet: FleetOption = None,
    broker: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="With `broker`: one more name or address of it."),
    ] = None,
) -> None:
    """Give a name a new key and certificate; who was revoked is let in again."""
    with _one_line_errors():
        from tools.init.certificates import utc_now
        from tools.init.folder import FleetFolder
        from tools.init.next_steps import after_renewal
        from tools.init.operations import renew as renew_name

        place = _fleet_folder(fleet)
        outcome = renew_name(place, name, hosts=broker or (), now=utc_now())
        _say(after_renewal(FleetFolder(place), name, outcome.fleet, outcome.bundles))


@init.command("list")
def names_of(fleet: FleetOption = None, as_json: AsJson = False) -> None:
    """Print who is in a fleet, until when, and who is revoked."""
    with _one_line_errors():
        from tools.init.certificates import utc_now
        from tools.init.listing import listing, table
        from tools.init.operations import record

        has = record(_fleet_folder(fleet))
        rows = listing(has, now=utc_now())
        if as_json:
            about = {"federation": has.federation, "broker": has.hosts, "port": has.port}
            _say(json.dumps({**about, "names": [asdict(row) for row in rows]}, indent=2))
        else:
            _say(table(rows))


def _fleet_folder(given: Path | None) -> Path:
    from tools.init.folder import is_fleet

    if given is not None:
        return given
    return Path.cwd() if is_fleet(Path.cwd()) else Path("fleet")


def _say(text: str) -> None:
    print(text)  # noqa: T201  # what was asked for


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from tools.init.errors import InitRefused

    try:
        yield
    except InitRefused as error:
        _end(error.exit_code, str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(ExitCode.TRY_AGAIN, f"{where}{error.strerror}; repeat this once it is mended")


def _end(code: ExitCode, text: str) -> None:
    print(f"fedfstq: {text}", file=sys.stderr)  # noqa: T201  # this is a command's last word
    raise typer.Exit(int(code))
