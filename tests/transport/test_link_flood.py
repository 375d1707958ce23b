"""What a sender that needs no acknowledgement can leave in a process that is busy elsewhere."""

from __future__ import annotations

import time
from typing import Any

import pytest

from transport import limits
from transport.link import Delivery, Link, Publication

pytestmark = pytest.mark.broker


def test_a_flood_without_acknowledgements_leaves_a_bounded_queue(mosquitto: Any) -> None:
    """240 MB while nobody takes anything; what is acknowledged comes through all the same."""
    victim = Link(mosquitto.config(), client_id="coord", subscriptions=("flood/#",))
    sender = Link(mosquitto.config(), client_id="evil", subscriptions=())
    victim.open()
    sender.open()
    try:
        victim.wait_connected(15)
        sender.wait_connected(15)
        large, small = bytes(120_000), bytes(2_000)
        for number in range(8_000):
            sender.publish(Publication(f"flood/{number}", small, qos=0))
            if number % 4 == 0:
                sender.publish(Publication(f"flood/{number}/large", large, qos=0))
            if number % 200 == 0:
                sender.publish(Publication(f"flood/{number}/sure", small, qos=1))
        sender.publish(Publication("flood/last", b"that was all", qos=1))
        before, still_since = -1, time.monotonic()
        while time.monotonic() < still_since + 1.0:
            if victim.bytes_received != before:
                before, still_since = victim.bytes_received, time.monotonic()
            time.sleep(0.05)
        assert victim.bytes_received > 16 << 20
        queued = []
        while not victim.events.empty():
            queued.append(victim.events.get())
        taken = [event for event in queued if isinstance(event, Delivery)]
        assert sum(len(one.payload) for one in taken if one.qos == 0) <= 16 << 20
        assert all(len(one.payload) <= limits.MAX_CONTROL_BYTES for one in taken if one.qos == 0)
        assert [one for one in taken if one.qos == 1]
    finally:
        victim.close()
        sender.close()
