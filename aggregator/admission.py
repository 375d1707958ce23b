"""What a manifest must be to take part in the open round, and why it is refused otherwise.

A manifest is a claim by a device. The checks go from cheap to costly; the first that fails names
the reason, which travels in the receipt, the counters and the alert. An update that missed its own
round takes part in a later one by the terms of its own, and weighs less there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum

from transport import frame, limits
from transport.messages import Manifest

# A loss in nats or a duration beyond these is no measurement, and would only break averages.
MAX_LOSS = 1e6
MAX_TRAIN_S = 30 * 86_400.0


class LatePolicy(str, Enum):
    """What becomes of an update of which nothing had come when its round was committed."""

    STALE = "stale"  # it takes part in the round that is open then, and weighs less
    MERGE = "merge"  # its device puts it into its next update
    DROP = "drop"  # it is thrown away, and its device is told so

    @property
    def reason(self) -> str:
        """What the receipt of a late update says: `late` lets the device keep it."""
        return "dropped" if self is LatePolicy.DROP else "late"


class Refusal(str, Enum):
    """Why an update, or part of one, is not let in; the values are identifiers."""

    QUOTA_RATE = "quota-rate"  # too many messages in a second; nothing is answered
    QUOTA_BYTES = "quota-bytes"  # too many bytes in this round; nothing is answered
    IDENTITY = "identity"  # the topic's device is not the manifest's
    RUN = "run"
    ROUND = "round"  # a round that has not been opened
    CLONED = "cloned"  # two devices share this one's identity
    NOT_SELECTED = "not-selected"  # the device was never asked in this round
    TWIN = "twin"  # another update has its number: two devices go on from one copied outbox
    SECOND_UPDATE = "second-update"  # another update of this device and round was let in
    QUOTA_OPEN = "quota-open"  # too many updates of this device wait; it is not answered
    BASE_VERSION = "base-version"
    BASE_MODEL = "base-model"
    LAYOUT = "layout"
    CODEC = "codec"
    EXAMPLES = "examples"
    NON_FINITE = "non-finite"
    METRICS = "metrics"  # finite, and still no measurement
    OVERSIZED = "oversized"
    SEGMENTS = "segments"  # empty, or shorter than any segment can be
    UID = "uid"  # the topic's uid is not the hash of the manifest
    QUOTA_DISK = "quota-disk"  # the journal is full; the segment stays missing
    MAGNITUDE = "magnitude"  # the decoded update moves a coordinate absurdly far
    NORM = "norm"  # the decoded update is far longer than those of the rounds before

    @property
    def passes(self) -> bool:
        """Whether the same update may be let in later, so that it must get no receipt."""
        return self is Refusal.CLONED or self.value.startswith("quota-")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the open round demands of an update.

    Attributes:
        run: The run's id.
        round_id: The round; its base version is `round_id - 1`.
        invited: The devices that were asked in this round.
        base_digest: SHA-256 of the base model, 32 bytes.
        layout_digest: SHA-256 of the layout, 32 bytes.
        codec: The run's codec.
        update_bytes: Most bytes that all segments together may have.
        segment_bytes: Most bytes that one segment may have.
        max_examples: Where the claim of examples is capped.
        max_open: How many updates without a last word a device may have.
        cloned: The devices of which nothing new is let in.
        earlier: Round → the terms of that earlier round, for those whose late updates are taken.
    """

    run: str
    round_id: int
    invited: AbstractSet[str]
    base_digest: bytes
    layout_digest: bytes
    codec: str
    update_bytes: int
    segment_bytes: int
    max_examples: int
    max_open: int
    cloned: AbstractSet[str] = frozenset()
    earlier: Mapping[int, Terms] = field(default_factory=dict)

    def of(self, round_id: int) -> Terms | None:
        """Return what an update of that round must be to take part in this one; None: it cannot."""
        return self if round_id == self.round_id else self.earlier.get(round_id)

    def weight(self, manifest: Manifest) -> float:
        """Return what an admitted update weighs in this round's mean when all of it is there.

        With a staleness of s rounds, N / √(1 + s).

        Source: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation" (2022),
            the weight of section 5.
        """
        examples = min(manifest.num_examples, self.max_examples)
        return examples / math.sqrt(1 + self.round_id - manifest.round_id)


