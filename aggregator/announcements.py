"""What the aggregator tells people and devices of the run, built from plain values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from aggregator.admission import Terms
from aggregator.chain import Chain, DeltaFacts
from aggregator.config import AggregatorConfig
from aggregator.energy import FleetEnergy
from aggregator.evaluation import FleetEvaluation, weighted_mean
from aggregator.journal import RoundRecord
from aggregator.outputs import ClearAdapter, FrozenUpdate, Output, Publish, SendAdapter
from aggregator.round import Round
from codec.layout import Layout
from codec.update import dense_bytes
from transport.control import (
    EvalCommand,
    ModelStatus,
    RoundStatus,
    RoundSummary,
    RunAnnouncement,
    ServiceState,
    ServiceStatus,
    TrainCommand,
)
from transport.messages import Evaluation, Manifest
from transport.topics import Command, CoordStatus, Model, RoundNow

# [bytes] What a dense codec may say of one tensor besides its values: a scale, a place, a head.
DENSE_TENSOR_BYTES = 64


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What stays the same for the whole run, or for as long as this process lives.

    Attributes:
        run: The run's id, 32 hexadecimal digits.
        epoch: This start of the aggregator.
        session: Random for each start.
        base_model: The base model's name, as the initial adapter gives it.
        base_digest: SHA-256 of the base model, 32 bytes.
        layout: The adapter's layout.
    """

    run: str
    epoch: int
    session: str
    base_model: str
    base_digest: bytes
    layout: Layout


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """An adapter version that is durable.

    Attributes:
        sha256: Of the flat little-endian float32 adapter, as hexadecimal digits.
        size_bytes: Bytes of its segments.
        segments: How many it is published in.
        chain: The published deltas that lead to it.
        wholes: Older versions that a device may still ask for whole.
    """

    version: int
    sha256: str
    size_bytes: int
    segments: int
    chain: Chain = field(default_factory=Chain)
    wholes: frozenset[int] = frozenset()

    def count(self, version: int, *, delta: bool) -> int:
        """Return how many segments of a version, or of its delta, devices may ask for."""
        if delta:
            found = self.chain.find(version)
            return found.segments if found else 0
        return self.segments if version == self.version or version in self.wholes else 0


@dataclass(frozen=True, slots=True)
class Announcer:
    """Writes the messages of one run.

    Attributes:
        config: The service's configuration.
        facts: The run.
        version: The software's version.
    """

    config: AggregatorConfig
    facts: RunFacts
    version: str

    def run(self) -> RunAnnouncement:
        """Return what devices must know before they can take part."""
        return RunAnnouncement(
            run=self.facts.run,
            base_model=self.facts.base_model,
            base_digest=self.facts.base_digest.hex(),
            layout_digest=self.facts.layout.digest.hex(),
            codec=self.config.codec,
            rounds=self.config.rounds,
            segment_bytes=self.config.segment_bytes,
            plan=self.config.plan,
            error_feedback=self.config.error_feedback,
            residual_decay=self.config.residual_decay,
            downlink_codec=self.config.downlink_codec or "",
        )

    def terms(self, record: RoundRecord) -> Terms:
        """Return what the round demands of an update."""
        layout = self.facts.layout
        budget = self.config.budget_bytes(layout.size, round_id=record.round_id)
        if budget is None:
            budget = dense_bytes(layout, segment_bytes=self.config.segment_bytes)
            # No dense codec takes more than float32, but for what it says of each tensor.
            budget += len(layout.tensors) * DENSE_TENSOR_BYTES
        return Terms(
            run=self.facts.run,
            round_id=record.round_id,
            # One that was barred could reopen the round with each further update.
            invited=frozenset(record.invited) - frozenset(record.barred),
            base_digest=self.facts.base_digest,
            layout_digest=self.facts.layout.digest,
            codec=self.config.codec,
            update_bytes=budget,
            segment_bytes=self.config.segment_bytes,
            max_examples=self.config.max_examples,
            max_open=self.config.max_open_updates,
        )

    def service(self, state: ServiceState, adapter: AdapterFacts, reason: str = "") -> Publish:
        """Say what the aggregator is doing."""
        status = ServiceStatus(
            state,
            self.facts.session,
            self.version,
            reason,
            run=self.facts.run,
            epoch=self.facts.epoch,
            adapter_version=adapter.version,
            adapter_sha256=adapter.sha256,
        )
        return Publish(CoordStatus(), status, retain=True)

    def train(self, client_id: str, *, round_id: int, remaining_s: float) -> Publish:
        """Ask a device to train."""
        command = TrainCommand(
            run=self.facts.run,
            epoch=self.facts.epoch,
            round_id=round_id,
            base_version=round_id - 1,
            deadline_s=max(0.0, remaining_s),
            seed=self.config.seed,
            update_bytes=self.config.budget_bytes(self.facts.layout.size, round_id=round_id),
            min_update_bytes=self.config.least_bytes(self.facts.layout.size, round_id=round_id),
        )
        return Publish(Command(client_id, "train", str(round_id)), command)

    def evaluate(self, client_id: str, *, version: int, remaining_s: float) -> Publish:
        """Ask a device to evaluate an adapter version."""
        command = EvalCommand(
            run=self.facts.run,
            epoch=self.facts.epoch,
            version=version,
            deadline_s=max(0.0, remaining_s),
        )
        return Publish(Command(client_id, "eval", str(version)), command)

    def round(self, record: RoundRecord, current: Round, *, remaining_s: float) -> Publish:
        """Say how far the open round is."""
        status = RoundStatus(
            run=self.facts.run,
            round_id=record.round_id,
            phase=current.phase,
            deadline_s=max(0.0, remaining_s),
            cohort=len(current.cohort),
            goal=self.config.goal,
            quorum=self.config.quorum,
            complete=current.complete,
            partial=current.partial,
            late=record.tally.late,
            bytes_up=record.tally.bytes_up,
            bytes_down=record.tally.bytes_down,
            stalled=current.stalled,
        )
        return Publish(RoundNow(), status, retain=True)

    def model(self, adapter: AdapterFacts, evaluation: FleetEvaluation | None) -> Publish:
        """Say what the newest adapter version is, and how good."""
        newest = adapter.chain.find(adapter.version)
        status = ModelStatus(
            run=self.facts.run,
            version=adapter.version,
            sha256=adapter.sha256,
            bytes=adapter.size_bytes,
            segments=adapter.segments,
            eval_loss=evaluation.loss if evaluation else None,
            eval_accuracy=evaluation.accuracy if evaluation else None,
            eval_tokens=evaluation.tokens if evaluation else 0,
            delta_bytes=newest.size_bytes if newest else 0,
            delta_segments=newest.segments if newest else 0,
            chain_from=adapter.chain.begins_at,
            chain_bytes=sum(delta.size_bytes for delta in adapter.chain.deltas),
        )
        return Publish(Model(), status, retain=True)

    def adapter(self, adapter: AdapterFacts, evaluation: FleetEvaluation | None) -> list[Output]:
        """Publish a new adapter version; the frames first: who hears of it can fetch it.

        Where there is a delta, the whole adapter is left until somebody asks for it.
        """
        return self._frames(adapter, adapter.chain.deltas[-1:], evaluation)

    def standing(self, adapter: AdapterFacts, evaluation: FleetEvaluation | None) -> list[Output]:
        """Publish all that there is of adapter versions: the broker may have lost any of it."""
        return self._frames(adapter, adapter.chain.deltas, evaluation)

    def _frames(
        self,
        adapter: AdapterFacts,
        deltas: Iterable[DeltaFacts],
        evaluation: FleetEvaluation | None,
    ) -> list[Output]:
        outputs: list[Output] = [SendAdapter(delta.version, delta=True) for delta in deltas]
        outputs = outputs or [SendAdapter(adapter.version)]
        if adapter.version > 0:
            outputs.append(ClearAdapter(adapter.version - 1, adapter.segments))
        outputs += [
            ClearAdapter(left.version, left.segments, delta=True) for left in adapter.chain.left
        ]
        return [*outputs, self.model(adapter, evaluation)]


