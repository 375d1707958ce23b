"""What rounds would take on real links, and what energy: a model, pure, beside measured compute.

A synchronous round ends with the slowest client whose update arrived:

    T = L + max over arrived k of (s_k · train_k + encode_k + 8 · bytes_k / R_k)

with s_k the client's compute slowdown, R_k the goodput of its link (both directions' bytes have
this one rate) and L what the protocol's messages wait for besides their bytes, `ROUND_TRIPS` of the
slowest arrived client's link. Everything drawn (links, slowdowns) depends on the seed and the
client's name alone: it is the same for every method, and whoever else is in the fleet.

Loss and goodput are one of two models of TCP:

- MATHIS, a loss-driven sender (Reno, and CUBIC near it): min(R · (1 - p), 1.22 · MSS / (RTT · √p)).
  M. Mathis, J. Semke, J. Mahdavi, T. Ott, "The Macroscopic Behavior of the TCP Congestion Avoidance
  Algorithm", 1997; the constant √(3/2) is that of acknowledgements for every segment.
- MEASURED, this project's own sender (BBR): R times a share that is read between measured points
  (0, 0.938), (0.05, 0.883), (0.20, 0.547): the cases `slow` and `goodput` of docs/resilience.md,
  whose headers and receipts are in them. There is nothing measured above 20 %.

Energy of a client: E = P_compute · s_k · (train_k + encode_k) + P_tx · T_comm,k, with T_comm the
time in which its update is sent.

Source: Fed-FSTQ (arXiv 2604.25421): straggler-limited round time, links "Controlled LTE" and
"Heterogeneous LTE", P_tx 2 W swept from 0.1 to 5 W.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import numpy as np

# Of TCP over IPv4 with timestamps, on Ethernet.
MSS_BYTES: Final = 1448
# Round trips of a round besides the updates' bytes: the call and its answer, the work order and
# the adapter's request, the update's manifest and its receipt.
ROUND_TRIPS: Final = 3.0
# [W] The radio's powers that the paper sweeps; its own choice is the fourth.
TRANSMIT_W: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
# (packet loss, share of the rate) as measured; see above.
MEASURED_GOODPUT: Final = ((0.0, 0.938), (0.05, 0.883), (0.20, 0.547))

_MATHIS: Final = math.sqrt(1.5)
_LTE_BPS: Final = 20e6
_MIXED_MEDIAN_BPS: Final = 10e6
_MIXED_SIGMA: Final = 0.5
_MIXED_RANGE_BPS: Final = (2e6, 50e6)
_STRAGGLER_SHARE: Final = 0.2
_STRAGGLER_RANGE_BPS: Final = (0.5e6, 2e6)
_ROUND_TRIP_S: Final = 0.05
_STRAGGLER_ROUND_TRIP_S: Final = 0.12


class LinkProfile(str, Enum):
    """What links a fleet has.

    LTE_20: the paper's "Controlled LTE": 20 Mbit/s, 50 ms round trip, for all.
    LTE_MIXED: its "Heterogeneous LTE": a client is a straggler with a chance of 20 % and then has
    0.5 to 2 Mbit/s (log-uniform) and 120 ms, else log-normal about 10 Mbit/s (sigma 0.5, within
    2 to 50) and 50 ms.
    """

    LTE_20 = "lte-20"
    LTE_MIXED = "lte-mixed"


class Tcp(str, Enum):
    """How packet loss becomes goodput: see the head of this file."""

    MATHIS = "mathis"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class ClientLink:
    """One client's link.

    Attributes:
        rate_bps: Bits per second, above 0.
        round_trip_s: Above 0.
        is_straggler: Whether it was drawn from the slow tail.
    """

    rate_bps: float
    round_trip_s: float
    is_straggler: bool = False


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Compute heterogeneity.

    Attributes:
        share: Chance of each client to be slow, 0 to 1.
        low: Least factor on the training seconds of a slow client, ≥ 1.
        high: Greatest; a client's own is uniform between them.
    """

    share: float = 0.0
    low: float = 2.0
    high: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 1 <= self.low <= self.high < math.inf:
            raise ValueError(
                f"slowdown: share {self.share}, factor {self.low} to {self.high};"
                " the share is 0 to 1, factors are at least 1 and ascend"
            )


