"""How many bytes a round's update may take on this device's link, and into what pieces. Pure.

The aggregator names the most and the least; between them the link decides: what fits into the time
that is left when training is over, after what still waits in the outbox. A device whose link nobody
has measured yet takes the most, and learns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from codec.limits import MIN_SEGMENT_BYTES
from transport.control import TrainCommand, TrainResponse
from transport.limits import MAX_SEGMENTS

# [bytes] Above 64 KiB a cut costs more than larger segments save; below 8 KiB headers, topics and
# acknowledgements begin to count, and 8 KiB take 1.6 s at 40 kbit/s.
MOST_SEGMENT_BYTES: Final = 64 << 10
LEAST_SEGMENT_BYTES: Final = 8 << 10

# [bytes] Before anything was measured: 6.5 s at 40 kbit/s, and nine tenths of a fast link.
FIRST_SEGMENT_BYTES: Final = 32 << 10

# [s] What a segment takes on the link, about: so much is sent again for each segment in flight when
# a connection is cut.
SEGMENT_S: Final = 1.0

# Some codecs begin a new segment with each block of coordinates; none leaves more than half empty.
_SEGMENTS_FILLED: Final = 0.5

_MEGA: Final = 1e6


class UplinkConfig(BaseModel):
    """How much of its link this device gives to a round.

    Attributes:
        share_of_time: Share of the time between training and deadline that an update is fitted to;
            the rest is for a link that gets slower.
        max_bytes: Most bytes of one update, where the link is paid by the byte; it is stronger than
            the run's own least. None leaves it to run and link.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share_of_time: float = Field(default=0.5, gt=0.0, le=1.0)
    max_bytes: int | None = Field(default=None, ge=1024)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of a round before it is trained for.

    Attributes:
        left_s: Seconds until its deadline.
        train_s: Seconds that training takes, by experience; 0 without any.
        goodput_bps: Bits per second of accepted segments; None before any was measured.
        waiting_bytes: Segments of other updates that are still to be accepted.
    """

    left_s: float
    train_s: float = 0.0
    goodput_bps: float | None = None
    waiting_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a round's update will take at the most.

    Attributes:
        update_bytes: Its byte budget; None for dense codecs, whose size follows from the layout.
        goodput_bps: The goodput that it was fitted to.
    """

    update_bytes: int | None
    goodput_bps: float | None

    @property
    def upload_s(self) -> float | None:
        """Seconds that the update takes at this goodput; None where either is not known."""
        if self.update_bytes is None or not self.goodput_bps:
            return None
        return 8 * self.update_bytes / self.goodput_bps

    def told_in(self, response: TrainResponse) -> TrainResponse:
        """Return the response with what its round will cost."""
        return replace(
            response,
            update_bytes=self.update_bytes,
            upload_s=self.upload_s,
            goodput_bps=self.goodput_bps,
        )

    def __str__(self) -> str:
        """Say it as a person would."""
        if self.update_bytes is None:
            size = "as many bytes as the adapter has in this codec"
        else:
            size = f"about {_bytes_text(self.update_bytes)}"
        if not self.goodput_bps:
            return f"{size}; the link is not measured yet"
        rate = f"the present {_rate_text(self.goodput_bps)}"
        upload_s = self.upload_s
        return f"{size}, at {rate}" if upload_s is None else f"{size}, {upload_s:.0f} s at {rate}"


def cost_of(command: TrainCommand, outlook: Outlook, *, config: UplinkConfig) -> Cost:
    """Return what this round's update may take on this link, within the bounds of run and device.

    What waits in the outbox goes first, part of it while the trainer works.
    """
    goodput_bps = outlook.goodput_bps
    most = command.update_bytes
    if most is None:
        return Cost(None, goodput_bps)
    least = most if command.min_update_bytes is None else command.min_update_bytes
    budget = most
    if goodput_bps is not None:
        after_training_s = max(0.0, outlook.left_s - outlook.train_s)
        sent_while_training = goodput_bps / 8 * min(outlook.train_s, max(0.0, outlook.left_s))
        still_waiting = max(0.0, outlook.waiting_bytes - sent_while_training)
        fits = config.share_of_time * goodput_bps / 8 * after_training_s - still_waiting
        budget = min(most, max(least, int(fits), MIN_SEGMENT_BYTES))
    if config.max_bytes is not None:
        budget = min(budget, config.max_bytes)
    return Cost(budget, goodput_bps)


class TrainingTimes:
    """How long this device trains for a round, from experience with the run."""

    def __init__(self, *, remembered_s: float | None = None) -> None:
        """Begin with what was known before a restart."""
        self.expected_s = remembered_s
        self._round_id = 0
        self._began_at = 0.0

    def began(self, round_id: int, *, now: float) -> None:
        """The trainer begins with this round, or begins again."""
        self._round_id, self._began_at = round_id, now

    def ended(self, round_id: int, *, now: float) -> float | None:
        """Return what to expect from now on; None where nothing was learnt."""
        if round_id != self._round_id:
            return None
        took_s = now - self._began_at
        self._round_id = 0
        # Half of it is the last time: rounds of a run are alike, but for what else the board does.
        before_s = took_s if self.expected_s is None else self.expected_s
        self.expected_s = (took_s + before_s) / 2
        return self.expected_s

    def clear(self) -> None:
        """Forget all: another run trains otherwise."""
        self.expected_s = None
        self._round_id = 0


def segment_bytes(goodput_bps: float | None, *, most: int, expected_bytes: int) -> int:
    """Return how long segments are cut: about one second of the link each, a power of two.

    Args:
        goodput_bps: Bits per second; None before any was measured.
        most: What run and broker take at the most; never exceeded.
        expected_bytes: What the update takes at the most: it may have no more segments than one
            manifest names.
    """
    wanted = FIRST_SEGMENT_BYTES
    if goodput_bps is not None:
        wanted = _power_of_two(int(goodput_bps / 8 * SEGMENT_S))
    wanted = min(MOST_SEGMENT_BYTES, max(LEAST_SEGMENT_BYTES, wanted))
    while wanted * MAX_SEGMENTS * _SEGMENTS_FILLED < expected_bytes:
        wanted *= 2
    return min(most, wanted)


def _power_of_two(value: int) -> int:
    """Return the largest power of two that is not above the value, 1 where there is none."""
    return 1 << max(0, value.bit_length() - 1)


def _bytes_text(count: int) -> str:
    return f"{max(1, round(count / 1e3))} KB" if count < _MEGA else f"{count / _MEGA:.1f} MB"


def _rate_text(bits_per_second: float) -> str:
    if bits_per_second < _MEGA:
        return f"{bits_per_second / 1e3:.0f} kbit/s"
    return f"{bits_per_second / _MEGA:.1f} Mbit/s"
