"""What the aggregator keeps on disk, as values: written by the store, read again at a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from aggregator.account import DeviceTraffic
from transport import frame
from transport.control import RoundSummary
from transport.messages import Evaluation, Manifest, Receipt

# [rounds] How many committed rounds a restart knows again: their late updates may still come, and
# the norms of their updates say what is usual.
EARLIER_ROUNDS = 32


class RoundState(str, Enum):
    """How far a round is on disk."""

    OPEN = "open"
    FROZEN = "frozen"  # which segments count is decided; the new adapter may not be written yet
    COMMITTED = "committed"  # its adapter version is durable


@dataclass(frozen=True, slots=True)
class Tally:
    """What a round has cost so far.

    Attributes:
        bytes_up: Whole MQTT packets of manifests and segments, repeats and refused ones counted.
        bytes_down: Whole MQTT packets of everything under `flx/` that was published.
        seconds: Seconds that the round has been on, over restarts.
        late: Updates that came too late, for this round or while it was open.
        refused: Reason → count.
        dropped: Those of `late` that the run's policy threw away.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    late: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round, as it is continued after a restart.

    Attributes:
        attempt: 1 for the first opening, one more for each abandonment.
        cohort: The devices that this attempt has asked.
        invited: The devices that any attempt has asked: only these may deliver.
        declined: Those of the cohort that will not train.
        barred: Those whose update was let in and then did not decode.
        attempt_s: Seconds that this attempt has been on, over restarts; a restart takes them from
            its deadline.
        norms: Norms of the updates that are in the adapter, in ascending order of uid; empty until
            the round is committed.
    """

    round_id: int
    attempt: int = 0
    state: RoundState = RoundState.OPEN
    cohort: tuple[str, ...] = ()
    invited: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    attempt_s: float = 0.0
    norms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """One update without its last word, of the open round or, late, of an earlier one.

    Attributes:
        held: Indices of the journaled segments.
        frozen: Indices that count, once the round is frozen.
    """

    uid: str
    manifest: Manifest
    held: frozenset[int]
    frozen: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class SettledUpdate:
    """An update that has had its last word.

    Attributes:
        round_id: The update's own round.
        seq: The device's own count of updates.
        receipt_frame: The receipt as its frame: a bitmap takes a hundredth of a set, and the last
            words of all rounds are held at once.
    """

    client_id: str
    round_id: int
    seq: int
    receipt_frame: bytes

    @property
    def receipt(self) -> Receipt:
        """The last word."""
        return frame.decode(Receipt, self.receipt_frame)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The run of a state folder.

    Attributes:
        run: 32 hexadecimal digits.
        epoch: Starts of the aggregator; the newest fences off the others.
    """

    run: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a restarted aggregator goes on from.

    Attributes:
        version: The newest committed adapter version; 0 before the first round.
        round: The round that is not committed, if it has been opened.
        updates: Its updates, and late ones of the rounds before.
        settled: uid → the last word, for all rounds of the run.
        evaluations: Device → its evaluation of `version`.
        summaries: One per committed round, in order.
        finished: The run has ended with `version`.
        earlier: The newest committed rounds, at most `EARLIER_ROUNDS`, in order.
        cloned: The devices of which nothing new is let in, since two share the identity.
        traffic: Device → what it has sent while `round` has been on.
    """

    version: int = 0
    round: RoundRecord | None = None
    updates: tuple[UpdateRecord, ...] = ()
    settled: Mapping[str, SettledUpdate] = field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    summaries: tuple[RoundSummary, ...] = ()
    finished: bool = False
    earlier: tuple[RoundRecord, ...] = ()
    cloned: frozenset[str] = frozenset()
    traffic: Mapping[str, DeviceTraffic] = field(default_factory=dict)
