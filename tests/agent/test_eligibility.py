"""Scripts of readings on a virtual clock: what is judged, in which words, and how slowly."""

from __future__ import annotations

from dataclasses import replace
from datetime import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.eligibility import Cause, Eligibility, EligibilityConfig, Reading, Verdict

NOON = Reading(time(12, 0))
HOLD_S = 60.0


class Device:
    """Readings every ten seconds."""

    def __init__(self, **config: Any) -> None:
        self.eligibility = Eligibility(EligibilityConfig(**config))
        self.now = 5000.0
        self.training = False

    def feel(self, *, times: int = 1, **changes: Any) -> Verdict:
        reading = replace(NOON, **changes)
        for _ in range(times):
            verdict = self.eligibility.receive(reading, training=self.training, now=self.now)
            self.now += 10.0
        return verdict

    def told(self, **changes: Any) -> list[str]:
        return [str(reason) for reason in self.feel(**changes).reasons]


def test_without_conditions_everything_is_allowed() -> None:
    assert not EligibilityConfig().wants_readings
    verdict = Device().feel(
        temp_c=120.0, free_mb=0, others_cpu_pct=100.0, on_mains=False, battery_pct=1.0, times=20
    )
    assert verdict.allowed
    assert not verdict.gives_up


def test_heat_pauses_at_once_and_ends_below_the_lower_bound_for_a_while() -> None:
    device = Device(max_temp_c=85, resume_temp_c=80)
    assert device.feel(temp_c=85.0).allowed
    assert device.told(temp_c=86.2) == ["temperature: 86 °C, resumes below 80 °C"]
    # The words stand still while the number moves, or each reading would be a status.
    assert device.told(temp_c=83.0) == ["temperature: 86 °C, resumes below 80 °C"]
    assert not device.feel(temp_c=80.0, times=20).allowed
    assert not device.feel(temp_c=79.0, times=6).allowed
    assert device.feel(temp_c=79.0).allowed


def test_a_warm_moment_begins_the_wait_anew() -> None:
    device = Device(max_temp_c=85, resume_temp_c=80)
    device.feel(temp_c=86.0)
    assert not device.feel(temp_c=79.0, times=6).allowed
    assert not device.feel(temp_c=81.0).allowed
    assert not device.feel(temp_c=79.0, times=6).allowed
    assert device.feel(temp_c=79.0).allowed


def test_great_heat_gives_a_task_up_only_when_it_is_read_twice() -> None:
    device = Device(max_temp_c=85)
    assert not device.feel(temp_c=95.0).gives_up
    assert not device.feel(temp_c=90.0).gives_up
    assert not device.feel(temp_c=95.0).gives_up
    assert device.feel(temp_c=96.0).gives_up
    assert not device.feel(temp_c=94.0).gives_up


def test_great_heat_waits_for_no_hold_time() -> None:
    device = Device(max_temp_c=85, hold_s=600.0)
    device.feel(temp_c=86.0)
    device.feel(temp_c=20.0, times=61)
    assert device.feel(temp_c=20.0).allowed
    assert device.feel(temp_c=90.0).allowed  # too soon after the last change
    device.feel(temp_c=95.0)
    assert device.feel(temp_c=95.0).gives_up
    assert not device.eligibility.verdict.allowed


def test_a_battery_pauses_where_mains_are_required() -> None:
    device = Device(require_mains=True)
    assert device.feel(on_mains=None).allowed  # a board without a battery
    assert device.feel(on_mains=True).allowed
    assert device.told(on_mains=False) == ["power: on battery"]
    assert device.feel(on_mains=True, times=7).allowed


def test_a_battery_must_be_fuller_to_go_on_than_it_was_to_stop() -> None:
    device = Device(min_battery_pct=20)
    assert device.feel(battery_pct=20.0).allowed
    assert device.told(battery_pct=19.0) == ["battery: 19 %, resumes from 25 %"]
    assert not device.feel(battery_pct=24.0, times=20).allowed
    assert device.feel(battery_pct=25.0, times=7).allowed


def test_short_memory_and_load_count_only_when_they_last() -> None:
    device = Device(min_free_mb=500, max_cpu_pct=50)
    assert device.feel(free_mb=100, others_cpu_pct=90.0, times=6).allowed
    assert device.feel(free_mb=900, others_cpu_pct=10.0).allowed
    assert device.feel(free_mb=100, others_cpu_pct=90.0, times=6).allowed
    assert device.told(free_mb=100, others_cpu_pct=90.0) == [
        "memory: 100 MiB free, 500 MiB needed",
        "load: others use 90 % of the CPU, at most 50 %",
    ]


def test_the_gpu_of_others_counts() -> None:
    device = Device(max_gpu_pct=30)
    device.feel(others_gpu_pct=80.0, times=6)
    assert device.told(others_gpu_pct=80.0) == ["load: others use 80 % of the GPU, at most 30 %"]


def test_memory_that_a_task_takes_is_its_own() -> None:
    device = Device(min_free_mb=500)
    device.training = True
    assert device.feel(free_mb=10, times=30).allowed
    device.training = False
    assert device.feel(free_mb=10, times=6).allowed
    assert not device.feel(free_mb=10).allowed


def test_one_reason_more_and_one_less() -> None:
    device = Device(max_temp_c=85, require_mains=True)
    device.feel(temp_c=90.0, on_mains=True)
    causes = [r.cause for r in device.feel(temp_c=90.0, on_mains=False).reasons]
    assert causes == [Cause.TEMPERATURE, Cause.POWER]
    causes = [r.cause for r in device.feel(temp_c=20.0, on_mains=False, times=7).reasons]
    assert causes == [Cause.POWER]


