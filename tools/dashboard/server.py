"""Serves the dashboard: a socket, a web server, and an observer that tells it what changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tools.dashboard.auth import Address, Door
from tools.dashboard.site import History, Site
from tools.dashboard.stream import MAX_PAGES, Feed
from tools.monitor.document import Changes, Snapshot

# A browser opens up to six.
MAX_CONNECTIONS: Final = 4 * MAX_PAGES
# [s] A connection that has not asked for anything by then is closed.
FIRST_REQUEST_S: Final = 10.0
_GRACE_S: Final = 1
_BACKLOG: Final = 64
_LONGEST_HEAD_BYTES: Final = 16_384


class CannotServe(Exception):
    """The address cannot be had, or the certificate cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate with its chain, and its key; PEM files."""

    cert_file: Path
    key_file: Path


def bind(address: Address) -> tuple[socket.socket, Address]:
    """Return a socket that listens at an address, and the address with its port.

    Raises:
        CannotServe: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotServe(
            f"cannot listen on {address.netloc} ({error.strerror}): name another by --listen"
        ) from error
    return listener, Address(address.host, listener.getsockname()[1])


class Bridge:
    """Takes changes from the observer's thread to the server's.

    Args:
        feed: Where they go, in the server's thread.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        self._waiting: list[Changes] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self, changes: Changes) -> None:
        """Take what has changed; any thread may call it, and it does not wait."""
        with self._lock:
            self._waiting.append(changes)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._deliver)

    def begin(self, snapshot: Snapshot) -> None:
        """Start with what is known; called in the server's thread."""
        self._feed.begin(snapshot)
        with self._lock:
            self._loop = asyncio.get_running_loop()
        self._deliver()

    def end(self) -> None:
        """Deliver nothing from now on."""
        with self._lock:
            self._loop = None

    def _deliver(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for changes in waiting:
            self._feed.offer(changes)


class _Protocol(H11Protocol):
    """HTTP with a limit on connections, and on how long one may say nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if getattr(self, "cycle", None) is None:
            self.transport.abort()


def serve(
    listener: socket.socket,
    *,
    door: Door,
    bridge: Bridge,
    feed: Feed,
    snapshot: Callable[[], Snapshot],
    history: History,
    tls: Tls | None = None,
) -> None:
    """Serve until a signal ends it; called in the main thread.

    Args:
        listener: Where.
        door: Who may see it.
        bridge: Brings `feed` what the observer tells.
        feed: What pages are sent.
        snapshot: Returns what is known at first.
        history: Returns a device's figures over time.
        tls: Serve over TLS.

    Raises:
        CannotServe: The certificate or its key cannot be used.
    """
    server = make_server(
        Site(feed, history, door, is_tls=tls is not None).application(),
        bridge=bridge,
        snapshot=snapshot,
        tls=tls,
    )
    # It tells of its own life, and of pages that were cut off: nobody's errors.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    # A handler that raises would raise in the middle of an event loop that is only being made.
    signal.signal(signal.SIGTERM, server.handle_exit)
    server.run(sockets=[listener])


def make_server(
    site: ASGIApp, *, bridge: Bridge, snapshot: Callable[[], Snapshot], tls: Tls | None
) -> uvicorn.Server:
    """Return a server that is ready to run.

    Raises:
        CannotServe: The certificate or its key cannot be used.
    """
    _check(tls)
    config = uvicorn.Config(
        _with_bridge(site, bridge, snapshot),
        http=_Protocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,  # it would write tokens
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_LONGEST_HEAD_BYTES,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=tls.cert_file if tls else None,
        ssl_keyfile=tls.key_file if tls else None,
    )
    return uvicorn.Server(config)


def _check(tls: Tls | None) -> None:
    if tls is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password: nobody is there to be asked for one.
        context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise CannotServe(
            f"{tls.cert_file} and {tls.key_file} are no certificate and its key without a"
            f" password: {error}"
        ) from error


def _with_bridge(inner: ASGIApp, bridge: Bridge, snapshot: Callable[[], Snapshot]) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def bridged() -> AsyncIterator[None]:
        bridge.begin(snapshot())
        try:
            yield
        finally:
            bridge.end()

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await inner(scope, receive, send)
            return
        await receive()
        async with bridged():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return outer