def is_too_late(manifest: Manifest, *, client_id: str, terms: Terms) -> bool:
    """Say whether this is of a round before, and takes part in none any more: late, not refused."""
    return (
        manifest.client_id == client_id
        and manifest.run == terms.run
        and 1 <= manifest.round_id < terms.round_id
        and manifest.round_id not in terms.earlier
    )


def copied_outbox(
    uid: str, *, client_id: str, numbered_uid: str | None, terms: Terms
) -> Refusal | None:
    """Return why nothing is believed of what two devices may have sent, each from its own copy.

    An outbox never uses a number twice, and begins at a random one. So two updates with one number
    come from two copies of it, and what the outbox held when it was copied may be in both. The
    first that came may count; the other never does, also when its device is trusted again.
    """
    if numbered_uid is not None and numbered_uid != uid:
        return Refusal.TWIN
    return Refusal.CLONED if client_id in terms.cloned else None


def admit(
    manifest: Manifest,
    *,
    uid: str,
    client_id: str,
    held_uid: str | None,
    numbered_uid: str | None,
    open_updates: int,
    terms: Terms,
) -> Refusal | None:
    """Return why this manifest is refused, or None where it is let in.

    Args:
        manifest: What the device says.
        uid: The update's name in the topic.
        client_id: The device in the topic, which the broker has authenticated.
        held_uid: The update of this device that was let in for the manifest's round, if any.
        numbered_uid: The update of this device that was let in with the manifest's number, if any.
        open_updates: How many updates this device has that wait for their last word.
        terms: What the open round demands.
    """
    if manifest.client_id != client_id:
        return Refusal.IDENTITY
    if manifest.run != terms.run:
        return Refusal.RUN
    copied = copied_outbox(uid, client_id=client_id, numbered_uid=numbered_uid, terms=terms)
    if copied is not None:
        return copied
    own = terms.of(manifest.round_id)
    if own is None:
        return Refusal.ROUND
    if client_id not in own.invited:
        return Refusal.NOT_SELECTED
    if held_uid is not None and held_uid != uid:
        return Refusal.SECOND_UPDATE
    if open_updates >= terms.max_open:
        return Refusal.QUOTA_OPEN
    return (
        _wrong_terms(manifest, own)
        or _wrong_metrics(manifest)
        or _wrong_segments(manifest, own)
        or (Refusal.UID if frame.uid(manifest) != uid else None)
    )


def _wrong_terms(manifest: Manifest, terms: Terms) -> Refusal | None:
    if manifest.base_version != terms.round_id - 1:
        return Refusal.BASE_VERSION
    if manifest.base_digest != terms.base_digest:
        return Refusal.BASE_MODEL
    if manifest.layout_digest != terms.layout_digest:
        return Refusal.LAYOUT
    if manifest.codec != terms.codec:
        return Refusal.CODEC
    return None


def _wrong_metrics(manifest: Manifest) -> Refusal | None:
    evaluation = manifest.evaluation
    numbers = [manifest.train_loss, manifest.train_s]
    if evaluation is not None:
        numbers.append(evaluation.loss)
    if not all(math.isfinite(number) for number in numbers):
        return Refusal.NON_FINITE
    if manifest.num_examples < 1:
        return Refusal.EXAMPLES
    if manifest.steps < 0 or not 0 <= manifest.train_s <= MAX_TRAIN_S:
        return Refusal.METRICS
    if not 0 <= manifest.train_loss <= MAX_LOSS:
        return Refusal.METRICS
    if evaluation is not None and not is_measurement(
        evaluation.loss, tokens=evaluation.tokens, correct=evaluation.correct
    ):
        return Refusal.METRICS
    return None


def is_measurement(loss: float, *, tokens: int, correct: int) -> bool:
    """Say whether these can be an evaluation: a finite loss ≥ 0, 1 token or more, correct ones."""
    # The comparison is False for NaN as well. JSON's integers have no bound, SQLite's have one.
    is_possible = 1 <= tokens <= limits.MAX_COUNT and 0 <= correct <= tokens
    return is_possible and 0 <= loss <= MAX_LOSS


def _wrong_segments(manifest: Manifest, terms: Terms) -> Refusal | None:
    if not manifest.segments or any(entry.length < 1 for entry in manifest.segments):
        return Refusal.SEGMENTS
    if any(entry.length > terms.segment_bytes for entry in manifest.segments):
        return Refusal.OVERSIZED
    if sum(entry.length for entry in manifest.segments) > terms.update_bytes:
        return Refusal.OVERSIZED
    return None
