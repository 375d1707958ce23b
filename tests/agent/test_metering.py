from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.metering import IDLE_INTERVAL_S, WORK_INTERVAL_S, Metering
from agent.telemetry import Sensors
from transport.control import DeviceState, EnergyReport

RUN = "a" * 32


class Rig:
    """A metering on an Orin Nano that takes 4.8 W, or as many as a test says."""

    def __init__(self, root: Path) -> None:
        self.current = root / "sys/class/hwmon/hwmon1/curr1_input"
        self.voltage = root / "sys/class/hwmon/hwmon1/in1_input"
        self.metering = Metering(Sensors(root=root, disk=root))
        self.now = 0.0

    def take(self, power_w: float) -> None:
        self.voltage.write_text("1000\n")
        self.current.write_text(f"{power_w * 1000:.0f}\n")

    def follow(self, state: DeviceState, *, round_id: int = 1, run: str = RUN) -> bool:
        return self.metering.follow(state, run=run, round_id=round_id, now=self.now)

    def run_until(self, end: float) -> int:
        """Tick whenever it is time; return how many samples were due."""
        ticks = 0
        while (due := self.metering.tick(self.now)) <= end:
            ticks += 1
            self.now = due
        self.now = end
        return ticks


@pytest.fixture
def rig(make_board: Callable[[str], Path]) -> Rig:
    return Rig(make_board("orin_nano"))


def test_samples_are_close_while_there_is_work_and_rare_otherwise(rig: Rig) -> None:
    assert rig.run_until(100.0) == 100.0 / IDLE_INTERVAL_S
    assert rig.follow(DeviceState.TRAINING)
    assert not rig.follow(DeviceState.TRAINING)
    assert rig.run_until(130.0) == 30.0 / WORK_INTERVAL_S
    assert rig.follow(DeviceState.AWAITING_RECEIPT)
    assert rig.run_until(160.0) == 30.0 / IDLE_INTERVAL_S


def test_a_round_is_reported_by_phases_and_above_idling(rig: Rig) -> None:
    rig.take(4.0)
    rig.run_until(100.0)
    assert rig.metering.news() is None
    rig.follow(DeviceState.FETCHING)
    rig.run_until(102.0)
    rig.follow(DeviceState.TRAINING)
    rig.take(14.0)
    rig.run_until(122.0)
    rig.follow(DeviceState.UPLOADING)
    rig.take(5.0)
    rig.run_until(132.0)
    rig.follow(DeviceState.AWAITING_RECEIPT)
    report = rig.metering.news()
    # The first second of each phase is the slope from the power before.
    assert report == EnergyReport(
        run=RUN,
        round_id=1,
        energy_j=8.0 + 275.0 + 54.5,
        energy_above_idle_j=8.0 + 275.0 + 54.5 - 32 * 4.0,
        idle_w=4.0,
        fetching_j=8.0,
        training_j=275.0,
        uploading_j=54.5,
        covered_s=32.0,
        uncovered_s=0.0,
        source="ina",
    )


def test_news_are_told_once(rig: Rig) -> None:
    rig.follow(DeviceState.TRAINING)
    rig.run_until(3.0)
    assert rig.metering.news() is not None
    assert rig.metering.news() is not None  # until somebody says that they are told
    rig.metering.told()
    assert rig.metering.news() is None
    rig.run_until(5.0)
    assert rig.metering.news() is not None
    rig.follow(DeviceState.IDLE, round_id=0)
    rig.metering.told()
    # What idling takes becomes known, and is no news of a round that is over.
    rig.run_until(500.0)
    assert rig.metering.news() is None


def test_another_run_begins_with_nothing(rig: Rig) -> None:
    rig.follow(DeviceState.TRAINING)
    rig.run_until(3.0)
    rig.follow(DeviceState.TRAINING, run="b" * 32)
    assert rig.metering.news() is None
    rig.run_until(5.0)
    rig.follow(DeviceState.IDLE, run="b" * 32, round_id=0)
    report = rig.metering.news()
    assert report is not None
    assert (report.run, report.covered_s) == ("b" * 32, 2.0)


def test_a_sensor_that_goes_leaves_time_that_is_not_covered(rig: Rig) -> None:
    rig.follow(DeviceState.TRAINING)
    rig.run_until(3.0)
    rig.current.write_text("garbage\n")
    rig.run_until(60.0)
    rig.take(4.0)
    # The sum's rails are found again within a minute.
    rig.run_until(130.0)
    report = rig.metering.news()
    assert report is not None
    assert report.uncovered_s >= 50.0
    assert report.covered_s + report.uncovered_s == 130.0
    assert report.energy_above_idle_j is None


def test_a_device_that_cannot_measure_says_nothing(tmp_path: Path) -> None:
    metering = Metering(Sensors(root=tmp_path, disk=tmp_path))
    assert metering.follow(DeviceState.TRAINING, run=RUN, round_id=1, now=0.0)
    metering.tick(1.0)
    assert metering.news() is None
    telemetry = metering.telemetry(ts=1.0, now=1.0, goodput_bps=None)
    assert (telemetry.power_w, telemetry.energy_j, telemetry.power_source) == (None, None, "")
    metering.close()


def test_telemetry_has_the_newest_sample_and_the_energy_so_far(rig: Rig) -> None:
    rig.take(4.0)
    rig.run_until(100.0)
    telemetry = rig.metering.telemetry(ts=1.0, now=100.0, goodput_bps=8.0)
    assert (telemetry.power_w, telemetry.energy_j) == (4.0, 400.0)
    assert telemetry.rails_w["VDD_IN"] == 4.0
