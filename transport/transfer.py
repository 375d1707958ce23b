"""Segment transfer of one client update: the device's `Sender`, the aggregator's `Receiver`.

MQTT's own acknowledgement says nothing about durability, so the aggregator answers with the set of
segments that it has journaled (Have), and the sender works on what is missing from that set.
"""

from __future__ import annotations

from transport.receiver import Journal, Receiver, ReceiverOutput, RefuseSegment, SendHave
from transport.sender import Sender, SenderOutput, SendManifest, SendSegment, Settled
from transport.transfer_policy import TransferPolicy

__all__ = [
    "Journal",
    "Receiver",
    "ReceiverOutput",
    "RefuseSegment",
    "SendHave",
    "SendManifest",
    "SendSegment",
    "Sender",
    "SenderOutput",
    "Settled",
    "TransferPolicy",
]
