"""Adding decoded parts of an update to a sum, once all of them are known to be legal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from codec.errors import CorruptSegment

if TYPE_CHECKING:
    from collections.abc import Iterable


class Range(Protocol):
    """Anything that covers flat coordinates from `begin` up to, not including, `end`."""

    @property
    def begin(self) -> int:
        """The first coordinate."""
        ...

    @property
    def end(self) -> int:
        """The coordinate that follows the last."""
        ...


def check_disjoint(ranges: Iterable[Range]) -> None:
    """Raise `CorruptSegment` where two ranges of one update share a coordinate.

    A coordinate that came twice would be counted twice.
    """
    end = 0
    for part in sorted(ranges, key=lambda part: part.begin):
        if part.begin < end:
            raise CorruptSegment(f"two parts of the update hold coordinate {part.begin}")
        end = part.end
