"""What the demo was asked for, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.registry import codec_named
from transport.control import TrainingPlan

FEDERATION = "demo"
BASE_FOLDER = Path(__file__).resolve().parent.parent / "base"

# What the demo trains with: chosen so that five rounds of four devices end well within 90 s on two
# cores and the held-out loss falls clearly on every device; docs/demo.md has the figures.
PLAN = TrainingPlan(
    local_steps=8,
    batch_size=8,
    max_tokens=128,
    learning_rate=2e-3,
    eval_examples=24,
)
RANK = 8
ALPHA = 16
DEFAULT_BITS = "0.15:0.8"
WHOLE = "whole"  # in place of a downlink's codec: every version goes down as it is
SEGMENT_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The command line's options, checked by typer as far as one value alone can be.

    Attributes:
        slow_kbit_s: What the last device's uplink carries, None for as much as the others'.
    """

    agents: int
    rounds: int
    data: Path | None
    model: str | None
    broker: str
    codec: str
    bits: str | None
    downlink: str
    compare: str | None
    out: Path
    as_json: bool
    dashboard: bool = False
    slow_kbit_s: float | None = None

    @property
    def base_model(self) -> str:
        """The base model's folder or hub id."""
        return self.model or str(BASE_FOLDER)

    @property
    def bits_per_coordinate(self) -> float | dict[str, float] | None:
        """What the aggregator's file says: a number, a schedule, or nothing for dense codecs.

        Raises:
            ValueError: `bits` is neither a number nor two with a colon between them.
        """
        if self.bits is None and codec_named(self.codec).dense:
            return None
        first, colon, last = (self.bits or DEFAULT_BITS).partition(":")
        if not colon:
            return float(first)
        return {"first": float(first), "last": float(last)}

    @property
    def downlink_settings(self) -> dict[str, Any]:
        """What the aggregator's file says of the downlink.

        Raises:
            ValueError: `downlink` ends in something that is no number.
        """
        if self.downlink == WHOLE:
            return {"downlink_codec": None}
        codec, colon, bits = self.downlink.partition(":")
        return {
            "downlink_codec": codec,
            "downlink_bits_per_coordinate": float(bits) if colon else None,
        }
