"""Whether this device may take a new task, by how it feels: pure, and slow to change its mind.

    state    event                                                        next
    ALLOWED  a condition fails (memory and load: for `hold_s`), and the   PAUSED
             last change is `hold_s` ago
    ALLOWED  `stop_temp_c` is reached twice in a row                      PAUSED, at once
    PAUSED   another condition fails                                      PAUSED, one reason more
    PAUSED   a condition is well for `hold_s`                             PAUSED, one reason less
    PAUSED   the last one is                                              ALLOWED

What a board does not tell (None) is well: a device without a battery runs on mains, and a sensor
that has gone must not keep a device away for ever. Hours are compared as the wall clock shows them,
so a change to summer time moves them as it moves the people whose hours they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import time
from enum import Enum
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# [°C] Where the file gives only the ceiling: below it training resumes, above it a task is ended.
_RESUME_BELOW_C: Final = 5.0
_STOP_ABOVE_C: Final = 10.0
# [%] Where the file gives only the floor.
_RESUME_ABOVE_PCT: Final = 5.0
# One reading may be a sensor's slip, and ending a task costs minutes of work.
_HOT_READINGS: Final = 2
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)\Z")
_DAY_MIN: Final = 24 * 60


class Cause(str, Enum):
    """What keeps a device from taking a task."""

    TEMPERATURE = "temperature"
    POWER = "power"
    BATTERY = "battery"
    QUIET_HOURS = "quiet-hours"
    MEMORY = "memory"
    LOAD = "load"


def _hours(text: str) -> str:
    if not _HOURS.match(text):
        raise ValueError(f'{text!r} are no hours: write "08:00-18:00", or "22:00-06:00"')
    first, last = _minutes(text)
    if first == last:
        raise ValueError(f"{text!r} begin and end at the same minute")
    return text


class EligibilityConfig(BaseModel):
    """When this device takes no new task; every condition is off until it is given.

    Attributes:
        require_mains: Not while it runs on its battery.
        min_battery_pct: Not while its battery holds less.
        resume_battery_pct: Again when it holds so much; None takes 5 more than the least.
        max_temp_c: Not while its hottest sensor shows more, degrees Celsius.
        resume_temp_c: Again when it shows less; None takes 5 below the ceiling.
        stop_temp_c: From here on a task is given up in the middle; None takes 10 above the ceiling.
        min_free_mb: Not while less memory can be had, MiB.
        max_cpu_pct: Not while others use more of all cores together.
        max_gpu_pct: Not while others use more of the GPU.
        quiet_hours: Not at these hours of local time, each "08:00-18:00"; over midnight as well.
        hold_s: Seconds for which a condition must be well before a pause ends, and memory and load
            must be ill before it begins; also the least time between two changes.
        interval_s: Seconds between two looks at the sensors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    require_mains: bool = False
    min_battery_pct: float | None = Field(default=None, ge=0, le=100)
    resume_battery_pct: float | None = Field(default=None, ge=0, le=100)
    max_temp_c: float | None = Field(default=None, ge=0, le=125)
    resume_temp_c: float | None = Field(default=None, ge=-40, le=125)
    stop_temp_c: float | None = Field(default=None, ge=0, le=150)
    min_free_mb: int | None = Field(default=None, ge=0)
    max_cpu_pct: float | None = Field(default=None, ge=0, le=100)
    max_gpu_pct: float | None = Field(default=None, ge=0, le=100)
    quiet_hours: tuple[Annotated[str, AfterValidator(_hours)], ...] = ()
    hold_s: float = Field(default=60.0, ge=0, le=86_400)
    interval_s: float = Field(default=10.0, ge=0.1, le=3600)

    @model_validator(mode="after")
    def _check_order(self) -> EligibilityConfig:
        if self.max_temp_c is None:
            if self.resume_temp_c is not None or self.stop_temp_c is not None:
                raise ValueError("resume_temp_c and stop_temp_c belong to max_temp_c: give it too")
        elif not self.resumes_below_c <= self.max_temp_c <= self.stops_from_c:
            raise ValueError("resume_temp_c, max_temp_c and stop_temp_c must be in this order")
        if self.min_battery_pct is None:
            if self.resume_battery_pct is not None:
                raise ValueError("resume_battery_pct belongs to min_battery_pct: give it too")
        elif self.resumes_from_pct < self.min_battery_pct:
            raise ValueError("resume_battery_pct must not be below min_battery_pct")
        return self

    @property
    def wants_readings(self) -> bool:
        """Whether any condition is given."""
        floors_and_ceilings = (
            self.min_battery_pct,
            self.max_temp_c,
            self.min_free_mb,
            self.max_cpu_pct,
            self.max_gpu_pct,
        )
        return (
            self.require_mains
            or bool(self.quiet_hours)
            or any(bound is not None for bound in floors_and_ceilings)
        )

    @property
    def resumes_below_c(self) -> float:
        """Degrees Celsius below which a pause for heat ends; `max_temp_c` must be given."""
        assert self.max_temp_c is not None
        given = self.resume_temp_c
        return self.max_temp_c - _RESUME_BELOW_C if given is None else given

    @property
    def stops_from_c(self) -> float:
        """Degrees Celsius from which no task goes on; `max_temp_c` must be given."""
        assert self.max_temp_c is not None
        return self.max_temp_c + _STOP_ABOVE_C if self.stop_temp_c is None else self.stop_temp_c

    @property
    def resumes_from_pct(self) -> float:
        """Percent from which a battery is full enough again; `min_battery_pct` must be given."""
        assert self.min_battery_pct is not None
        given = self.resume_battery_pct
        return min(self.min_battery_pct + _RESUME_ABOVE_PCT, 100.0) if given is None else given


