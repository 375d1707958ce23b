"""What the board takes, from the best source that this machine has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.rails import Channel, board_power_w, find_channels, read_rails
from agent.rapl import Rapl
from agent.sysfs import Files
from agent.tegrastats import Tegrastats

# Drivers may come after the agent, so a board without rails is looked at again.
_LOOK_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Power:
    """The power of one moment.

    Attributes:
        board_w: What the board takes; None where nothing measures it.
        source: What measures it: "ina", "tegrastats", "rapl" or "".
        rails_w: Rail → watts; some are parts of others.
    """

    board_w: float | None = None
    source: str = ""
    rails_w: Mapping[str, float] = field(default_factory=dict)


class PowerSensor:
    """Reads the board's power: INA monitors, else tegrastats, else RAPL."""

    def __init__(self, files: Files, tegrastats: Tegrastats) -> None:
        self._files = files
        self._tegrastats = tegrastats
        self._rapl = Rapl(files)
        self._channels: tuple[Channel, ...] = ()
        self._look_at = float("-inf")

    def read(self, now: float) -> Power:
        """Return the power of this moment; RAPL's is the mean since the last call."""
        rails = self._rails(now)
        if self._channels:
            # Also where none of them can be read just now: the next sample is a second away, and
            # other sources measure something else.
            return Power(board_power_w(rails), "ina", rails)
        rails = dict(self._tegrastats.read(now).rails_w)
        if rails:
            return Power(board_power_w(rails), "tegrastats", rails)
        watts = self._rapl.power_w(now)
        return Power() if watts is None else Power(watts, "rapl")

    def _rails(self, now: float) -> dict[str, float]:
        rails = read_rails(self._files, self._channels)
        if not rails and now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN_S
            self._channels = find_channels(self._files)
            rails = read_rails(self._files, self._channels)
        return rails