@dataclass(frozen=True, slots=True)
class ClientRound:
    """What one client of a cohort did in a round, as measured.

    Attributes:
        client_id: Its name.
        bytes_up: Of its update on the wire.
        train_s: Of local training, on the machine that ran it.
        encode_s: Of encoding.
        arrived: Whether its update came.
        bytes_down: Of the adapter that it fetched; 0 counts the uplink alone, as the paper does.
    """

    client_id: str
    bytes_up: int
    train_s: float
    encode_s: float = 0.0
    arrived: bool = True
    bytes_down: int = 0

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ClientRound:
        """Return the client of a line of a trial's file: an entry of a round's `clients`."""
        return cls(
            client_id=str(record["id"]),
            bytes_up=int(record.get("wire", record["bytes"])),
            train_s=float(record["train_s"]),
            encode_s=float(record.get("encode_s", 0.0)),
            arrived=bool(record.get("arrived", True)),
        )


@dataclass(frozen=True, slots=True)
class RoundTime:
    """How long a round takes, and what of it the slowest arrived client spends where.

    Attributes:
        seconds: All of it; 0 where nothing arrived, as there is no round to wait for.
        compute_s: The slowest client's training, slowdown included.
        encode_s: Its encoding.
        transfer_s: Its bytes.
        latency_s: Waiting for messages.
        straggler: Its name; "" where nothing arrived.
    """

    seconds: float
    compute_s: float = 0.0
    encode_s: float = 0.0
    transfer_s: float = 0.0
    latency_s: float = 0.0
    straggler: str = ""


@dataclass(frozen=True, slots=True)
class Power:
    """What a device draws.

    Attributes:
        compute_w: While it trains; 10 W is about a Jetson Orin Nano at work, and an assumption.
        transmit_w: Of its radio while it sends; the paper's 2 W.
    """

    compute_w: float = 10.0
    transmit_w: float = 2.0


@dataclass(frozen=True, slots=True)
class RoundEnergy:
    """What a round costs its cohort in joules; clients that did not arrive spent theirs as well.

    Attributes:
        mean_j: Per client of the cohort.
        straggler_j: Of the client that spent the most.
        transmit_mean_j: The radio's part of the mean.
    """

    mean_j: float
    straggler_j: float
    transmit_mean_j: float


@dataclass(frozen=True, slots=True)
class TimeModel:
    """Everything but the rounds themselves: the same for every method that is compared.

    Attributes:
        profile: The fleet's links.
        seed: Of the draws.
        slowdown: Compute heterogeneity.
        loss: Share of packets that are lost, 0 to below 1 (MEASURED: to 0.2).
        tcp: What loss does.
        round_trips: Of a round, besides bytes.
    """

    profile: LinkProfile = LinkProfile.LTE_20
    seed: int = 0
    slowdown: Slowdown = field(default_factory=Slowdown)
    loss: float = 0.0
    tcp: Tcp = Tcp.MATHIS
    round_trips: float = ROUND_TRIPS

    def link(self, client_id: str) -> ClientLink:
        """Return a client's link."""
        return draw_link(self.profile, client_id, seed=self.seed)

    def factor(self, client_id: str) -> float:
        """Return what a client's training seconds are multiplied by, ≥ 1."""
        return draw_slowdown(self.slowdown, client_id, seed=self.seed)

    def rate_bps(self, client_id: str) -> float:
        """Return the goodput of a client's link."""
        return goodput_bps(self.link(client_id), loss=self.loss, tcp=self.tcp)

    def round_time(self, clients: Iterable[ClientRound]) -> RoundTime:
        """Return how long a round of these clients takes."""
        latest = RoundTime(0.0)
        for client in clients:
            if not client.arrived:
                continue
            here = self._time(client)
            if not latest.straggler or here.seconds > latest.seconds:
                latest = here
        return latest

    def round_energy(self, clients: Sequence[ClientRound], power: Power) -> RoundEnergy:
        """Return what a round of these clients costs; zeros where there are none."""
        if not clients:
            return RoundEnergy(0.0, 0.0, 0.0)
        sent = [power.transmit_w * self._upload_s(client) for client in clients]
        totals = [
            power.compute_w * self.factor(client.client_id) * (client.train_s + client.encode_s)
            + radio_j
            for client, radio_j in zip(clients, sent, strict=True)
        ]
        return RoundEnergy(
            mean_j=math.fsum(totals) / len(totals),
            straggler_j=max(totals),
            transmit_mean_j=math.fsum(sent) / len(sent),
        )

    def _time(self, client: ClientRound) -> RoundTime:
        compute_s = self.factor(client.client_id) * client.train_s
        transfer_s = transfer_seconds(
            client.bytes_up + client.bytes_down, rate_bps=self.rate_bps(client.client_id)
        )
        latency_s = self.round_trips * self.link(client.client_id).round_trip_s
        return RoundTime(
            seconds=compute_s + client.encode_s + transfer_s + latency_s,
            compute_s=compute_s,
            encode_s=client.encode_s,
            transfer_s=transfer_s,
            latency_s=latency_s,
            straggler=client.client_id,
        )

    def _upload_s(self, client: ClientRound) -> float:
        return transfer_seconds(client.bytes_up, rate_bps=self.rate_bps(client.client_id))


