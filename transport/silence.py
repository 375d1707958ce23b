"""Whether a connection has fallen silent: what its TCP says in, what to do out. Pure.

A link that was away for a while is back long before TCP believes it. Both ends have doubled their
waits meanwhile: ours up to what `transport.sockets` allows, the broker's up to its kernel's two
minutes, with our answer behind it. A new connection starts with fresh timers on both ends, and the
session brings again what was lost. Two signs say that the old one is not worth waiting for:

    sign                                      ends   because
    our bytes are outstanding, and no         yes    a slow link acknowledges every packet or two
    acknowledgement came for `patience_s`            within seconds, so this one carries nothing
    an outage was seen, the broker's TCP      yes    the broker's TCP waits in its backoff with
    has taken all of ours since, a PINGREQ           what it sent into the outage; PINGRESP stands
    among it, and not one byte came back             behind it
    all is acknowledged, no byte comes,       no     the broker's program is slow, and it is so to
    and there was no outage                          everybody: they must not all leave it

The second sign is asked for only while a transfer waits; an idle connection costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

# [s] Nobody loses eight packets and their repetitions by chance: at 40 % for one packet and its
# acknowledgement, once in 1,500 windows, and then for one repetition. This is an outage, and what
# it may cost beyond its end, by the backoff of either side, is as long again.
_FLIGHT_SILENT_S: Final = 6.0
_FLIGHT_PACKETS: Final = 8
# [s] For fewer, as when one small message is all there is: six tries of a TCP at 100 ms round trip
# (a probe of the tail, then after 0.3, 0.9, 2.1, 4.5 and 9.3 s). At 20 % loss each way, where a try
# fails by 36 %, that is once in 500 messages or less; a new connection would have to find the rate
# of such a link anew.
_SILENT_S: Final = 10.0
# Waits of the connection's own TCP (RFC 6298) before it doubles them: two tries and their answers,
# where the round trip is long. At 40 kbit/s with three seconds of queue it is some six seconds.
_SILENT_RTOS: Final = 3.0
_SILENT_MOST_S: Final = 30.0
# [s] So long unacknowledged is more than lost packets: the link was away.
_OUTAGE_S: Final = 3.0
# [s] A segment was sent or came within this time: somebody waits for the rest.
_TRANSFER_S: Final = 30.0
# [s] What a transfer waits for in vain before it asks, and then again.
_ASK_S: Final = 4.0
# [s], [round trips] What PINGRESP may take once the broker's TCP has PINGREQ.
_ANSWER_S: Final = 3.0
_ANSWER_ROUND_TRIPS: Final = 4.0


@dataclass(frozen=True, slots=True)
class TcpView:
    """What the kernel tells of a connection's TCP.

    Attributes:
        outstanding: Packets, or probes of a window that is closed, that are unacknowledged.
        is_drained: Nothing waits to be sent or to be acknowledged.
        acknowledged_ago_s: Since the last acknowledgement of anything.
        received_ago_s: Since the last byte.
        rtt_s: The smoothed round trip.
        rtt_deviation_s: Its mean deviation.
    """

    outstanding: int
    is_drained: bool
    acknowledged_ago_s: float
    received_ago_s: float
    rtt_s: float
    rtt_deviation_s: float

    @property
    def patience_s(self) -> float:
        """How long a working link may leave this connection without an acknowledgement."""
        wait_s = self.rtt_s + 4 * self.rtt_deviation_s
        least_s = _FLIGHT_SILENT_S if self.outstanding >= _FLIGHT_PACKETS else _SILENT_S
        return min(_SILENT_MOST_S, max(least_s, _SILENT_RTOS * wait_s))


class Verdict(Enum):
    """What to do with a connection."""

    KEEP = "keep"
    ASK = "send PINGREQ"
    UNACKNOWLEDGED = "nothing was acknowledged"
    UNANSWERED = "the broker has everything and sends nothing"

    @property
    def ends(self) -> bool:
        """Whether another connection is the faster way."""
        return self in {Verdict.UNACKNOWLEDGED, Verdict.UNANSWERED}


class Silence:
    """Watches one connection, from its first byte on."""

    def __init__(self) -> None:
        self._outstanding_since: float | None = None
        self._drained_since: float | None = None
        self._outage_at: float | None = None  # its last moment that was seen
        self._asked_at: float | None = None  # the last PINGREQ that nothing has come after

    def look(self, tcp: TcpView, *, transfer_ago_s: float, now: float) -> Verdict:
        """Return what to do.

        Args:
            tcp: What the kernel says now.
            transfer_ago_s: Since a segment was last published or delivered.
            now: A monotonic clock, in seconds.
        """
        silent_s = self._unacknowledged_s(tcp, now)
        if silent_s >= tcp.patience_s:
            return Verdict.UNACKNOWLEDGED
        self._forget_before(now - tcp.received_ago_s)
        if silent_s >= _OUTAGE_S:
            self._outage_at = now
        if self._drained_since is None:
            return Verdict.KEEP
        if self._outage_at is not None and self._asked_at is not None:
            waited_s = now - max(self._drained_since, self._asked_at, self._outage_at)
            is_due = waited_s >= max(_ANSWER_S, _ANSWER_ROUND_TRIPS * tcp.rtt_s)
            return Verdict.UNANSWERED if is_due else Verdict.KEEP
        if self._is_to_ask(tcp, transfer_ago_s, now):
            self._asked_at = now
            return Verdict.ASK
        return Verdict.KEEP

    def _unacknowledged_s(self, tcp: TcpView, now: float) -> float:
        """Return for how long outstanding bytes have waited for any acknowledgement."""
        # The kernel's own counts run while nothing is outstanding, too.
        if tcp.outstanding == 0:
            self._outstanding_since = None
        elif self._outstanding_since is None:
            self._outstanding_since = now
        if not tcp.is_drained:
            self._drained_since = None
        elif self._drained_since is None:
            self._drained_since = now
        if self._outstanding_since is None:
            return 0.0
        return min(now - self._outstanding_since, tcp.acknowledged_ago_s)

    def _forget_before(self, received_at: float) -> None:
        """Count an outage and a question as over with the first byte after them."""
        if self._outage_at is not None and received_at > self._outage_at:
            self._outage_at = None
        if self._asked_at is not None and received_at > self._asked_at:
            self._asked_at = None

    def _is_to_ask(self, tcp: TcpView, transfer_ago_s: float, now: float) -> bool:
        if self._outage_at is not None:
            return True
        if transfer_ago_s > _TRANSFER_S or tcp.received_ago_s < _ASK_S:
            return False
        return self._asked_at is None or now - self._asked_at >= _ASK_S
