"""What the end of a round says: which updates are in, what it gave and cost. Pure."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aggregator.announcements import AdapterFacts, Announcer, round_summary
from aggregator.energy import FleetEnergy
from aggregator.journal import RoundRecord, RoundState
from aggregator.ledger import Ledger
from aggregator.outputs import Commit, FrozenUpdate, Publish
from aggregator.tensors import TensorFigures
from aggregator.uploads import Uploads
from transport.control import AlertNotice
from transport.topics import Alert

logger = logging.getLogger(__name__)

ABANDONED = Alert("round-abandoned")


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What came of an `Aggregate`: the next adapter, computed and not yet written.

    Attributes:
        adapter: The adapter version that it would be.
        included: The uids whose updates are in it.
        refused: The uids whose updates do not decode, each with its reason.
        norms: uid → norm, for those that are included.
        clipped: Those of them that were scaled down to the bound.
        tensors: What it did to each tensor; None where that was not counted.
    """

    adapter: AdapterFacts
    included: Collection[str]
    refused: Mapping[str, str]
    norms: Mapping[str, float] = field(default_factory=dict)
    clipped: Collection[str] = ()
    tensors: TensorFigures | None = None


def conclude(
    announcer: Announcer,
    result: Aggregated,
    *,
    frozen: Collection[FrozenUpdate],
    uploads: Uploads,
    ledger: Ledger,
    oldest_taken: int,
    energy: FleetEnergy,
    now: float,
) -> Commit:
    """Return the commit of a round, with all last words; it is for the caller to carry it out.

    Args:
        announcer: Knows the run.
        result: What was made of the frozen set.
        frozen: That set.
        uploads: The updates that wait.
        ledger: The round's.
        oldest_taken: The first round whose late updates the next round takes.
        energy: What devices have spent on the round.
        now: Monotonic seconds.
    """
    in_mean = set(result.included)
    included = [update for update in frozen if update.uid in in_mean]
    closing = uploads.close(included, result.refused, oldest_taken=oldest_taken)
    ledger.count_late(updates=closing.late, dropped=closing.dropped)
    ledger.keep_norms(norm for _, norm in sorted(result.norms.items()))
    record = ledger.mark(RoundState.COMMITTED, now=now)
    summary = round_summary(
        announcer.config,
        announcer.facts,
        record,
        included=included,
        manifests=uploads.manifests(),
        evaluations=uploads.evaluations(refused=result.refused),
        clipped=len(result.clipped),
        energy=energy,
    )
    logger.info(
        "round=%d is in version=%d participants=%d stale=%d late=%d loss=%s",
        summary.round_id,
        summary.version,
        summary.participants,
        summary.stale,
        summary.late,
        summary.eval_loss,
    )
    return Commit(record, summary.version, closing.receipts, summary)


def abandoned(record: RoundRecord, *, arrived: int, quorum: int) -> Publish:
    """Tell operators that an attempt has ended with too few updates."""
    text = (
        f"round {record.round_id} was abandoned at its deadline: "
        f"{arrived} of {quorum} updates; it is opened again"
    )
    logger.warning("%s", text)
    notice = AlertNotice(severity="warning", text=text, count=record.attempt)
    return Publish(ABANDONED, notice, retain=True)
