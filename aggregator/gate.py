"""The aggregator's side of its link: nothing is published but by the one that leads.

What comes before it is known who leads waits here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import time

from aggregator.fencing import Claim, Fence, FenceOutput, read_overheard
from transport import control, frame
from transport.control import AlertNotice, ServiceStatus
from transport.errors import LinkLost, MessageError
from transport.link import Delivery, Link, LinkDown, LinkEvent, Publication
from transport.messages import Message
from transport.signing import Seals, Unsigned
from transport.topics import CoordStatus, DeviceTopic, Topics
from transport.wire import MqttVersion, publish_size

logger = logging.getLogger(__name__)

# A batch is one transaction; more in it would let the answers wait for longer than they save.
MAX_BATCH = 128
# The longest wait for an event: how late a signal or a dead link thread is noticed.
MAX_WAIT_S = 0.5
# Of uploads, which devices repeat, only so many wait until it is known who leads.
MAX_HELD_UPLOADS = 256
# [bytes] Everything else that is kept: the retained statuses of 100,000 devices take 20 MB.
MAX_HELD_BYTES = 32 << 20


class FencedOff(Exception):
    """Another aggregator leads, or must: this one says `word`, and nothing more."""

    def __init__(self, text: str, word: Publication) -> None:
        super().__init__(text)
        self.word = word


class EpochUsed(Exception):
    """Another aggregator has had this epoch as well: start anew with a higher one.

    The last will carries the epoch, and is given with a connection.

    Attributes:
        cuts: What the link knows of another process with its client id.
    """

    def __init__(self, cuts: int) -> None:
        super().__init__()
        self.cuts = cuts


class Gate:
    """Puts a fence before a link.

    Args:
        link: The link, opened and closed by the caller.
        fence: Decides who may speak.
        topics: The federation's.
        mqtt_version: The broker's, which decides how long a packet is.
        seals: Signs what is published.
    """

    def __init__(
        self,
        link: Link,
        fence: Fence,
        *,
        topics: Topics,
        mqtt_version: MqttVersion,
        seals: Seals | None = None,
    ) -> None:
        # Whether everything that stands has been published over the connection that there is.
        self.has_told = False
        self._link = link
        self._fence = fence
        self._topics = topics
        self._mqtt_version = mqtt_version
        self._seals = seals or Unsigned()
        self._unsigned = 0
        self._held: list[Delivery] = []
        self._held_bytes = 0
        self._waiting: list[LinkEvent] = []

    def take_events(self, wakeup: float | None) -> list[LinkEvent]:
        """Return what has come, after waiting for it until `wakeup` (monotonic seconds).

        Raises:
            LinkLost: The link's thread has ended.
        """
        if self._waiting:
            events, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            return events
        due = [moment for moment in (wakeup, self._fence.next_wakeup()) if moment is not None]
        now = time.monotonic()
        wait_s = max(0.0, min([MAX_WAIT_S, *(moment - now for moment in due)]))
        events = []
        with contextlib.suppress(queue.Empty):
            # An empty queue with a timeout of 0 is an answer as well, where work is due.
            events.append(self._link.events.get(timeout=wait_s))
            while len(events) < MAX_BATCH:
                events.append(self._link.events.get_nowait())
        if not events and not self._link.alive:
            raise LinkLost("the link's thread has ended")
        return events

    def look_around(self, now: float) -> list[FenceOutput]:
        """Look for another aggregator in what came during a long computation.

        Everything stays to be taken by `take_events`.
        """
        noticed: list[FenceOutput] = []
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.append(self._link.events.get_nowait())
        for event in self._waiting:
            match event:
                case LinkDown():
                    self._fence.disconnected()
                case Delivery() if self._fence.leads:
                    noticed += self.overhear(event, now=now) or []
        return noticed

    def overhear(self, delivery: Delivery, *, now: float) -> list[FenceOutput] | None:
        """Take what an aggregator has said; None where it is a device's message."""
        heard = read_overheard(self._topics, delivery.topic, delivery.payload)
        if heard is None:
            return None
        message = heard.message if self._is_signed(delivery) else None
        return self._fence.heard(message, retained=delivery.retain, now=now)

    def _is_signed(self, delivery: Delivery) -> bool:
        """Say whether an aggregator has said this; what stands is said again where none has."""
        try:
            self._seals.unseal(delivery.topic, delivery.payload)
        except MessageError as error:
            self._unsigned += 1
            if self._unsigned & (self._unsigned - 1) == 0:  # the first, and then ever fewer
                logger.warning(
                    "ignored message %d on %s: %s", self._unsigned, delivery.topic, error
                )
            return False
        return True

    def hold(self, delivery: Delivery) -> None:
        """Keep a device's message until it is known who leads."""
        if delivery.topic.startswith(f"{self._topics.bulk}/"):
            has_room = len(self._held) < MAX_HELD_UPLOADS
        else:
            self._held_bytes += len(delivery.topic) + len(delivery.payload)
            has_room = self._held_bytes <= MAX_HELD_BYTES
        if has_room:
            self._held.append(delivery)

    def disconnected(self) -> None:
        """Forget which devices the connection showed: the next one's broker tells it anew.

        A status that outlives its connection would pass for a device that is there, so that its
        command goes out before it has come back, and none when it does. What devices answered
        stays, and so does word that a status was cleared, which no broker tells twice.
        """
        kept = [one for one in self._held if not (one.payload and self._is_status(one))]
        self.release()
        for delivery in kept:
            self.hold(delivery)

    def _is_status(self, delivery: Delivery) -> bool:
        try:
            address = self._topics.parse(delivery.topic)
        except MessageError:
            return False
        return isinstance(address, DeviceTopic) and address.leaf == "status"

    def release(self) -> list[Delivery]:
        """Return what was kept."""
        held, self._held = self._held, []
        self._held_bytes = 0
        return held

    def claim(self, claim: Claim) -> None:
        """Say a word of the fence's, whoever leads."""
        topic = self._topics.topic(CoordStatus())
        payload = self._seals.seal(topic, encode(topic, claim.status))
        with contextlib.suppress(LinkLost):  # the next connection asks again
            self._link.publish(Publication(topic, payload))

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> int:
        """Publish where this aggregator leads, and return the packet's bytes; else 0.

        `LinkUp` makes the coordinator say again what stands, and devices repeat their questions.
        """
        if not self._fence.leads:
            # The link may be back before it is known who leads.
            self.has_told = False
            return 0
        try:
            payload = self._seals.seal(topic, payload)
            self._link.publish(Publication(topic, payload, retain=retain))
        except LinkLost:
            self.has_told = False
            logger.debug("not connected, not published: %s", topic)
            return 0
        except ValueError:
            # Trying again would never help; the broker would cut the connection each time.
            logger.exception("not published: %s", topic)
            return 0
        return publish_size(topic, len(payload), qos=1, mqtt_version=self._mqtt_version)


def encode(topic: str, message: object) -> bytes:
    """Return a message's bytes, with the wall clock where people read it; b"" clears a topic."""
    match message:
        case None:
            return b""
        case ServiceStatus():
            return control.encode(dataclasses.replace(message, ts=time.time()))
        case AlertNotice():
            return control.encode(dataclasses.replace(message, since=time.time()))
    if isinstance(message, Message):
        return frame.encode(message)
    assert topic.startswith("fl/")
    return control.encode(message)
