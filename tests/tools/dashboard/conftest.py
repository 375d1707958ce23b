"""A dashboard on a free port, fed by hand."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tools.dashboard.auth import Address, Door
from tools.dashboard.server import Bridge, Tls, bind, make_server
from tools.dashboard.site import Site
from tools.dashboard.stream import Feed
from tools.monitor.document import Changes
from tools.monitor.snapshot import Monitor

Headers = dict[str, str]


def until(done: Callable[[], bool], what: str, *, timeout_s: float = 30.0) -> None:
    limit = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < limit, f"not in {timeout_s} s: {what}"
        time.sleep(0.02)


@dataclass
class Event:
    """A server-sent event."""

    name: str
    value: Any


class Stream:
    """A page that reads its events."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._connection = dashboard.connect()
        self._connection.request("GET", "/events", headers=dashboard.headers)
        self.response = self._connection.getresponse()

    def next(self) -> Event:
        name = self.response.readline().decode().removeprefix("event: ").strip()
        value = json.loads(self.response.readline().decode().removeprefix("data: "))
        assert self.response.readline() == b"\n"
        return Event(name, value)

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@dataclass
class Dashboard:
    """A served dashboard.

    Attributes:
        headers: What every request of it says.
    """

    address: Address
    feed: Feed
    bridge: Bridge
    trusted: ssl.SSLContext | None = None
    headers: Headers = field(default_factory=dict)
    _open: list[Any] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        if self.trusted is None:
            connection = http.client.HTTPConnection(host, port, timeout=30)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=30, context=self.trusted)
        self._open.append(connection)
        return connection

    def get(self, path: str, **headers: str) -> tuple[int, Headers, bytes]:
        connection = self.connect()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={**self.headers, **named})
        response = connection.getresponse()
        answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        connection.close()
        return answer

    def stream(self) -> Stream:
        stream = Stream(self)
        self._open.append(stream)
        return stream

    def tell(self, changes: Changes) -> None:
        self.bridge.tell(changes)

    def close(self) -> None:
        for one in self._open:
            one.close()


Serve = Callable[..., Dashboard]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a dashboard; called with its token, its certificate, and when stuck pages go."""
    running: list[tuple[Dashboard, Any, threading.Thread, Any]] = []

    def start(
        token: str | None = None,
        tls: Tls | None = None,
        trusted: ssl.SSLContext | None = None,
        stuck_s: float = 20.0,
    ) -> Dashboard:
        monitor = Monitor("clinics")
        feed = Feed()
        bridge = Bridge(feed)
        listener, address = bind(Address("127.0.0.1", 0))
        site = Site(
            feed,
            {"nano-01": {"power_w": [[1.0, 9.5]]}}.get,
            Door(token),
            is_tls=tls is not None,
            stuck_s=stuck_s,
        )
        server = make_server(site.application(), bridge=bridge, snapshot=monitor.snapshot, tls=tls)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        dashboard = Dashboard(address, feed, bridge, trusted)
        running.append((dashboard, server, thread, listener))
        until(lambda: server.started, "it serves")
        return dashboard

    yield start
    for dashboard, server, thread, listener in running:
        dashboard.close()
        server.should_exit = True
        thread.join()
        listener.close()
