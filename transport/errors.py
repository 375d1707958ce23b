"""What can go wrong between the services, by who is wrong."""

from __future__ import annotations

from enum import Enum


class InvalidIdentifier(ValueError):
    """The caller named a federation or device in a way that no topic can carry."""


class MessageError(Exception):
    """Bytes from elsewhere are not a message of this protocol: the sender is wrong.

    A subclass's `reason` is the typed reason that receipts, counters and events carry.
    """

    reason: str = "malformed"


class BadTopic(MessageError):
    """The topic means nothing to this federation."""

    reason = "topic"


class MalformedMessage(MessageError):
    """The payload is truncated, damaged or not of the message's schema."""

    reason = "malformed"


class OversizedMessage(MessageError):
    """The payload, or what it announces, is more than the limits allow."""

    reason = "oversized"


class UnsupportedMessage(MessageError):
    """The payload was written by a protocol version that this reader does not know."""

    reason = "version"


class BadSignature(MessageError):
    """The message is not signed by whom its topic names, or cannot be shown to be."""

    reason = "signature"


class LinkError(Exception):
    """The world is in the way: the broker, its network, or the login it asks for."""


class Loss(Enum):
    """What ended a connection, or kept it from being made."""

    BROKER = "the broker closed or refused it, and so it did to every other device"
    SILENT = "no answer in time: this link, or the broker's"
    OFFLINE = "this device has no network"


class LinkLost(LinkError):
    """There is no connection at this moment; the same call may succeed later."""

    def __init__(self, text: str, *, cause: Loss = Loss.SILENT) -> None:
        super().__init__(text)
        self.cause = cause


class BrokerUnreachable(LinkError):
    """The broker did not answer in the time that was given."""


class LoginRefused(LinkError):
    """The broker answered, and refused this identity; trying again will not help."""


class PublishingRefused(LinkError):
    """The broker takes the login, but not the first thing it publishes: it is someone else's."""


class SessionTakenOver(LinkError):
    """Another process connected with this client id; two would take turns for ever."""


class BadLinkConfig(ValueError):
    """A file that the broker's configuration names cannot be used; the text names the file."""
