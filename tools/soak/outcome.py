"""What one soak case says about itself when it has run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

# Takes one line about how far a case is.
Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one soak case.

    Attributes:
        case: The case's name in the registry.
        figure: What is to be reached, in words a reader of the table understands.
        measured: What this run gave, in the same words.
        reached: Whether the figure is reached.
        details: What is behind it; everything in it can be written as JSON.
    """

    case: str
    figure: str
    measured: str
    reached: bool
    details: dict[str, Any] = field(default_factory=dict)


class SoakCase(Protocol):
    """Runs one case in an empty folder of its own, and keeps logs and state there."""

    def __call__(self, folder: Path, *, tell: Tell) -> Outcome:
        """Run the case to its end; a figure that is not reached is an outcome, not an error."""
