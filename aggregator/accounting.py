"""Puts a round's account together when it is committed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aggregator.account import Contribution, DeviceTraffic, RoundAccount, Spent
from aggregator.announcements import Announcer
from aggregator.closing import Aggregated
from aggregator.journal import RoundRecord
from aggregator.outputs import FrozenUpdate
from transport.messages import Manifest


def account_of(
    announcer: Announcer,
    record: RoundRecord,
    result: Aggregated,
    *,
    frozen: Iterable[FrozenUpdate],
    manifests: Mapping[str, Manifest],
    traffic: Mapping[str, DeviceTraffic],
    spent: Mapping[str, Spent],
) -> RoundAccount:
    """Return the account of a round.

    Args:
        announcer: Knows the run.
        record: The round.
        result: What was made of the frozen set.
        frozen: That set.
        manifests: uid → manifest, for at least those that are included.
        traffic: What devices have sent.
        spent: What devices claim that the round has cost them.
    """
    config = announcer.config
    included = set(result.included)
    return RoundAccount(
        about={
            "federation": config.federation,
            "base_model": announcer.facts.base_model,
            "codec": config.codec,
            "rounds": config.rounds,
            "goal": config.goal,
            "quorum": config.quorum,
            "segment_bytes": config.segment_bytes,
            "update_bytes": config.budget_bytes(
                announcer.facts.layout.size, round_id=record.round_id
            ),
            "software": announcer.version,
        },
        asked=record.invited,
        traffic=traffic,
        spent=spent,
        contributions=tuple(
            _contribution(update, manifests[update.uid], result)
            for update in frozen
            if update.uid in included
        ),
        tensors=result.tensors,
    )


def _contribution(update: FrozenUpdate, manifest: Manifest, result: Aggregated) -> Contribution:
    evaluation = manifest.evaluation
    return Contribution(
        uid=update.uid,
        client_id=manifest.client_id,
        trained_for=manifest.round_id,
        weight=update.weight,
        examples=manifest.num_examples,
        steps=manifest.steps,
        train_s=manifest.train_s,
        train_loss=manifest.train_loss,
        eval_loss=evaluation.loss if evaluation else None,
        eval_tokens=evaluation.tokens if evaluation else 0,
        accepted=len(update.accepted),
        segments=update.segment_count,
        payload_bytes=sum(manifest.segments[index].length for index in update.accepted),
        norm=result.norms.get(update.uid, 0.0),
        clipped=update.uid in result.clipped,
    )
