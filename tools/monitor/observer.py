"""Watches a federation over its own link, in a thread of its own: the shell of `Monitor`."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Final

from typing_extensions import Self

from tools.monitor.document import Changes, Snapshot
from tools.monitor.slot import Slot
from tools.monitor.snapshot import Monitor
from tools.operate.login import OperatorConfig
from transport.errors import BrokerUnreachable, LinkError, SessionTakenOver
from transport.link import Delivery, Link, LinkDown, LinkEvent, LinkRefused, LinkUp
from transport.topics import Topics

# [s] Between two tellings of changes.
COALESCE_S: Final = 0.25
# [s] Without another retained message, all of them have come.
SETTLE_S: Final = 1.0
# [s] How long the first connection is tried for before somebody is told that there is none.
_PATIENCE_S: Final = 3.0
# Deliveries that are folded in before others may look again.
_AT_ONCE: Final = 512


class Observer:
    """Keeps a `Monitor` up to date while it is open; a context, safe to ask from any thread.

    Args:
        config: Whom to watch, and as whom.
        purpose: What this is, as `watch`. Programs of one login are told apart by it, by their
            machine and by a number, where the broker does not bind the client id to the login;
            where it does, each program needs a login of its own.
        tell: Called with what has changed, at most four times a second, in the observer's thread;
            must not block. Where a snapshot was taken since, some of it may be known already.

    Raises:
        BadLinkConfig: The password file or a TLS file cannot be used.
    """

    def __init__(
        self,
        config: OperatorConfig,
        *,
        purpose: str,
        tell: Callable[[Changes], None] | None = None,
    ) -> None:
        self._config = config
        self._tell = tell
        self._filter = f"{Topics(config.federation).monitoring}/#"
        self._slot = Slot(f"{config.login}-{purpose}")
        self._link = Link(
            config.broker,
            client_id=f"{config.login}-{purpose}-{socket.gethostname()[:32]}-{self._slot.number}",
            subscriptions=(self._filter,),
        )
        zone = datetime.now().astimezone().tzinfo
        assert zone is not None
        offset_s = time.time() - time.monotonic()
        self._monitor = Monitor(config.federation, unix_offset_s=offset_s, zone=zone)
        self._lock = threading.Lock()
        self._opened_s = 0.0
        self._is_up = False
        self._retained_s: float | None = None
        self._is_settled = threading.Event()
        self._stopping = threading.Event()
        self._refusal: LinkError | None = None
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def __enter__(self) -> Self:
        """Connect, and go on until the context ends."""
        self._opened_s = time.monotonic()
        self._link.open()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect; the broker keeps nothing for this login."""
        self._stopping.set()
        self._thread.join()
        self._link.unsubscribe(self._filter)
        self._link.close()
        self._slot.release()

    @property
    def refusal(self) -> LinkError | None:
        """Why nothing will come any more, None while something may."""
        return self._refusal

    def snapshot(self) -> Snapshot:
        """Return everything that is known: see `tools.monitor.snapshot`."""
        with self._lock:
            return self._monitor.snapshot()

    def history(self, client_id: str) -> dict[str, list[list[float]]] | None:
        """Return a device's figures over time: see `Monitor.history`."""
        with self._lock:
            return self._monitor.history(client_id)

    def wait_settled(self) -> None:
        """Return once everything that the broker keeps has come.

        Raises:
            LinkError: The broker is not there, or does not let this login in.
        """
        self._link.wait_connected(self._config.broker.connect_timeout_s)
        while not self._is_settled.wait(COALESCE_S):
            if self._refusal is not None:
                raise self._refusal

    def _run(self) -> None:
        told_s = time.monotonic()
        while not self._stopping.is_set():
            events = self._next_events()
            with self._lock:
                for event in events:
                    self._take(event)
                now = time.monotonic()
                self._monitor.tick(now)
                self._look(now)
                is_due = now >= told_s + COALESCE_S
                changes = self._monitor.changes() if is_due else {}
            for event in events:
                if isinstance(event, Delivery):
                    self._link.acknowledge(event)
            if is_due:
                told_s = now
            if changes and self._tell:
                self._tell(changes)

    def _next_events(self) -> list[LinkEvent]:
        events: list[LinkEvent] = []
        try:
            events.append(self._link.events.get(timeout=COALESCE_S / 2))
            while len(events) < _AT_ONCE:
                events.append(self._link.events.get_nowait())
        except queue.Empty:
            pass
        return events

    def _take(self, event: LinkEvent) -> None:
        now = time.monotonic()
        match event:
            case Delivery(topic, payload, _, retain):
                if retain:
                    self._retained_s = now
                self._monitor.receive(topic, payload, now=now, retained=retain)
            case LinkUp():
                self._is_up, self._retained_s = True, now
                self._monitor.set_clock(time.time() - now)
                self._monitor.linked(now)
            case LinkDown(reason):
                self._is_up = False
                self._monitor.unlinked(reason, now=now)
            case LinkRefused(error):
                self._is_up, self._refusal = False, self._in_words(error)
                self._monitor.unlinked(str(self._refusal), now=now, is_final=True)

    def _look(self, now: float) -> None:
        if self._is_up:
            if self._retained_s is not None and now >= self._retained_s + SETTLE_S:
                self._is_settled.set()
        elif self._refusal is None and now >= self._opened_s + _PATIENCE_S:
            try:
                self._link.wait_connected(0)
            except BrokerUnreachable as error:
                self._monitor.unlinked(str(error), now=now)
            except LinkError:
                pass  # the event says it

    def _in_words(self, error: LinkError) -> LinkError:
        if isinstance(error, SessionTakenOver):
            return SessionTakenOver(
                f"another program is logged in as {self._config.login!r}: give each its own login,"
                " by fedfstq init person"
            )
        return error