def transfer_seconds(count_bytes: int, *, rate_bps: float) -> float:
    """Return how long so many bytes take at a goodput."""
    assert count_bytes >= 0
    assert rate_bps > 0
    return 8 * count_bytes / rate_bps


def goodput_bps(link: ClientLink, *, loss: float, tcp: Tcp) -> float:
    """Return what a link carries of a stream's bytes per second, in bits.

    Args:
        link: The link.
        loss: Share of packets that are lost; MATHIS takes 0 to below 1, MEASURED 0 to 0.2.
        tcp: What loss does.

    Raises:
        ValueError: The loss is out of range.
    """
    most = MEASURED_GOODPUT[-1][0] if tcp is Tcp.MEASURED else math.nextafter(1.0, 0.0)
    if not 0 <= loss <= most:
        raise ValueError(f"packet loss of {loss}: {tcp.value} is known from 0 to {most:.2g}")
    if tcp is Tcp.MEASURED:
        losses, shares = zip(*MEASURED_GOODPUT, strict=True)
        return link.rate_bps * float(np.interp(loss, losses, shares))
    if loss == 0:
        return link.rate_bps
    window_bps = _MATHIS * 8 * MSS_BYTES / (link.round_trip_s * math.sqrt(loss))
    return min(link.rate_bps * (1 - loss), window_bps)


def draw_link(profile: LinkProfile, client_id: str, *, seed: int) -> ClientLink:
    """Return the link that a client has under a seed."""
    if profile is LinkProfile.LTE_20:
        return ClientLink(_LTE_BPS, _ROUND_TRIP_S)
    generator = _generator("link", client_id, seed)
    if generator.random() < _STRAGGLER_SHARE:
        low, high = map(math.log, _STRAGGLER_RANGE_BPS)
        rate_bps = math.exp(generator.uniform(low, high))
        return ClientLink(rate_bps, _STRAGGLER_ROUND_TRIP_S, is_straggler=True)
    rate_bps = _MIXED_MEDIAN_BPS * math.exp(_MIXED_SIGMA * generator.standard_normal())
    low, high = _MIXED_RANGE_BPS
    return ClientLink(min(max(rate_bps, low), high), _ROUND_TRIP_S)


def draw_slowdown(slowdown: Slowdown, client_id: str, *, seed: int) -> float:
    """Return the factor on a client's training seconds under a seed."""
    generator = _generator("compute", client_id, seed)
    if generator.random() >= slowdown.share:
        return 1.0
    return float(generator.uniform(slowdown.low, slowdown.high))


def _generator(what: str, client_id: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{what}/{seed}/{client_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