@dataclass(frozen=True, slots=True)
class Reading:
    """How the device feels at one moment; what it cannot tell is None.

    Attributes:
        local_time: What the wall clock shows here.
        temp_c: Of its hottest sensor.
        free_mb: Memory that can be had without swapping.
        others_cpu_pct: Of all cores together, by other processes than agent and trainer.
        others_gpu_pct: Of the GPU, by others; while a task runs the boards cannot tell them apart.
    """

    local_time: time
    temp_c: float | None = None
    free_mb: int | None = None
    others_cpu_pct: float | None = None
    others_gpu_pct: float | None = None
    on_mains: bool | None = None
    battery_pct: float | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why no task is taken, in words of the moment at which it began: they stand still."""

    cause: Cause
    text: str

    def __str__(self) -> str:
        """Return what the status says."""
        return f"{self.cause.value}: {self.text}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a task may be taken, and whether one that runs must be given up."""

    reasons: tuple[Reason, ...] = ()
    gives_up: bool = False

    @property
    def allowed(self) -> bool:
        """Whether a new task may be taken."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class _Failing:
    reason: Reason
    well_since: float | None = None


class Eligibility:
    """Judges one reading after the other; between two it keeps its verdict."""

    def __init__(self, config: EligibilityConfig) -> None:
        self._config = config
        self._failing: dict[Cause, _Failing] = {}
        self._ill_since: dict[Cause, float] = {}
        self._changed_at = float("-inf")
        self._hot_readings = 0
        self.verdict = Verdict()

    def receive(self, reading: Reading, *, training: bool, now: float) -> Verdict:
        """Judge a reading, and return what holds from now on.

        Args:
            reading: How the device feels.
            training: Whether a task runs: memory is short then by its own doing, and not judged.
            now: Monotonic seconds.
        """
        for cause, judge in _JUDGES.items():
            if training and cause is Cause.MEMORY:
                self._ill_since.pop(cause, None)
                continue
            text = judge(reading, self._config, cause in self._failing)
            self._note(cause, text, now=now)
        gives_up = self._is_too_hot(reading)
        is_free = now >= self._changed_at + self._config.hold_s
        reasons = tuple(self._failing[cause].reason for cause in _JUDGES if cause in self._failing)
        if bool(reasons) is self.verdict.allowed:
            if not is_free and not gives_up:
                return self.verdict
            self._changed_at = now
        self.verdict = Verdict(reasons, gives_up)
        return self.verdict

    def _note(self, cause: Cause, text: str | None, *, now: float) -> None:
        """Take down whether a condition fails, and forget one that has been well for long."""
        hold_s, failing = self._config.hold_s, self._failing.get(cause)
        if text is None:
            self._ill_since.pop(cause, None)
            if failing is None:
                return
            well_since = now if failing.well_since is None else failing.well_since
            self._failing[cause] = replace(failing, well_since=well_since)
            if now >= well_since + hold_s:
                del self._failing[cause]
        elif failing is not None:
            self._failing[cause] = replace(failing, well_since=None)
        else:
            ill_since = self._ill_since.setdefault(cause, now)
            if cause not in _LASTING or now >= ill_since + hold_s:
                self._failing[cause] = _Failing(Reason(cause, text))

    def _is_too_hot(self, reading: Reading) -> bool:
        config, temp_c = self._config, reading.temp_c
        is_hot = config.max_temp_c is not None and (
            temp_c is not None and temp_c >= config.stops_from_c
        )
        self._hot_readings = self._hot_readings + 1 if is_hot else 0
        return self._hot_readings >= _HOT_READINGS


# (reading, configuration, whether it fails already) → what is wrong, None where nothing is.
_Judge = Callable[[Reading, EligibilityConfig, bool], str | None]


def _temperature(reading: Reading, config: EligibilityConfig, fails: bool) -> str | None:  # noqa: FBT001 - a `_Judge`
    if config.max_temp_c is None or reading.temp_c is None:
        return None
    is_ill = (
        reading.temp_c >= config.resumes_below_c if fails else reading.temp_c > config.max_temp_c
    )
    text = f"{reading.temp_c:.0f} °C, resumes below {config.resumes_below_c:g} °C"
    return text if is_ill else None


def _power(reading: Reading, config: EligibilityConfig, _: bool) -> str | None:  # noqa: FBT001 - a `_Judge`
    return "on battery" if config.require_mains and reading.on_mains is False else None


def _battery(reading: Reading, config: EligibilityConfig, fails: bool) -> str | None:  # noqa: FBT001 - a `_Judge`
    if config.min_battery_pct is None or reading.battery_pct is None:
        return None
    least_pct = config.resumes_from_pct if fails else config.min_battery_pct
    text = f"{reading.battery_pct:.0f} %, resumes from {config.resumes_from_pct:g} %"
    return text if reading.battery_pct < least_pct else None


def _quiet(reading: Reading, config: EligibilityConfig, _: bool) -> str | None:  # noqa: FBT001 - a `_Judge`
    minute = reading.local_time.hour * 60 + reading.local_time.minute
    return next((hours for hours in config.quiet_hours if _covers(hours, minute)), None)


def _memory(reading: Reading, config: EligibilityConfig, _: bool) -> str | None:  # noqa: FBT001 - a `_Judge`
    if config.min_free_mb is None or reading.free_mb is None:
        return None
    text = f"{reading.free_mb} MiB free, {config.min_free_mb} MiB needed"
    return text if reading.free_mb < config.min_free_mb else None


def _load(reading: Reading, config: EligibilityConfig, _: bool) -> str | None:  # noqa: FBT001 - a `_Judge`
    for name, used_pct, most_pct in (
        ("CPU", reading.others_cpu_pct, config.max_cpu_pct),
        ("GPU", reading.others_gpu_pct, config.max_gpu_pct),
    ):
        if used_pct is not None and most_pct is not None and used_pct > most_pct:
            return f"others use {used_pct:.0f} % of the {name}, at most {most_pct:g} %"
    return None


_JUDGES: Final[dict[Cause, _Judge]] = {
    Cause.TEMPERATURE: _temperature,
    Cause.POWER: _power,
    Cause.BATTERY: _battery,
    Cause.QUIET_HOURS: _quiet,
    Cause.MEMORY: _memory,
    Cause.LOAD: _load,
}
# A burst of these is none of our business.
_LASTING: Final = frozenset({Cause.MEMORY, Cause.LOAD})


def _minutes(hours: str) -> tuple[int, int]:
    first, last = (
        60 * int(moment[:2]) + int(moment[3:]) for moment in hours.split("-", maxsplit=1)
    )
    return first, last % _DAY_MIN


def _covers(hours: str, minute: int) -> bool:
    first, last = _minutes(hours)
    if first < last:
        return first <= minute < last
    return minute >= first or minute < last
