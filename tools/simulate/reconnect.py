"""How a whole fleet comes back to a broker that was restarted: connections per second, simulated.

Each device waits by the real policy (`transport.reconnect`), on the virtual clock.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tools.simulate.clock import Clock
from transport.errors import Loss
from transport.reconnect import Reconnect

# [s] Over which the mean rate is taken, and the width of the busiest moment.
MEAN_OVER_S = 120.0
PEAK_OVER_S = 1.0
# [s] A handshake: a connection that begins so shortly before the broker goes does not last.
HANDSHAKE_S = 0.2


@dataclass(frozen=True, slots=True)
class Return:
    """How a fleet came back.

    Attributes:
        agents: How many.
        away_s: How long the broker was away.
        peak_per_s: Connections in the busiest second.
        mean_per_s: All of them over 120 s.
        tries: Connections that were tried while the broker was away.
        mean_s: Until a device was back, counted from the broker's return.
        last_s: The same of the last one.
    """

    agents: int
    away_s: float
    peak_per_s: float
    mean_per_s: float
    tries: int
    mean_s: float
    last_s: float

    @property
    def ratio(self) -> float:
        """The busiest second against the mean."""
        return self.peak_per_s / self.mean_per_s


def come_back(*, agents: int, away_s: float, spread_s: float, seed: int) -> Return:
    """Let all devices of a fleet lose their broker at one moment, and come back to it.

    Args:
        agents: How many.
        away_s: How long the broker is away.
        spread_s: The agents' `reconnect_spread_s`.
        seed: Of their jitter.
    """
    clock, rng = Clock(), random.Random(f"reconnect/{seed}")
    connected: list[float] = []
    tries = 0

    def attempt(policy: Reconnect, failures: int) -> None:
        nonlocal tries
        if clock.now >= away_s:
            connected.append(clock.now)
            return
        tries += 1
        policy.cause = Loss.BROKER
        clock.after(policy.delay_s(failures, rng), attempt, policy, failures + 1)

    for _ in range(agents):
        policy = Reconnect(spread_s=spread_s)
        policy.cause = Loss.BROKER
        noticed_s = rng.uniform(0.0, HANDSHAKE_S)
        clock.after(noticed_s + policy.delay_s(1, rng), attempt, policy, 2)
    while clock.step():
        pass
    assert len(connected) == agents, "a link never gives up"
    return Return(
        agents=agents,
        away_s=away_s,
        peak_per_s=busiest(connected, PEAK_OVER_S) / PEAK_OVER_S,
        mean_per_s=agents / MEAN_OVER_S,
        tries=tries,
        mean_s=sum(connected) / agents - away_s,
        last_s=max(connected) - away_s,
    )


def busiest(moments: Sequence[float], width_s: float) -> int:
    """Return the most moments that any stretch of this width holds; the moments ascend."""
    most = begin = 0
    for end, moment in enumerate(moments):
        while moments[begin] <= moment - width_s:
            begin += 1
        most = max(most, end - begin + 1)
    return most
