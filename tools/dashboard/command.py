"""`fedfstq dashboard`: a fleet in a browser. Heavy imports wait."""
# ruff: noqa: PLC0415, PLR0917  # typer's options; `--help` loads neither pydantic nor a web server

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tools.exits import fail
from tools.operate.options import ConfigOption, FleetOption, WatcherOption
from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.dashboard.auth import Address
    from tools.dashboard.server import Tls
    from tools.operate.login import OperatorConfig

_TOKEN_BYTES = 24


def dashboard(
    listen: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Where; any other address than loopback needs --token and TLS.",
        ),
    ] = "127.0.0.1:8765",
    token: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Who wants to see it must know what this file holds; it is made where missing.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate with its chain, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM.")] = None,
    config: ConfigOption = None,
    fleet: FleetOption = None,
    login: WatcherOption = "viewer",
) -> None:
    """Show a fleet in a browser: it is served here, and the browser needs no broker."""
    from tools.dashboard.auth import AuthError, check_exposure, parse_address
    from tools.monitor.login import login_of
    from tools.settings import SettingsError

    # What it says of the broker stands on the page.
    logging.getLogger("transport").setLevel(logging.CRITICAL)
    try:
        address = parse_address(listen)
        check_exposure(
            address,
            has_token=token is not None,
            has_certificate=tls_cert is not None,
            has_key=tls_key is not None,
        )
    except AuthError as error:
        fail(ExitCode.USAGE, str(error))
    try:
        settings = login_of(config, fleet, login)
    except SettingsError as error:
        fail(ExitCode.CONFIG, str(error))
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            fail(ExitCode.CONFIG, f"this needs {name}: pip install 'fedfstq[dashboard]'")
    from tools.dashboard.server import Tls

    tls = Tls(tls_cert, tls_key) if tls_cert and tls_key else None
    _serve(settings, address, _token(token), tls)


def _serve(settings: OperatorConfig, address: Address, token: str | None, tls: Tls | None) -> None:
    from tools.dashboard.auth import Door
    from tools.dashboard.server import Bridge, CannotServe, bind, serve
    from tools.dashboard.stream import Feed
    from tools.monitor.observer import Observer
    from transport.errors import BadLinkConfig

    # So that everything is closed: a broker keeps queueing for a subscriber that only dies.
    signal.signal(signal.SIGTERM, _end)
    feed = Feed()
    bridge = Bridge(feed)
    try:
        listener, address = bind(address)
        with listener, Observer(settings, purpose="dashboard", tell=bridge.tell) as observer:
            _announce(address, token, is_tls=tls is not None)
            serve(
                listener,
                door=Door(token),
                bridge=bridge,
                feed=feed,
                snapshot=observer.snapshot,
                history=observer.history,
                tls=tls,
            )
    except (BadLinkConfig, CannotServe) as error:
        fail(ExitCode.CONFIG, str(error))
    except KeyboardInterrupt:
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None


def _end(*_: object) -> NoReturn:
    raise typer.Exit(int(ExitCode.OK))


def _announce(address: Address, token: str | None, *, is_tls: bool) -> None:
    url = f"{'https' if is_tls else 'http'}://{address.netloc}/"
    if token is None:
        text = url
    elif sys.stdout.isatty():
        text = f"{url}?token={token}"
    else:
        text = f"{url}?token=… (what the token's file holds)"  # a log is no place for it
    print(f"dashboard: {text}", flush=True)  # noqa: T201  # what was asked for


def _token(file: Path | None) -> str | None:
    from tools.dashboard.auth import AuthError, check_token

    if file is None:
        return None
    try:
        if not file.exists():
            _write_token(file)
        with file.open(encoding="ascii", errors="replace") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            return check_token(opened.read(4096), mode=mode)
    except AuthError as error:
        fail(ExitCode.CONFIG, f"--token {file}: {error}")
    except OSError as error:
        fail(ExitCode.CONFIG, f"--token {file}: {error.strerror}")


def _write_token(file: Path) -> None:
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "w", encoding="ascii") as written:
        written.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
