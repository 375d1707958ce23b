"""Which deltas stay published, so that a device that missed versions can follow. Pure.

A chain leads from its oldest version to the newest, one delta after the other. It goes back as far
as all of it is smaller than the whole adapter: beyond, the whole is the shorter way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Each hop costs a device a round trip and a check over the whole adapter, however few its bytes.
MAX_DELTAS = 16


@dataclass(frozen=True, slots=True)
class DeltaFacts:
    """The delta by which the version before becomes this one.

    Attributes:
        size_bytes: Bytes of its segments.
        segments: How many these are.
    """

    version: int
    size_bytes: int
    segments: int


@dataclass(frozen=True, slots=True)
class Chain:
    """The deltas that are published.

    Attributes:
        deltas: One version after the other, the newest last.
        left: Those that were published until the newest version came.
    """

    deltas: tuple[DeltaFacts, ...] = ()
    left: tuple[DeltaFacts, ...] = ()

    @property
    def begins_at(self) -> int | None:
        """The oldest version from which the deltas lead to the newest, None without deltas."""
        return self.deltas[0].version - 1 if self.deltas else None

    @property
    def oldest(self) -> int | None:
        """The oldest version whose delta is published, or has only just ceased to be."""
        return min((delta.version for delta in (*self.left, *self.deltas)), default=None)

    def find(self, version: int) -> DeltaFacts | None:
        """Return the published delta that makes this version."""
        return next((delta for delta in self.deltas if delta.version == version), None)

    def extended(self, delta: DeltaFacts, *, whole_bytes: int) -> Chain:
        """Return the chain to the version that this delta makes of the newest."""
        known = {each.version: each for each in (*self.deltas, delta)}
        deltas = _window(known, newest=delta.version, whole_bytes=whole_bytes)
        return Chain(deltas, tuple(each for each in self.deltas if each not in deltas))


def chain_of(known: Mapping[int, DeltaFacts], *, newest: int, whole_bytes: int) -> Chain:
    """Return the chain to the newest version, as it was when that was made.

    Args:
        known: Version → its delta, for all that are on disk.
        newest: The newest version.
        whole_bytes: Bytes of a whole adapter's segments.
    """
    before = Chain(_window(known, newest=newest - 1, whole_bytes=whole_bytes))
    delta = known.get(newest)
    if delta is None:
        return Chain(left=before.deltas)
    return before.extended(delta, whole_bytes=whole_bytes)


def _window(
    known: Mapping[int, DeltaFacts], *, newest: int, whole_bytes: int
) -> tuple[DeltaFacts, ...]:
    deltas: list[DeltaFacts] = []
    room_bytes = whole_bytes
    while len(deltas) < MAX_DELTAS and (delta := known.get(newest - len(deltas))):
        room_bytes -= delta.size_bytes
        if room_bytes <= 0:
            break
        deltas.append(delta)
    return tuple(reversed(deltas))
