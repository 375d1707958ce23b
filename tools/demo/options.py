"""What the demo was asked for, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
BITS_PER_COORDINATE = 2.0
SEGMENT_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The command line's options, checked by typer as far as one value alone can be."""

    agents: int
    rounds: int
    data: Path | None
    model: str | None
    broker: str
    codec: str
    out: Path
    as_json: bool

    @property
    def base_model(self) -> str:
        """The base model's folder or hub id."""
        return self.model or str(BASE_FOLDER)
