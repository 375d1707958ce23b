"""A model of an MQTT broker: sessions, queues, retained messages, wills, and how it loses them.

It holds what mosquitto holds, and forgets as mosquitto forgets: a kill takes everything since the
last autosave, although all of it was acknowledged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from transport.errors import BadTopic
from transport.topics import (
    Address,
    Command,
    DeviceTopic,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
    ModelWant,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)

FEDERATION = "sim"
TOPICS = Topics(FEDERATION)

# What a topic filter means here: a kind of address, and which device or version; None for all.
Interest = tuple[type, object]

_OWN = (UpManifest, UpSegment, ModelWant, Response, DeviceTopic)


@lru_cache(maxsize=100_000)
def interest(topic_filter: str) -> Interest:
    """Return which addresses a filter of `transport.topics` selects."""
    levels = topic_filter.split("/")
    for filling in itertools.product(("0" * 32, "0", "status"), repeat=levels.count("+")):
        values = iter(filling)
        topic = "/".join(next(values) if level == "+" else level for level in levels)
        try:
            address = TOPICS.parse(topic)
        except BadTopic:
            continue
        keyed = key_of(address)
        return type(address), keyed if _is_literal(keyed, levels) else None
    raise AssertionError(f"no address matches {topic_filter}")


def key_of(address: Address) -> object:
    """Return what a subscriber may choose of a kind of address; None where he takes all."""
    match address:
        case Down(client_id, _) | Command(client_id, _, _):
            return client_id
        case ModelManifest(version, delta) | ModelSegment(version, _, delta):
            return version, delta
        case DeviceTopic(_, leaf):
            return leaf
    return None


def _is_literal(key: object, levels: list[str]) -> bool:
    level = str(key[0]) if isinstance(key, tuple) else key
    return level in levels


@dataclass(slots=True, eq=False)
class Entry:
    """One message on its way to one client.

    Attributes:
        retained: It was retained, and a subscription brought it.
        sent: It is on the client's present connection.
        acknowledged_at: When the client's acknowledgement reaches the broker.
    """

    address: Address
    message: Any
    retained: bool = False
    sent: bool = False
    acknowledged_at: float = float("inf")


@dataclass(slots=True, eq=False)
class Session:
    """What the broker keeps of one client."""

    interests: dict[Interest, None] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    look_at: int = 64  # entries beyond which it is worth dropping those that are acknowledged


class Port:
    """The broker's end of one connection."""

    def __init__(
        self,
        client_id: str,
        *,
        deliver: Callable[[Entry], None],
        taken_over: Callable[[], None],
        will: tuple[Address, Any],
    ) -> None:
        self.client_id = client_id
        self.deliver = deliver
        self.taken_over = taken_over
        self.will = will


@dataclass(frozen=True, slots=True)
class Image:
    """The broker's database as it was saved."""

    retained: dict[type, dict[Address, Any]]
    sessions: dict[str, tuple[dict[Interest, None], list[tuple[Address, Any]]]]


