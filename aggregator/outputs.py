"""Everything that the aggregator's pure core asks its shell to do, one value per effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.account import DeviceTraffic, RoundAccount
from aggregator.journal import RoundRecord
from transport.control import RoundSummary
from transport.messages import Evaluation, Manifest, Receipt
from transport.topics import Address


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message: JSON under `fl/`, a frame under `flx/`, as its address says."""

    address: Address
    message: object
    retain: bool = False


@dataclass(frozen=True, slots=True)
class SendAdapter:
    """Publish an adapter version, or a delta: all of it, or some segments again.

    The newest version and the deltas are retained; an older version is for who has half of it.
    """

    version: int
    indices: frozenset[int] | None = None
    delta: bool = False


@dataclass(frozen=True, slots=True)
class ClearAdapter:
    """Take the retained frames of an adapter version, or of its delta, from the broker.

    Attributes:
        segments: How many there are at the most.
    """

    version: int
    segments: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class SaveRound:
    """Make the round's record durable before anything that follows is published."""

    record: RoundRecord


@dataclass(frozen=True, slots=True)
class JournalTraffic:
    """Make durable what a device has sent while the open round has been on.

    Attributes:
        sent: A copy: the counters themselves go on.
    """

    round_id: int
    client_id: str
    sent: DeviceTraffic


@dataclass(frozen=True, slots=True)
class JournalManifest:
    """Make an admitted manifest durable."""

    uid: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class JournalLate:
    """Make durable that an update which was never let in has been told that it is late."""

    uid: str
    client_id: str
    round_id: int
    seq: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class JournalCloned:
    """Make durable that two devices share this identity, or that they do no longer."""

    client_id: str
    cloned: bool


@dataclass(frozen=True, slots=True)
class JournalSegment:
    """Make a segment durable; `Coordinator.stored` is called when it is."""

    uid: str
    index: int
    body: bytes


@dataclass(frozen=True, slots=True)
class JournalEvaluation:
    """Make a device's evaluation of a finished adapter version durable."""

    version: int
    client_id: str
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class FrozenUpdate:
    """What counts of one update.

    Attributes:
        weight: What it weighs when all of it is there, less for late ones.
        accepted: Indices of the segments that count, never empty.
    """

    uid: str
    weight: float
    segment_count: int
    accepted: frozenset[int]


@dataclass(frozen=True, slots=True)
class Freeze:
    """Decide in one transaction which segments count; `Coordinator.frozen` is called after it.

    Attributes:
        updates: Sorted by uid.
    """

    record: RoundRecord
    updates: tuple[FrozenUpdate, ...]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Make the next adapter from a frozen set; `Coordinator.aggregated` is called with the result.

    Attributes:
        base_version: The adapter version that the deltas start from.
        updates: Sorted by uid.
        norm_bound: The largest norm that an update may have; None while none is known.
    """

    base_version: int
    updates: tuple[FrozenUpdate, ...]
    norm_bound: float | None = None


@dataclass(frozen=True, slots=True)
class Reopen:
    """Settle updates that did not decode, and thaw the others, in one transaction."""

    record: RoundRecord
    receipts: Mapping[str, Receipt]


@dataclass(frozen=True, slots=True)
class Commit:
    """Make the new adapter version, the receipts and the summary durable.

    `Coordinator.committed` is called after it; only then is anything announced.
    """

    record: RoundRecord
    version: int
    receipts: Mapping[str, Receipt]
    summary: RoundSummary
    account: RoundAccount | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The run has ended with this adapter version: make that durable."""

    version: int


Output = (
    Publish
    | SendAdapter
    | ClearAdapter
    | SaveRound
    | JournalTraffic
    | JournalManifest
    | JournalSegment
    | JournalLate
    | JournalCloned
    | JournalEvaluation
    | Freeze
    | Aggregate
    | Reopen
    | Commit
    | Finish
)
