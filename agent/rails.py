"""Power rails as the board's INA monitors measure them, and what they are together.

A Jetson's monitors are hwmon chips: INA3221 with three channels, on Thor an INA238 at the input
besides. Nothing here needs root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.sysfs import Files

# Rails that carry everything the board takes. The first one that is measured is the board's power,
# whatever other rails hang behind it.
INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
# Boards without such a rail: those of their rails that stand side by side. AGX Orin's fourth,
# VDDQ_VDD2_1V8AO, is fed by VIN_SYS_5V0 and would be counted twice.
SIDE_BY_SIDE = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor without a monitor at its input
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)

# An INA3221 has a fourth entry, the sum of shunt voltages, which is no rail.
_CHANNELS = range(1, 4)
_MAX_W = 10_000.0
# A rail that is switched off reads a little below zero: the amplifier's offset.
_OFFSET_W = -2.0
_MAX_NAME = 40


@dataclass(frozen=True, slots=True)
class Channel:
    """One rail's place: a hwmon folder and the number in its files' names."""

    name: str
    folder: Path
    number: int


def board_power_w(rails_w: Mapping[str, float]) -> float | None:
    """Return what a board takes by its rails, each counted once; None where they do not tell."""
    for name in INPUT_RAILS:
        if name in rails_w:
            return rails_w[name]
    for names in SIDE_BY_SIDE:
        if all(name in rails_w for name in names):
            return round(sum(rails_w[name] for name in names), 3)
    return None


def believable_w(watts: float) -> float | None:
    """Return a rail's power, 0 for what is a little below; None where it cannot be one."""
    return round(max(watts, 0.0), 3) if _OFFSET_W <= watts <= _MAX_W else None


def find_channels(files: Files) -> tuple[Channel, ...]:
    """Return the labelled channels of all INA chips, each label once."""
    folders = files.find("sys/class/hwmon/hwmon*")
    folders += files.find("sys/bus/i2c/devices/*/hwmon/hwmon*")
    channels: dict[str, Channel] = {}
    for folder in folders:
        chip = files.word(folder / "name").lower()
        if not chip.startswith("ina"):
            continue
        for channel in _channels_of(files, folder, chip=chip):
            channels.setdefault(channel.name, channel)
    return tuple(channels.values())


def read_rails(files: Files, channels: tuple[Channel, ...]) -> dict[str, float]:
    """Return rail → watts at this moment; rails that cannot be read are left out."""
    rails: dict[str, float] = {}
    for channel in channels:
        watts = _watts(files, channel)
        if watts is not None:
            rails[channel.name] = watts
    return rails


def _channels_of(files: Files, folder: Path, *, chip: str) -> list[Channel]:
    labels = {number: files.word(folder / f"in{number}_label") for number in _CHANNELS}
    if not any(labels.values()):
        # Chips of one channel have one label for all. Thor's at its input has none before
        # JetPack 7.2, and no other Jetson has this chip.
        labels = {1: files.word(folder / "label") or ("VIN" if chip == "ina238" else "")}
    return [
        Channel(label[:_MAX_NAME], folder, number)
        for number, label in labels.items()
        if label.isprintable() and label not in {"", "NC"}
    ]


def _watts(files: Files, channel: Channel) -> float | None:
    folder, number = channel.folder, channel.number
    microwatts = files.integer(folder / f"power{number}_input")
    if microwatts is not None:
        return believable_w(microwatts / 1e6)
    millivolts = files.integer(folder / f"in{number}_input")
    milliamperes = files.integer(folder / f"curr{number}_input")
    if millivolts is None or milliamperes is None:
        return None
    return believable_w(millivolts * milliamperes / 1e6)