class Broker:
    """Takes publications, and gives each to the sessions that want it.

    Attributes:
        up: Whether it runs.
        told_model: Called with what is said of the newest adapter version.
        queue_limit: Messages that are held for an absent client; further ones are dropped silently.
    """

    def __init__(self, clock: Any) -> None:
        self.up = True
        self.queue_limit = 20_000
        self.told_model: Callable[[Any], None] | None = None
        self._clock = clock
        self._retained: dict[type, dict[Address, Any]] = {}
        self._sessions: dict[str, Session] = {}
        self._ports: dict[str, Port] = {}
        self._wanted: dict[Interest, dict[str, Session]] = {}

    # Clients --------------------------------------------------------------------------------------

    def attach(self, port: Port, filters: Iterable[str], *, resumed: Collection[str] = ()) -> bool:
        """Take a connection and its subscriptions, and return whether the session was known.

        Args:
            port: The connection.
            filters: What the client subscribes to at once.
            resumed: Those of them whose retained messages it wants only from a new session.
        """
        client_id = port.client_id
        old = self._ports.get(client_id)
        if old is not None:
            self.lose_acknowledgements(old)
            self.detach(old)  # its will is published
            old.taken_over()
        known = client_id in self._sessions
        session = self._sessions.setdefault(client_id, Session())
        self._ports[client_id] = port
        self._settle(session)
        for entry in session.entries:
            entry.sent = False
        self._send(session, port)
        for topic_filter in filters:
            wants_retained = not (known and topic_filter in resumed)
            self.subscribe(client_id, topic_filter, wants_retained=wants_retained)
        return known

    def is_attached(self, port: Port) -> bool:
        """Return whether this is its client's present connection."""
        return self._ports.get(port.client_id) is port

    def detach(self, port: Port, *, goodbye: bool = False) -> None:
        """End a connection; without a goodbye its will is published."""
        if self._ports.get(port.client_id) is not port:
            return
        del self._ports[port.client_id]
        if not goodbye:
            address, message = port.will
            self.publish(port.client_id, address, message, retain=True)

    def lose_acknowledgements(self, port: Port) -> None:
        """Forget what was on its way to the broker when a connection broke."""
        session = self._sessions.get(port.client_id)
        if session is not None and self.is_attached(port):
            now = self._clock.now
            for entry in session.entries:
                if entry.acknowledged_at > now:
                    entry.acknowledged_at = float("inf")

    def subscribe(self, client_id: str, topic_filter: str, *, wants_retained: bool = True) -> None:
        """Subscribe, which brings the retained messages (again) where they are wanted."""
        session = self._sessions.get(client_id)
        if session is None:
            return
        wanted = interest(topic_filter)
        session.interests[wanted] = None
        self._wanted.setdefault(wanted, {})[client_id] = session
        if not wants_retained:
            return
        kind, key = wanted
        port = self._ports.get(client_id)
        for address, message in self._retained.get(kind, {}).items():
            if key is None or key_of(address) == key:
                self._enqueue(session, port, address, message, retained=True)

    def unsubscribe(self, client_id: str, topic_filter: str) -> None:
        """Unsubscribe."""
        wanted = interest(topic_filter)
        session = self._sessions.get(client_id)
        if session is not None:
            session.interests.pop(wanted, None)
            self._wanted.get(wanted, {}).pop(client_id, None)

    def publish(self, client_id: str, address: Address, message: Any, *, retain: bool) -> None:
        """Take a publication; what the sender may not write is dropped without a word."""
        if isinstance(address, _OWN) and address.client_id != client_id:
            return  # the ACL: a device writes under its own name only
        kind = type(address)
        if kind is Model and message is not None and self.told_model is not None:
            self.told_model(message)
        if retain:
            held = self._retained.setdefault(kind, {})
            if message is None:
                held.pop(address, None)
            else:
                held[address] = message
        for wanted in ((kind, None), (kind, key_of(address))):
            sessions = self._wanted.get(wanted)
            if sessions:
                for name, session in sessions.items():
                    self._enqueue(session, self._ports.get(name), address, message)
            if wanted[1] is None and key_of(address) is None:
                break

    # Faults ---------------------------------------------------------------------------------------

    def image(self) -> Image:
        """Return what an autosave would write now."""
        for session in self._sessions.values():
            self._settle(session)
        return Image(
            {kind: dict(held) for kind, held in self._retained.items()},
            {
                name: (
                    dict(session.interests),
                    [(entry.address, entry.message) for entry in session.entries],
                )
                for name, session in self._sessions.items()
            },
        )

    def kill(self) -> None:
        """Die: no connection, and nothing but what was saved."""
        self.up = False
        self._ports.clear()

    def start(self, image: Image | None) -> None:
        """Start from what was saved; from nothing where the database is gone."""
        self.up = True
        self._retained, self._sessions, self._wanted = {}, {}, {}
        if image is None:
            return
        self._retained = {kind: dict(held) for kind, held in image.retained.items()}
        for name, (interests, entries) in image.sessions.items():
            queued = [Entry(address, message) for address, message in entries]
            self._sessions[name] = session = Session(dict(interests), queued)
            for wanted in interests:
                self._wanted.setdefault(wanted, {})[name] = session

    def expire(self, client_id: str) -> None:
        """Forget the session of a client that is away."""
        if client_id in self._ports:
            return
        session = self._sessions.pop(client_id, None)
        if session is not None:
            for wanted in session.interests:
                self._wanted.get(wanted, {}).pop(client_id, None)

    # Queues ---------------------------------------------------------------------------------------

    def _enqueue(
        self,
        session: Session,
        port: Port | None,
        address: Address,
        message: Any,
        *,
        retained: bool = False,
    ) -> None:
        if len(session.entries) > session.look_at:
            self._settle(session)
            session.look_at = max(64, 2 * len(session.entries))
        if port is None and len(session.entries) >= self.queue_limit:
            return
        entry = Entry(address, message, retained)
        session.entries.append(entry)
        if port is not None:
            entry.sent = True
            port.deliver(entry)

    def _send(self, session: Session, port: Port) -> None:
        for entry in list(session.entries):
            entry.sent = True
            port.deliver(entry)

    def _settle(self, session: Session) -> None:
        """Drop what the client has acknowledged."""
        now = self._clock.now
        session.entries = [entry for entry in session.entries if entry.acknowledged_at > now]