def test_a_sensor_that_has_gone_keeps_no_device_away() -> None:
    device = Device(max_temp_c=85)
    assert not device.feel(temp_c=90.0).allowed
    assert not device.feel(temp_c=None, times=6).allowed
    assert device.feel(temp_c=None).allowed


@pytest.mark.parametrize(
    ("hours", "quiet", "free"),
    [
        ("08:00-18:00", ["08:00", "12:30", "17:59"], ["07:59", "18:00", "00:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "21:59"]),
        ("18:30-24:00", ["18:30", "23:59"], ["00:00", "18:29"]),
        ("00:00-24:00", [], []),
    ],
)
def test_quiet_hours_are_those_of_the_wall_clock(
    hours: str, quiet: list[str], free: list[str]
) -> None:
    if hours == "00:00-24:00":
        with pytest.raises(ValidationError, match="same minute"):
            EligibilityConfig(quiet_hours=(hours,))
        return
    for moment in quiet + free:
        device = Device(quiet_hours=("03:00-03:01", hours))
        verdict = device.feel(local_time=time.fromisoformat(moment))
        assert [str(reason) for reason in verdict.reasons] == (
            [f"quiet-hours: {hours}"] if moment in quiet else []
        )


def test_an_hour_that_comes_twice_is_quiet_twice() -> None:
    """In autumn the clock goes from 02:59 back to 02:00; in spring from 01:59 to 03:00."""
    device = Device(quiet_hours=["02:00-03:00"], hold_s=0)
    autumn = ["01:59", "02:00", "02:59", "02:00", "02:59", "03:00", "03:00"]
    assert [device.feel(local_time=time.fromisoformat(m)).allowed for m in autumn] == [
        True, False, False, False, False, True, True,
    ]  # fmt: skip
    spring = ["01:59", "03:00"]
    assert all(device.feel(local_time=time.fromisoformat(m)).allowed for m in spring)


@pytest.mark.parametrize(
    "config",
    [
        {"quiet_hours": ["8-18"]},
        {"quiet_hours": ["08:00-25:00"]},
        {"quiet_hours": ["08:00-08:00"]},
        {"quiet_hours": ["08:00-18:00 "]},
        {"resume_temp_c": 80},
        {"stop_temp_c": 90},
        {"max_temp_c": 85, "resume_temp_c": 86},
        {"max_temp_c": 85, "stop_temp_c": 84},
        {"resume_battery_pct": 30},
        {"min_battery_pct": 40, "resume_battery_pct": 30},
        {"max_cpu": 50},
        {"min_free_mb": -1},
    ],
)
def test_a_configuration_that_means_nothing_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EligibilityConfig(**config)


def test_a_configuration_survives_its_json() -> None:
    """The trainer is given the agent's configuration as JSON."""
    config = EligibilityConfig(
        max_temp_c=85, min_battery_pct=98, quiet_hours=("22:00-06:00", "12:00-13:00")
    )
    assert EligibilityConfig.model_validate_json(config.model_dump_json()) == config
    assert (config.resumes_below_c, config.stops_from_c, config.resumes_from_pct) == (80, 95, 100)
    assert config.wants_readings


READINGS = st.builds(
    Reading,
    local_time=st.times(),
    temp_c=st.none() | st.floats(60, 94),  # below the heat that waits for nothing
    free_mb=st.none() | st.integers(0, 1000),
    others_cpu_pct=st.none() | st.floats(0, 100),
    others_gpu_pct=st.none() | st.floats(0, 100),
    on_mains=st.none() | st.booleans(),
    battery_pct=st.none() | st.floats(0, 100),
)


@settings(deadline=None, max_examples=150)
@given(
    script=st.lists(
        st.tuples(st.floats(0.1, 100.0), READINGS, st.booleans()), min_size=2, max_size=60
    )
)
def test_it_changes_its_mind_at_most_once_in_a_hold_time(
    script: list[tuple[float, Reading, bool]],
) -> None:
    eligibility = Eligibility(
        EligibilityConfig(
            require_mains=True,
            min_battery_pct=20,
            max_temp_c=85,
            min_free_mb=500,
            max_cpu_pct=50,
            max_gpu_pct=50,
            quiet_hours=("08:00-18:00",),
            hold_s=HOLD_S,
        )
    )
    now, changes, before = 0.0, [], True
    for pause_s, reading, training in script:
        now += pause_s
        verdict = eligibility.receive(reading, training=training, now=now)
        assert not verdict.gives_up
        assert verdict is eligibility.verdict
        if verdict.allowed is not before:
            changes.append(now)
            before = verdict.allowed
    assert all(later - sooner >= HOLD_S for sooner, later in pairwise(changes))


@settings(deadline=None, max_examples=100)
@given(script=st.lists(st.tuples(st.floats(0.1, 50.0), st.floats(70, 94)), max_size=60))
def test_no_task_is_taken_while_it_is_hotter_than_the_ceiling_for_long(
    script: list[tuple[float, float]],
) -> None:
    eligibility = Eligibility(EligibilityConfig(max_temp_c=85, hold_s=HOLD_S))
    now, hot_since = 0.0, None
    for pause_s, temp_c in script:
        now += pause_s
        verdict = eligibility.receive(replace(NOON, temp_c=temp_c), training=False, now=now)
        hot_since = (hot_since or now) if temp_c > 85 else None
        if hot_since is not None and now - hot_since >= HOLD_S:
            assert not verdict.allowed
