"""What the end of a round says of its updates, of late ones, and of what was too few."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.admission import LatePolicy
from aggregator.announcements import AdapterFacts, Announcer, RunFacts
from aggregator.closing import ABANDONED, Aggregated, abandoned, conclude
from aggregator.energy import FleetEnergy
from aggregator.journal import RoundRecord, RoundState, UpdateRecord
from aggregator.ledger import Ledger
from aggregator.outputs import FrozenUpdate
from aggregator.quotas import Quotas
from aggregator.uploads import Uploads
from transport.messages import ReceiptState
from transport.transfer import TransferPolicy

RUN = "a" * 32


@pytest.fixture
def announcer(make_rig: Any, layout: Any, base_digest: Any) -> Announcer:
    return Announcer(make_rig().config, RunFacts(RUN, 1, "s", "tiny", base_digest, layout), "0")


def test_the_commit_has_every_last_word_and_what_the_round_gave(
    announcer: Any, update_maker: Any
) -> None:
    fresh, stale, none, bad = (
        update_maker(client_id=name, run=RUN, round_id=round_id)
        for name, round_id in (("a", 3), ("b", 2), ("c", 3), ("d", 3))
    )
    everything = frozenset(range(len(fresh.bodies)))
    held = {fresh.uid: everything, stale.uid: frozenset({0}), bad.uid: everything}
    uploads = Uploads(
        round_id=3,
        epoch=1,
        policy=TransferPolicy(),
        late=LatePolicy.STALE,
        quotas=Quotas(announcer.config.quotas),
        updates=[
            UpdateRecord(each.uid, each.manifest, held.get(each.uid, frozenset()))
            for each in (fresh, stale, none, bad)
        ],
    )
    frozen = [
        FrozenUpdate(each.uid, 10.0, len(each.bodies), held[each.uid])
        for each in (fresh, stale, bad)
    ]
    ledger = Ledger(RoundRecord(3, 1, invited=("a", "c", "d")))
    included = sorted((fresh.uid, stale.uid))
    result = Aggregated(
        AdapterFacts(3, "0" * 64, 1, 1),
        included,
        {bad.uid: "corrupt"},
        norms={fresh.uid: 2.0, stale.uid: 3.0},
        clipped=(stale.uid,),
    )
    commit = conclude(
        announcer,
        result,
        frozen=frozen,
        uploads=uploads,
        ledger=ledger,
        oldest_taken=2,
        energy=FleetEnergy(30.5, 20.0, 2),
        now=9.0,
    )
    assert {uid: receipt.state for uid, receipt in commit.receipts.items()} == {
        fresh.uid: ReceiptState.ACCEPTED,
        stale.uid: ReceiptState.PARTIAL,
        bad.uid: ReceiptState.REFUSED,
    }
    norms = {fresh.uid: 2.0, stale.uid: 3.0}
    assert commit.record.norms == tuple(norms[uid] for uid in included)
    assert commit.record.state is RoundState.COMMITTED
    summary = commit.summary
    assert (summary.participants, summary.complete, summary.partial) == (2, 1, 1)
    told = (summary.energy_j, summary.energy_above_idle_j, summary.energy_devices)
    assert told == (30.5, 20.0, 2)
    assert (summary.stale, summary.late, summary.dropped, summary.clipped) == (1, 1, 0, 1)
    # Those of the round itself: a, c, and not the one that does not decode.
    assert summary.eval_tokens == 200


def test_an_abandoned_round_is_told_with_what_was_missing() -> None:
    notice = abandoned(RoundRecord(3, 2), arrived=1, quorum=4)
    assert (notice.address, notice.retain) == (ABANDONED, True)
    message: Any = notice.message
    assert "round 3" in message.text
    assert "1 of 4 updates" in message.text
    assert message.count == 2
