"""What devices say a round has taken of their power: claims, bounded by what can be believed. Pure.

Nothing of this is journaled: each device's last word is retained at the broker, and comes again
when the aggregator comes back.
"""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.account import Spent
from transport.control import EnergyReport

# [s] How much longer than the round a device may say that it has worked: its command was on the
# way, and while no attempt was open it may have gone on.
GRACE_S = 60.0
# Parts are rounded each for itself.
_ROUNDING_J = 1.0


@dataclass(frozen=True, slots=True)
class FleetEnergy:
    """What devices have spent on a round.

    Attributes:
        energy_j: None where no device said anything.
        above_idle_j: Beyond idling; None unless each of those devices knows what idling takes.
        devices: How many devices it is of.
    """

    energy_j: float | None = None
    above_idle_j: float | None = None
    devices: int = 0


class EnergyClaims:
    """Keeps the last claim of each device for one round.

    Args:
        run: The run's id.
        max_device_w: More than this no device of the fleet takes, on average.
    """

    def __init__(self, run: str, *, max_device_w: float) -> None:
        self._run = run
        self._max_device_w = max_device_w
        self._round_id = 0
        self._began_at = float("-inf")
        self._claims: dict[str, EnergyReport] = {}
        self._doubted: set[str] = set()

    def receive(
        self, client_id: str, report: EnergyReport, *, round_id: int, round_s: float, now: float
    ) -> str:
        """Take a device's claim in place of its earlier one, if it is for the open round.

        Args:
            client_id: The device, which was asked for the round.
            report: Its claim.
            round_id: The open round.
            round_s: How long the round's attempts have been on, over restarts.
            now: Monotonic seconds.

        Returns:
            What cannot be believed of it, once per device; "" where there is nothing to say.
        """
        if (report.run, report.round_id) != (self._run, round_id):
            return ""
        if round_id != self._round_id:
            self._round_id, self._began_at = round_id, now
            self._claims.clear()
            self._doubted.clear()
        most_s = max(round_s, now - self._began_at) + GRACE_S
        fault = unbelievable(report, max_device_w=self._max_device_w, most_s=most_s)
        if not fault:
            self._claims[client_id] = report
            return ""
        if client_id in self._doubted:
            return ""
        self._doubted.add(client_id)
        return fault

    def total(self, round_id: int) -> FleetEnergy:
        """Return what all claims for a round come to."""
        if round_id != self._round_id or not self._claims:
            return FleetEnergy()
        claims = [claim for _, claim in sorted(self._claims.items())]
        above = [c.energy_above_idle_j for c in claims if c.energy_above_idle_j is not None]
        return FleetEnergy(
            energy_j=round(sum(claim.energy_j for claim in claims), 1),
            above_idle_j=round(sum(above), 1) if len(above) == len(claims) else None,
            devices=len(claims),
        )

    def spent(self, round_id: int) -> dict[str, Spent]:
        """Return device → its last claim for a round."""
        if round_id != self._round_id:
            return {}
        return {
            client_id: Spent(claim.energy_j, claim.energy_above_idle_j)
            for client_id, claim in sorted(self._claims.items())
        }


def unbelievable(report: EnergyReport, *, max_device_w: float, most_s: float) -> str:
    """Return what of a claim cannot be, "" where all of it can.

    That its numbers are finite was checked when it was read.
    """
    above_j = report.energy_above_idle_j or 0.0
    if min(report.energy_j, above_j, report.covered_s, report.uncovered_s) < 0:
        return "negative numbers"
    if report.covered_s > most_s:
        return f"{report.covered_s:.0f} s of work in a round of {most_s:.0f} s"
    if report.energy_j > max_device_w * report.covered_s + _ROUNDING_J:
        return f"{report.energy_j:.0f} J in {report.covered_s:.1f} s"
    if above_j > report.energy_j + _ROUNDING_J:
        return "more energy beyond idling than in all"
    return ""
