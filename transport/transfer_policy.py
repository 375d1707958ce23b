"""The numbers of segment transfer, each with its reason, and how timers grow and scatter."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransferPolicy:
    """How eagerly segments, manifests and answers are sent; durations in seconds.

    Attributes:
        window_min: Segments in flight at the least: one travels while the other is journaled.
        window_first: Segments in flight before anything is measured: enough for 1 Mbit/s at 200 ms.
        window_max: Segments in flight at the most; measured at 5 % loss, 8 of 32 KiB fill a link.
        round_trip_s: What segments wait for from sending to acceptance, about, at the most: beyond
            it the window grows no more, beyond twice of it it shrinks. More in flight would not be
            faster, would be lost with the connection, and would hold back what is sent after it.
        slowest_bps: A link that carries less counts as none: no timer may end before a segment
            has had its time on such a link.
        announce_wait_s: How long to wait for the answer to a manifest before segments are sent
            anyway: a broker that queues for an absent aggregator may as well queue those. A long
            manifest gets its time on the slowest link.
        resend_s: Silence after which the aggregator is asked what it has, on a link that is faster
            than that; on slower links the measured time takes over. What its answer lacks was lost.
        resend_cap_s: The longest such silence.
        receipt_s: Wait for a receipt before the manifest is sent again, the first time.
        receipt_cap_s: The longest such wait.
        have_delay_s: The longest that journaled segments stay unanswered.
        have_every: Journaled segments that are answered at once; more than the smallest window
            would let a sender wait for `have_delay_s` with nothing in flight.
        fetch_s: Silence after which a device asks for what it misses of an adapter, on a link that
            brings segments faster than that; on slower links twice the longest gap takes over.
        fetch_cap_s: The longest such silence.
        jitter: Each timer is multiplied by 1 ± this, so that devices do not move in step.
    """

    window_min: int = 2
    window_first: int = 4
    window_max: int = 8
    round_trip_s: float = 4.0
    slowest_bps: float = 20_000.0
    announce_wait_s: float = 2.0
    resend_s: float = 8.0
    resend_cap_s: float = 60.0
    receipt_s: float = 15.0
    receipt_cap_s: float = 300.0
    have_delay_s: float = 0.2
    have_every: int = 2
    fetch_s: float = 3.0
    fetch_cap_s: float = 60.0
    jitter: float = 0.25

    def after(
        self, now: float, first_s: float, cap_s: float, *, failures: int, rng: random.Random
    ) -> float:
        """Return when a timer is due that doubles with each failure up to its cap."""
        interval_s = min(cap_s, first_s * 2.0 ** min(failures, 32))
        return now + interval_s * rng.uniform(1.0 - self.jitter, 1.0 + self.jitter)
