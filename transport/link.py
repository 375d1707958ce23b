"""One service's link to the broker: a connection that comes back by itself.

One thread connects, speaks and connects again for ever, each time with a fresh
`transport.connection.Connection`; what came is read from `Link.events`.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from transport import limits, sockets
from transport.backoff import retrying
from transport.broker import BrokerConfig
from transport.connection import Connection, Login, Sent
from transport.errors import (
    BrokerUnreachable,
    LinkError,
    LinkLost,
    LoginRefused,
    Loss,
    SessionTakenOver,
)
from transport.link_events import (
    Delivery,
    LinkDown,
    LinkEvent,
    LinkRefused,
    LinkUp,
    Publication,
)
from transport.pulse import Pulse
from transport.reconnect import Reconnect
from transport.wire import publish_size

__all__ = [
    "Delivery",
    "Link",
    "LinkDown",
    "LinkEvent",
    "LinkRefused",
    "LinkUp",
    "Publication",
]

_log = logging.getLogger(__name__)

# [s] A connection that lasted this long makes the next failure the first.
_LASTING_S: Final = 5.0
# [s] How long close() waits for the farewell's acknowledgement, and then for the thread.
_FAREWELL_S: Final = 2.0
# [publications] Control messages that are kept for the next connection; older ones are dropped.
_MAX_UNACKNOWLEDGED: Final = 256
# [deliveries] That are not taken yet and that no acknowledgement bounds (QoS 0, such as telemetry):
# with `MAX_CONTROL_BYTES` each, 16 MiB. A sender of others waits at the broker's in-flight window.
_MAX_QUEUED: Final = 4_096
# Connections in a row that the broker cut without a word within `_CUT_SHORT_S`, each begun at the
# first try and with the session still known. A broken network gives errors, a restarting broker
# refuses for a while; what is left is another process with this client id, whose turn it was.
# MQTT 5 brokers should say so (DISCONNECT 142); mosquitto before 2.0.12 does not.
_CUTS: Final = 10
_CUT_SHORT_S: Final = 60.0
# [s] The thread shows itself so often while it waits for the next connection.
_REST_S: Final = 5.0


class Link:
    """A connection to the broker that comes back by itself.

    Publications up to `limits.MAX_CONTROL_BYTES` that the broker had not acknowledged when a
    connection broke are sent again by the next one, before `LinkUp`; larger ones (segments) are
    their transfer's to repeat.
    """

    def __init__(
        self,
        broker: BrokerConfig,
        *,
        client_id: str,
        subscriptions: Sequence[str],
        will: Publication | None = None,
        receive_maximum: int | None = None,
        rng: random.Random | None = None,
        spread_s: float = 0.0,
        cuts: int = 0,
        repeats_by_itself: bool = True,
    ) -> None:
        """Prepare a link; nothing is connected before `open`.

        Args:
            broker: Where it is, and how to log in.
            client_id: What the broker knows this service by.
            subscriptions: Topic filters whose retained messages come with every connection.
            will: What the broker publishes when the service is lost.
            receive_maximum: Deliveries that may be unacknowledged at once, and come again after a
                cut; None leaves it to the broker. MQTT 5 alone has it.
            rng: Scatters the waits between connections.
            spread_s: Over so many seconds this link and its like come back to a broker that closed
                or refused their connections (`transport.reconnect`).
            cuts: Those of the link that this one follows in the same process.
            repeats_by_itself: False leaves it to `repeat` to send again what was not acknowledged
                when a connection broke: another service may have spoken since.

        Raises:
            BadLinkConfig: The password file or a TLS file cannot be used; the text names it.
        """
        self.events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self.bytes_sent = 0
        self.bytes_received = 0
        self._broker = broker
        self._rng = rng or random.Random()
        self._reconnect = Reconnect(spread_s=spread_s)
        self._login = Login(
            broker=broker,
            client_id=client_id,
            password=sockets.read_password(broker),
            tls=sockets.tls_context(broker.tls) if broker.tls else None,
            will=will,
            receive_maximum=receive_maximum,
        )
        self._always = frozenset(subscriptions)
        # Whose retained messages were asked for: after a cut the session brings what is left.
        self._asked: set[str] = set()
        self._filters: dict[str, None] = dict.fromkeys(subscriptions)
        self._forgotten: set[str] = set()
        # Guards what callers and the thread share. The thread never takes it inside a paho
        # callback: publish() holds it while it takes paho's own locks.
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        # With the generation of the connection over which each was sent last.
        self._unacknowledged: deque[tuple[Sent, Publication, int]] = deque()
        self._repeats_by_itself = repeats_by_itself
        self._generation = 0
        self._failures = 0
        self._cuts = cuts
        self._was_up = False
        self._refusal: LinkError | None = None
        self._last_failure = "no answer"
        self._stopping = threading.Event()
        self._pulse = Pulse()
        self._thread = threading.Thread(target=self._run, name=f"link-{client_id}", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether publications are taken at this moment."""
        return self._connection is not None

    @property
    def alive(self) -> bool:
        """Whether the link's thread lives; False after `close`, a refusal, or a bug."""
        return self._thread.is_alive()

    def is_turning(self, now: float) -> bool:
        """Say whether the link's thread lives and comes around, connected or not."""
        return self._thread.is_alive() and not self._pulse.is_late(now)

    @property
    def cuts(self) -> int:
        """Connections in a row that look as if another process had this client id."""
        return self._cuts

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet that configuration and the connected broker let through."""
        connection = self._connection
        announced = connection.max_packet_bytes if connection else None
        return min(self._broker.max_packet_bytes, announced or self._broker.max_packet_bytes)

    def open(self) -> None:
        """Start the thread that connects, and connects again whenever the connection is lost."""
        self._thread.start()

    def wait_connected(self, timeout_s: float) -> None:
        """Return once the link is up.

        Raises:
            BrokerUnreachable: It was not within `timeout_s`.
            LoginRefused: The broker refused this identity.
            SessionTakenOver: Another process uses this client id.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._connection or self._refusal or self._stopping.is_set(), timeout_s
            )
            if self._refusal is not None:
                raise self._refusal
            if self._connection is None:
                raise BrokerUnreachable(
                    f"no MQTT broker at {self._address()} ({self._last_failure}): "
                    "is it running, and are broker.host, broker.port and broker.tls right?"
                )

    def publish(self, publication: Publication) -> None:
        """Give a publication to the connection; with QoS 1 the broker gets it at least once.

        Raises:
            LinkLost: There is no connection, or its queue is full.
            ValueError: The packet is larger than `max_packet_bytes`, or the topic is no topic.
        """
        self._publish(publication)

    def subscribe(self, *filters: str) -> None:
        """Subscribe to these topic filters with QoS 1, now and after every reconnect.

        Their retained messages come now. After a reconnect they come again only where the broker
        has lost the session.
        """
        with self._changed:
            self._filters.update(dict.fromkeys(filters))
            self._forgotten.difference_update(filters)
            self._asked.difference_update(filters)
            if self._connection and filters:
                self._connection.subscribe(filters)
                self._asked.update(filters)

    def unsubscribe(self, *filters: str) -> None:
        """End these subscriptions, at the next connection where there is none."""
        with self._changed:
            for topic_filter in filters:
                self._filters.pop(topic_filter, None)
                self._asked.discard(topic_filter)
            if self._connection and filters:
                self._connection.unsubscribe(filters)
            else:
                self._forgotten.update(filters)

    def acknowledge(self, delivery: Delivery) -> None:
        """Tell the broker not to deliver this again; nothing happens after its connection ended."""
        with self._changed:
            connection = self._connection
            if connection and delivery.qos == 1 and delivery.generation == connection.generation:
                connection.acknowledge(delivery.mid)

    def repeat(self) -> None:
        """Send what the connections before left unacknowledged; nothing happens without one."""
        with self._changed:
            if self._connection:
                self._repeat(self._connection)

    def close(self, *, farewell: Publication | None = None) -> None:
        """Say goodbye and end the thread; the broker does not publish the will.

        Args:
            farewell: Published first, and waited for at most 2 s; not sent without connection.
        """
        if farewell is not None:
            try:
                self._publish(farewell).wait_for_publish(_FAREWELL_S)
            except (LinkLost, RuntimeError):
                _log.info("no connection to say goodbye over")
        self._stopping.set()
        with self._changed:
            if self._connection:
                self._connection.say_goodbye()
            self._changed.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_FAREWELL_S + 1.0)

    def _publish(self, publication: Publication) -> Sent:
        size = self._size(publication)
        if size > self.max_packet_bytes:
            raise ValueError(
                f"a packet of {size} bytes for {publication.topic!r}, "
                f"at most {self.max_packet_bytes} are sent"
            )
        with self._changed:
            if self._connection is None:
                raise LinkLost(f"not connected to {self._address()}")
            sent = self._connection.publish(publication)
            self.bytes_sent += size
            if publication.qos and len(publication.payload) <= limits.MAX_CONTROL_BYTES:
                self._remember(sent, publication)
            return sent

    def _repeat(self, connection: Connection) -> None:
        kept: deque[tuple[Sent, Publication, int]] = deque()
        for sent, publication, generation in self._unacknowledged:
            if generation == self._generation:
                kept.append((sent, publication, generation))
            elif not sent.is_published():
                again = connection.publish(publication)
                kept.append((again, publication, self._generation))
                self.bytes_sent += self._size(publication)
        self._unacknowledged = kept

    def _remember(self, sent: Sent, publication: Publication) -> None:
        self._unacknowledged.append((sent, publication, self._generation))
        while self._unacknowledged and (
            self._unacknowledged[0][0].is_published()
            or len(self._unacknowledged) > _MAX_UNACKNOWLEDGED
        ):
            self._unacknowledged.popleft()

    def _size(self, message: Publication | Delivery) -> int:
        return publish_size(
            message.topic,
            len(message.payload),
            qos=message.qos,
            mqtt_version=self._broker.mqtt_version,
        )

    def _address(self) -> str:
        host, port = self._broker.address
        return f"{host}:{port}"

    def _run(self) -> None:
        try:
            retrying(
                self._reconnect,
                retry_on=LinkLost,
                rng=self._rng,
                stopping=self._stopping,
                failures=lambda: self._failures,
                sleep=self._rest,
            )(self._converse)
        except LinkLost:
            pass  # the last one before close()
        except LinkError as error:
            _log.error("%s", error)
            with self._changed:
                self._refusal = error
                self._changed.notify_all()
            self.events.put(LinkRefused(error))

    def _converse(self) -> None:
        """Hold one connection from CONNECT to its end; a LinkError says how it ended."""
        if self._stopping.is_set():
            return
        self._generation += 1
        with self._changed:
            filters = tuple(self._filters)
            resumed = frozenset(self._asked - self._always)
        connection = Connection(self._login, generation=self._generation, pulse=self._pulse)
        try:
            connection.hold(
                filters,
                resumed=resumed,
                up=lambda: self._up(connection, filters),
                deliver=self._deliver,
                stopping=self._stopping,
            )
        except LinkError as error:
            self._ended(connection, error)
            if isinstance(error, LoginRefused) and self._was_up:
                # It was accepted before: more likely a broker that is still reading its users.
                raise LinkLost(str(error), cause=Loss.BROKER) from error
            if self._cuts >= _CUTS:
                raise SessionTakenOver(
                    f"{self._address()} cut {self._cuts} connections in a row: is another process "
                    f"connected as client {self._login.client_id!r}?"
                ) from error
            raise
        finally:
            connection.release()

    def _rest(self, seconds: float) -> None:
        """Wait for the next connection's time, or for `close`."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._pulse.beat(now)
            if self._stopping.wait(min(_REST_S, until - now)):
                return

    def _deliver(self, delivery: Delivery) -> None:
        self.bytes_received += self._size(delivery)
        if delivery.qos == 0 and self._is_flood(delivery):
            return
        self.events.put(delivery)

    def _is_flood(self, delivery: Delivery) -> bool:
        """Say whether a delivery that nobody acknowledges would let the queue grow too long."""
        is_control = len(delivery.payload) <= limits.MAX_CONTROL_BYTES
        return not is_control or self.events.qsize() >= _MAX_QUEUED

    def _ended(self, connection: Connection, error: LinkError) -> None:
        with self._changed:
            was_up, self._connection = self._connection is connection, None
            self._last_failure = str(error)
        self._reconnect.cause = error.cause if isinstance(error, LinkLost) else Loss.BROKER
        if not self._was_up:
            # Somebody waits for the first connection, and services do not start in step.
            self._reconnect.cause = Loss.SILENT
        lasted_s = time.monotonic() - connection.began_at if was_up else 0.0
        self._failures = 1 if lasted_s > _LASTING_S else self._failures + 1
        is_cut = was_up and connection.was_cut and connection.session_present
        # The other process may have waited as long as this one would have.
        short_s = _CUT_SHORT_S + self._reconnect.spread_s
        self._cuts = self._cuts + 1 if is_cut and lasted_s < short_s else 0
        if self._stopping.is_set():
            return
        if was_up:
            _log.warning("link to %s is down: %s", self._address(), error)
            self.events.put(LinkDown(str(error)))
        else:
            _log.info("no link to %s: %s", self._address(), error)

    def _up(self, connection: Connection, subscribed: Collection[str]) -> None:
        """Let callers publish, after what was not acknowledged and before any delivery."""
        with self._changed:
            if late := self._filters.keys() - set(subscribed):
                connection.subscribe(tuple(late))
            self._asked.update(self._filters)
            if self._forgotten:
                connection.unsubscribe(tuple(self._forgotten))
                self._forgotten.clear()
            self._connection = connection
            if self._repeats_by_itself:
                self._repeat(connection)
            self._was_up = True
            self._changed.notify_all()
        _log.info(
            "link to %s is up, session known: %s", self._address(), connection.session_present
        )
        self.events.put(LinkUp(connection.session_present))
