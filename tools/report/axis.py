"""Round numbers on an axis, and how they read. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))

# What an axis writes at a value, given its largest tick.
Words = Callable[[float, float], str]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `low` to `high`, with ticks that ascend.

    A linear one begins and ends at a tick; a logarithmic one, all above 0, at its least and largest
    value.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where a value is, from 0 at `low` to 1 at `high`, not beyond."""
        if self.logarithmic:
            if value <= self.low:
                return 0.0
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, part))


def axis_of(low: float, high: float, *, most: int = 6, whole: bool = False) -> Axis:
    """Return an axis with at most about `most` ticks, each a round number.

    Args:
        low: The least value, finite.
        high: The largest one; may be the same.
        most: Ticks that there is room for.
        whole: Ticks are whole numbers.
    """
    if not high > low:
        pad = abs(low) / 2 or 1.0
        low, high = low - pad * (low != 0), high + pad
    step = _step((high - low) / max(1, most - 1))
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step), math.ceil(high / step)
    if last == first:
        last += 1
    ticks = tuple(step * number for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def log_axis_of(low: float, high: float, *, most: int = 9) -> Axis:
    """Return a logarithmic axis with at most about `most` ticks: 1, 2 and 5 times powers of ten.

    Args:
        low: The least value, above 0.
        high: The largest one; may be the same.
        most: Ticks that there is room for.
    """
    if not high > low * (1 + 1e-9):
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: tuple[float, ...] = ()
    for steps in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        at = (step * 10.0**power for power in powers for step in steps)
        ticks = tuple(tick for tick in at if low <= tick <= high)
        if len(ticks) <= most:
            break
    thinned = ticks[:: math.ceil(len(ticks) / most)] if ticks else (low, high)
    return Axis(low, high, thinned, logarithmic=True)


def plain(value: float, largest: float) -> str:
    """Return a number with as many decimals as tell its ticks apart."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 2
    text = f"{value:.{min(6, decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def in_bytes(value: float, largest: float) -> str:
    """Return bytes in the unit that the axis's largest tick has."""
    return _in_units(value, largest, _UNITS)


def in_seconds(value: float, largest: float) -> str:
    """Return seconds in the unit that the axis's largest tick has."""
    return _in_units(value, largest, _TIMES)


def _in_units(value: float, largest: float, units: tuple[tuple[float, str], ...]) -> str:
    if value == 0:
        return "0"
    size, name = next((unit for unit in units if largest >= unit[0]), units[-1])
    return f"{plain(value / size, largest / size)} {name}"


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in _STEPS if power * step >= least * (1 - 1e-9))
