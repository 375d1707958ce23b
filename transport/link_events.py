"""What goes into a link, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

from transport.errors import LinkError


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to publish."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The link is connected and subscribed; `session_present` says that the broker knew it."""

    session_present: bool


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection is lost; the link is trying again."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkRefused:
    """The link has given up: `LoginRefused` or `SessionTakenOver`."""

    error: LinkError


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that came; with QoS 1 it comes again until `Link.acknowledge`.

    Attributes:
        mid: MQTT's packet identifier, meaningful within one connection.
        generation: The connection that brought it.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    mid: int
    generation: int = 0


LinkEvent = LinkUp | LinkDown | LinkRefused | Delivery
