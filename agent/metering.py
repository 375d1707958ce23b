"""Samples the board's power in time with what the session does, and says what rounds take.

A shell around `agent.energy`: it reads sensors, at the moments that the caller's clock gives.
"""

from __future__ import annotations

from agent.energy import EnergyMeter, Measured, Phase
from agent.power import Power
from agent.telemetry import Sensors
from transport.control import DeviceState, EnergyReport, Telemetry

# [s] Between samples while a task or an upload is on, and otherwise.
WORK_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 10.0

_PHASES = {
    DeviceState.FETCHING: Phase.FETCHING,
    DeviceState.TRAINING: Phase.TRAINING,
    DeviceState.UPLOADING: Phase.UPLOADING,
}


class Metering:
    """Knows what the board takes now, and what the newest round has taken.

    Args:
        sensors: The board's.
    """

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._meter = EnergyMeter()
        self._phase = Phase.IDLE
        self._run = ""
        self._round_id = 0
        self._power = Power()
        self._sample_at = float("-inf")
        self._told: tuple[str, int, Measured] | None = None

    def follow(self, state: DeviceState, *, run: str, round_id: int, now: float) -> bool:
        """Take note of what the session does now; return whether that is a change."""
        if run != self._run:
            self.sample(now)
            self._meter.forget_rounds()
            self._run, self._round_id = run, 0
        self._phase = _PHASES.get(state, Phase.IDLE)
        if self._phase is not Phase.IDLE and round_id:
            self._round_id = round_id
        if not self._meter.begin(self._phase, round_id=round_id, now=now):
            return False
        self.sample(now)
        return True

    def tick(self, now: float) -> float:
        """Take a sample where it is time for one; return when it is time for the next."""
        if now >= self._sample_at:
            self.sample(now)
        return self._sample_at

    def sample(self, now: float) -> None:
        """Take a sample."""
        interval_s = IDLE_INTERVAL_S if self._phase is Phase.IDLE else WORK_INTERVAL_S
        self._sample_at = now + interval_s
        self._power = self._sensors.power(now)
        if self._power.board_w is not None:
            self._meter.sample(self._power.board_w, interval_s=interval_s, now=now)

    def telemetry(self, *, ts: float, now: float, goodput_bps: float | None) -> Telemetry:
        """Return how the device feels."""
        total = self._meter.total
        return self._sensors.read(
            ts=ts,
            now=now,
            goodput_bps=goodput_bps,
            power=self._power,
            energy_j=round(total.energy_j, 1) if total.covered_s else None,
            busy=self._phase is not Phase.IDLE,
        )

    def news(self) -> EnergyReport | None:
        """Return what the newest round has taken; None where all that is measured was told."""
        energy, idle_w = self._meter.round(self._round_id), self._meter.idle_w
        total = energy.total
        if total == Measured() or self._told == (self._run, self._round_id, total):
            return None
        above_j = None if idle_w is None else round(energy.above_idle_j(idle_w), 1)
        return EnergyReport(
            run=self._run,
            round_id=self._round_id,
            energy_j=round(total.energy_j, 1),
            energy_above_idle_j=above_j,
            idle_w=idle_w,
            fetching_j=round(energy.fetching.energy_j, 1),
            training_j=round(energy.training.energy_j, 1),
            uploading_j=round(energy.uploading.energy_j, 1),
            covered_s=round(total.covered_s, 1),
            uncovered_s=round(total.uncovered_s, 1),
            source=self._power.source,
        )

    def told(self) -> None:
        """Note that the news is told."""
        self._told = (self._run, self._round_id, self._meter.round(self._round_id).total)

    def close(self) -> None:
        """Let go of the sensors."""
        self._sensors.close()