def round_summary(
    config: AggregatorConfig,
    facts: RunFacts,
    record: RoundRecord,
    *,
    included: Collection[FrozenUpdate],
    manifests: Mapping[str, Manifest],
    evaluations: Iterable[Evaluation],
    energy: FleetEnergy,
    clipped: int = 0,
) -> RoundSummary:
    """Return what a round gave and cost.

    `RoundSummary` says what each number of bytes counts. `bytes_up_fp32` leaves out manifests,
    frames, topics and repeats, which `bytes_up` has, so that a saving computed from the two is
    understated; neither is what zstd would make of fp32.

    Args:
        config: The service's configuration.
        facts: The run.
        record: The round, with what it has cost.
        included: The updates that are in the adapter.
        manifests: uid → manifest, for at least those that are included.
        evaluations: What devices report of the version that the round started from.
        energy: What devices have spent on the round.
        clipped: Updates whose norm was cut to the bound.
    """
    evaluation = weighted_mean(evaluations)
    complete = sum(len(update.accepted) == update.segment_count for update in included)
    weights = sum(update.weight for update in included)
    train_loss = sum(manifests[update.uid].train_loss * update.weight for update in included)
    fp32_bytes = dense_bytes(facts.layout, segment_bytes=config.segment_bytes)
    return RoundSummary(
        run=facts.run,
        round_id=record.round_id,
        version=record.round_id,
        participants=len(included),
        complete=complete,
        partial=len(included) - complete,
        late=record.tally.late,
        seconds=round(record.tally.seconds, 3),
        bytes_up=record.tally.bytes_up,
        bytes_up_payload=sum(_payload_bytes(update, manifests) for update in included),
        bytes_up_fp32=len(included) * fp32_bytes,
        bytes_down=record.tally.bytes_down,
        train_loss=train_loss / weights if weights else None,
        eval_version=record.round_id - 1,
        eval_loss=evaluation.loss if evaluation else None,
        eval_accuracy=evaluation.accuracy if evaluation else None,
        eval_tokens=evaluation.tokens if evaluation else 0,
        refused=dict(record.tally.refused),
        stale=sum(manifests[update.uid].round_id < record.round_id for update in included),
        dropped=record.tally.dropped,
        clipped=clipped,
        energy_j=energy.energy_j,
        energy_above_idle_j=energy.above_idle_j,
        energy_devices=energy.devices,
    )


def _payload_bytes(update: FrozenUpdate, manifests: Mapping[str, Manifest]) -> int:
    segments = manifests[update.uid].segments
    return sum(segments[index].length for index in update.accepted)
