"""A model of one service's link: connections that break and come back, over a bad network.

Loss is delay here, as TCP makes it; what a broken connection had on its way is gone. As the real
link does, it repeats control messages that the broker had not acknowledged, and leaves segments to
their transfer.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tools.simulate.broker import Broker, Entry, Port
from tools.simulate.clock import Clock
from transport.errors import Loss
from transport.messages import Segment
from transport.reconnect import Reconnect
from transport.topics import Address, UpSegment

# [s] After so long without an answer a client takes its connection for dead, and a broker later.
CLIENT_PATIENCE_S = 60.0
BROKER_PATIENCE_S = 90.0
# [s] A connection that lasted this long makes the next failure the first.
LASTING_S = 5.0
# Takeovers in a row of connections that were this short, after which a link gives up.
TAKEOVERS = 10
SHORT_S = 60.0
UNACKNOWLEDGED_KEPT = 256
# [bytes] Of a message besides a segment's body, for links with a bandwidth.
OVERHEAD_BYTES = 200


@dataclass(slots=True)
class Network:
    """What a client's way to the broker is like.

    Attributes:
        latency_s: One way.
        loss: Share of messages that arrive only after TCP has repeated them.
        reorder: Share of messages from the broker that others overtake, within MQTT's rules.
        bytes_per_s: Of the uplink; None where that does not matter.
        dark_until: Nothing passes before this moment.
    """

    latency_s: float = 0.02
    loss: float = 0.0
    reorder: float = 0.0
    bytes_per_s: float | None = None
    dark_until: float = 0.0


class Service(Protocol):
    """Whoever uses a line."""

    def line_up(self) -> None:
        """The connection is there."""

    def line_down(self) -> None:
        """The connection is lost."""

    def line_refused(self) -> None:
        """Another process has this client id: the service ends."""

    def line_delivers(self, entry: Entry) -> None:
        """A message came; `Line.acknowledge` lets the broker forget it."""


@dataclass(slots=True, eq=False)
class _Unacknowledged:
    address: Address
    message: Any
    retain: bool
    done_at: float


@dataclass(slots=True, eq=False)
class _Connection:
    """One connection.

    Attributes:
        came_at: The last arrival from the broker: what follows does not overtake it.
        arrived_at: The last arrival at the broker.
        free_at: When the uplink has sent what it was given.
        by_topic: The last arrival of each topic, where topics may overtake each other.
    """

    port: Port | None = None
    began_at: float = 0.0
    came_at: float = 0.0
    arrived_at: float = 0.0
    free_at: float = 0.0
    alive: bool = True
    by_topic: dict[Address, float] = field(default_factory=dict)


class Line:
    """One service's link.

    Attributes:
        network: What it passes through; whoever injects faults changes it.
        cuts: Connections that were lost.
        takeovers: Those in a row that another process with this client id has ended.
    """

    def __init__(
        self,
        clock: Clock,
        broker: Broker,
        service: Service,
        *,
        client_id: str,
        filters: Iterable[str],
        will: tuple[Address, Any],
        network: Network,
        rng: random.Random,
        spread_s: float = 0.0,
        takeovers: int = 0,
    ) -> None:
        self.network = network
        self.cuts = 0
        self._clock = clock
        self._broker = broker
        self._service = service
        self._client_id = client_id
        self._filters = dict.fromkeys(filters)
        self._forgotten: dict[str, None] = {}
        self._will = will
        self._rng = rng
        self._connection: _Connection | None = None
        self._connected = False
        self._closed = False
        self._reconnect = Reconnect(spread_s=spread_s)
        self._always = frozenset(self._filters)
        # Whose retained messages were asked for: after a cut the session brings what is left.
        self._asked: set[str] = set()
        self._failures = 0
        self.takeovers = takeovers
        self._unacknowledged: deque[_Unacknowledged] = deque()

    @property
    def connected(self) -> bool:
        """Whether publications are taken at this moment."""
        return self._connected

    # What the service asks ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and again whenever the connection is lost."""
        self._try()

    def publish(self, address: Address, message: Any, *, retain: bool = False) -> bool:
        """Send a message; return False where there is no connection."""
        connection = self._connection
        if not self._connected or connection is None:
            return False
        arrives_at = self._arrival(connection, message)
        self._clock.at(arrives_at, self._arrive, connection, address, message, retain)
        if not isinstance(address, UpSegment):
            self._remember(address, message, retain=retain, done_at=arrives_at)
        return True

    def subscribe(self, *filters: str) -> None:
        """Subscribe, now and after every reconnection."""
        for topic_filter in filters:
            self._filters[topic_filter] = None
            self._forgotten.pop(topic_filter, None)
            self._asked.discard(topic_filter)
            if self._send_subscription(self._broker.subscribe, topic_filter):
                self._asked.add(topic_filter)

    def unsubscribe(self, *filters: str) -> None:
        """End these subscriptions, at the next connection where there is none."""
        for topic_filter in filters:
            self._filters.pop(topic_filter, None)
            self._asked.discard(topic_filter)
            if not self._send_subscription(self._broker.unsubscribe, topic_filter):
                self._forgotten[topic_filter] = None

    def acknowledge(self, entry: Entry) -> None:
        """Let the broker forget a delivery; nothing happens after its connection ended."""
        if self._connected and entry.sent:
            entry.acknowledged_at = self._clock.now + self.network.latency_s

    def close(self, *, goodbye: bool) -> None:
        """End the line for good: with a goodbye, or as a killed process does."""
        self._closed = True
        connection, self._connection = self._connection, None
        self._connected = False
        if connection is None:
            return
        # What was said before a goodbye arrives before it; nothing does that a killed process said.
        connection.alive = goodbye
        if connection.port is not None:
            self._broker.lose_acknowledgements(connection.port)
            delay_s = max(self._delay(), self.network.dark_until - self._clock.now)
            moment = self._clock.now + delay_s
            moment = max(moment, connection.arrived_at) if goodbye else moment
            self._clock.at(moment, self._detach, connection.port, goodbye)

    # What happens to it ---------------------------------------------------------------------------

    def cut(self, *, noticed_by_broker_s: float = 0.0, cause: Loss = Loss.SILENT) -> None:
        """Break the connection: what is on its way is lost, in both directions."""
        self._reconnect.cause = cause
        connection = self._connection
        if connection is None:
            return
        connection.alive = False
        self._connection = None
        if connection.port is not None:
            self._broker.lose_acknowledgements(connection.port)
            self._clock.after(noticed_by_broker_s, self._detach, connection.port, False)  # noqa: FBT003
        lasted_s = self._clock.now - connection.began_at if self._connected else 0.0
        self._failures = 1 if lasted_s > LASTING_S else self._failures + 1
        self.takeovers = 0 if lasted_s > SHORT_S else self.takeovers
        if self._connected:
            self._connected = False
            self.cuts += 1
            self._service.line_down()
        if not self._closed:
            self._clock.after(self._reconnect.delay_s(self._failures, self._rng), self._try)

    def go_dark(self, duration_s: float) -> None:
        """Let nothing pass for a while; where that lasts, both ends give the connection up."""
        now = self._clock.now
        self.network.dark_until = max(self.network.dark_until, now + duration_s)
        if duration_s > CLIENT_PATIENCE_S and self._connection is not None:
            self._clock.after(CLIENT_PATIENCE_S, self._give_up, self._connection)

    # How it works ---------------------------------------------------------------------------------

    def _give_up(self, connection: _Connection) -> None:
        if connection is self._connection:
            self.cut(noticed_by_broker_s=BROKER_PATIENCE_S - CLIENT_PATIENCE_S)

    def _detach(self, port: Port, goodbye: bool) -> None:  # noqa: FBT001  called by the clock
        if self._broker.up:
            self._broker.detach(port, goodbye=goodbye)

    def _try(self) -> None:
        if self._closed or self._connection is not None:
            return
        now = self._clock.now
        if not self._broker.up or now < self.network.dark_until:
            self._failures += 1
            silent = now < self.network.dark_until
            self._reconnect.cause = Loss.SILENT if silent else Loss.BROKER
            self._clock.after(self._reconnect.delay_s(self._failures, self._rng), self._try)
            return
        self._connection = connection = _Connection()
        self._clock.after(self._delay() * 2, self._attach, connection)

    def _attach(self, connection: _Connection) -> None:
        """Reach the broker, which begins to deliver; the client is told a moment later."""
        if not connection.alive or self._connection is not connection:
            return
        if not self._broker.up:
            self.cut(cause=Loss.BROKER)
            return
        connection.began_at = self._clock.now
        connection.came_at = self._clock.now + self._delay()
        self._clock.at(connection.came_at, self._rise, connection)
        connection.port = Port(
            self._client_id,
            deliver=lambda entry: self._come(connection, entry),
            taken_over=lambda: self._taken_over(connection),
            will=self._will,
        )
        for topic_filter in self._forgotten:
            self._broker.unsubscribe(self._client_id, topic_filter)
        self._forgotten.clear()
        self._broker.attach(
            connection.port, tuple(self._filters), resumed=self._asked - self._always
        )
        self._asked.update(self._filters)

    def _taken_over(self, connection: _Connection) -> None:
        """Make way for another process with this client id; give up where that does not end."""
        if connection is not self._connection:
            return
        self.takeovers += 1
        self.cut(cause=Loss.BROKER)
        if self.takeovers >= TAKEOVERS:
            self._closed = True
            self._service.line_refused()

    def _rise(self, connection: _Connection) -> None:
        if not connection.alive or self._connection is not connection:
            return
        self._connected = True
        now = self._clock.now
        again = [sent for sent in self._unacknowledged if sent.done_at > now]
        self._unacknowledged.clear()
        for sent in again:
            self.publish(sent.address, sent.message, retain=sent.retain)
        self._service.line_up()

    def _come(self, connection: _Connection, entry: Entry) -> None:
        """Bring a message from the broker to the client."""
        moment = self._clock.now + self._delay()
        dark_until = self.network.dark_until
        moment = max(moment, dark_until)
        if self.network.reorder:
            if self._rng.random() < self.network.reorder:
                moment += self._rng.uniform(0.0, 2.0)
            # Within one topic the order stays.
            by_topic = connection.by_topic
            moment = max(moment, by_topic.get(entry.address, connection.came_at))
            by_topic[entry.address] = moment
        else:
            moment = connection.came_at = max(moment, connection.came_at)
        self._clock.at(moment, self._hand_over, connection, entry)

    def _hand_over(self, connection: _Connection, entry: Entry) -> None:
        if connection.alive and self._connection is connection:
            self._service.line_delivers(entry)

    def _arrive(
        self,
        connection: _Connection,
        address: Address,
        message: Any,
        retain: bool,  # noqa: FBT001  called by the clock
    ) -> None:
        """Bring a message from the client to the broker."""
        port = connection.port
        if connection.alive and port is not None and self._broker.is_attached(port):
            self._broker.publish(self._client_id, address, message, retain=retain)

    def _arrival(self, connection: _Connection, message: Any) -> float:
        """Return when a packet that is given to the connection now is at the broker."""
        sent_at = max(self._clock.now, self.network.dark_until, connection.free_at)
        if self.network.bytes_per_s is not None:
            size = len(message.body) if isinstance(message, Segment) else 0
            sent_at += (OVERHEAD_BYTES + size) / self.network.bytes_per_s
        connection.free_at = sent_at
        connection.arrived_at = max(sent_at + self._delay(), connection.arrived_at)
        return connection.arrived_at

    def _send_subscription(self, ask: Callable[[str, str], None], topic_filter: str) -> bool:
        connection = self._connection
        if not self._connected or connection is None:
            return False
        moment = self._arrival(connection, None)
        self._clock.at(moment, self._subscribe_there, connection, ask, topic_filter)
        return True

    def _subscribe_there(
        self, connection: _Connection, ask: Callable[[str, str], None], topic_filter: str
    ) -> None:
        port = connection.port
        if connection.alive and port is not None and self._broker.is_attached(port):
            ask(self._client_id, topic_filter)

    def _remember(self, address: Address, message: Any, *, retain: bool, done_at: float) -> None:
        kept, now = self._unacknowledged, self._clock.now
        while kept and (kept[0].done_at <= now or len(kept) >= UNACKNOWLEDGED_KEPT):
            kept.popleft()
        done_at += self.network.latency_s
        kept.append(_Unacknowledged(address, message, retain, done_at))

    def _delay(self) -> float:
        network = self.network
        delay_s = network.latency_s
        if network.loss and self._rng.random() < network.loss:
            delay_s += self._rng.uniform(0.2, 3.0)
        return delay_s
