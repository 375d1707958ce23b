"""One trial: federated rounds over a fleet, all else as deployed. Pure but for its clock.

Each round has the aggregator's cohort, the clients' local training, the codec's segments under a
budget, the aggregator's weighted mean of what they decode to, and its step. All that chance decides
follows from the seed and is the same for every method: cohorts, batches, the seed that a client's
codec is given, and whose update never arrives.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.job import device_seed
from aggregator.cohort import sample_cohort
from aggregator.fedavg import ClientUpdate, federated_average
from codec.codec import Budget, Codec, FloatArray, SumArray
from codec.errors import CodecError, InvalidInput
from codec.residual import residual_after
from tools.bench.experiment import MAX_DELTA_ABS
from tools.experiment.downlink import Downlink
from tools.experiment.fleet import Evaluation, Fleet, LocalUpdate, TrialFailed
from tools.experiment.methods import Method
from tools.experiment.sent import Sent
from tools.experiment.server import ControlVariates, ServerOptimizer
from tools.experiment.wire import Update, snapshot_bytes, update_bytes

Clock = Callable[[], float]

_CONTROL_STREAM: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What every method of an experiment shares.

    Attributes:
        rounds: Adapter versions to make.
        cohort: Clients per round.
        dropout: Chance that an update never arrives.
        segment_bytes: Most bytes that one segment has.
        local_steps: As the clients' manifests say.
        evaluate_every: Rounds from one evaluation to the next; the last round always has one.
        seed: Of cohorts, batches, codecs and dropout.
    """

    rounds: int
    cohort: int
    dropout: float
    segment_bytes: int
    local_steps: int
    evaluate_every: int
    seed: int


@dataclass(frozen=True, slots=True)
class ClientRound:
    """One client's part of a round.

    Attributes:
        id: The client.
        bytes: Of its segments.
        wire: Of its whole messages.
        train_s: Seconds of local training.
        encode_s: Seconds of encoding.
        arrived: Whether the update did.
        examples: Its weight.
    """

    id: str
    bytes: int
    wire: int
    train_s: float
    encode_s: float
    arrived: bool
    examples: int


@dataclass(frozen=True, slots=True)
class Point:
    """How far a trial is after a round.

    Attributes:
        round: 0 before anything was sent.
        evaluation: Of the new adapter; None where this round has none.
        bytes_up: Segments of all updates that arrived so far, headers counted.
        wire_up: Whole messages of these updates, manifests and topics counted.
        bytes_down: Messages of the versions that all cohorts fetched so far: fp32 snapshots, or
            deltas where the method has them.
        clients: The round's cohort.
    """

    round: int
    evaluation: Evaluation | None
    bytes_up: int
    wire_up: int
    bytes_down: int
    clients: tuple[ClientRound, ...] = ()


def play(
    method: Method, *, codec: Codec, fleet: Fleet, plan: Plan, clock: Clock
) -> Iterator[tuple[Point, FloatArray]]:
    """Yield a point before the first round and one after each, and the adapter at that point.

    Raises:
        TrialFailed: The model diverged, or the codec refused the budget or its own bytes.
    """
    run = _Run(method, codec=codec, fleet=fleet, plan=plan, clock=clock)
    yield run.point(0, ()), run.adapter
    for number in range(1, plan.rounds + 1):
        clients = run.round(number)
        yield run.point(number, clients), run.adapter


def arrives(client_id: str, *, round_id: int, seed: int, dropout: float) -> bool:
    """Say whether a client's update of a round arrives, with chance 1 - dropout.

    It is the same for every method, and who is lost at one dropout is lost at every higher one.
    """
    digest = hashlib.sha256(f"{seed}/{round_id}/{client_id}/dropout".encode()).digest()
    return int.from_bytes(digest[:8], "little") >= dropout * 2**64


@dataclass(frozen=True, slots=True)
class _Made:
    """What one client made in a round."""

    client_id: str
    local: LocalUpdate
    segments: tuple[bytes, ...]
    control_segments: tuple[bytes, ...]
    control_change: FloatArray | None
    encode_s: float
    arrived: bool

    @property
    def bytes(self) -> int:
        return sum(map(len, self.segments + self.control_segments))


class _Run:
    """What lasts from round to round."""

    def __init__(
        self, method: Method, *, codec: Codec, fleet: Fleet, plan: Plan, clock: Clock
    ) -> None:
        adapter = fleet.start()
        self._method, self._codec, self._fleet, self._plan = method, codec, fleet, plan
        self._clock = clock
        self._sent = Sent(fleet.layout, freeze_a=method.local.freeze_a)
        self._server = ServerOptimizer(method, order=codec.order, goal=plan.cohort, adapter=adapter)
        self._downlink = Downlink(
            method.down,
            layout=fleet.layout,
            segment_bytes=plan.segment_bytes,
            seed=plan.seed,
            adapter=adapter,
        )
        self._controls: ControlVariates | None = None
        if method.local.scaffold:
            self._controls = ControlVariates(adapter.size, clients=len(fleet.client_ids))
        self._residuals: dict[str, FloatArray] = {}
        self._bytes_up = self._wire_up = self._bytes_down = 0

    @property
    def adapter(self) -> FloatArray:
        """The newest version, as clients have it."""
        return self._downlink.adapter

    def point(self, number: int, clients: tuple[ClientRound, ...]) -> Point:
        """Return where the trial is, with an evaluation where this round has one.

        Raises:
            TrialFailed: The held-out loss is not finite.
        """
        evaluation = None
        if number % self._plan.evaluate_every == 0 or number == self._plan.rounds:
            evaluation = self._fleet.evaluate(self.adapter)
            if not math.isfinite(evaluation.loss):
                raise TrialFailed(f"diverged: the held-out loss is {evaluation.loss}")
        counters = (self._bytes_up, self._wire_up, self._bytes_down)
        return Point(number, evaluation, *counters, clients)

    def round(self, number: int) -> tuple[ClientRound, ...]:
        """Play one round, and return what its cohort did.

        Where nothing arrives, the adapter stays as it is.
        """
        cohort = sample_cohort(
            self._fleet.client_ids,
            size=self._plan.cohort,
            seed=self._plan.seed,
            round_id=number,
            attempt=0,
        )
        fetched = sum(map(self._downlink.fetch, cohort)) + len(cohort) * self._control_bytes()
        made = []
        for client_id in cohort:
            try:
                made.append(self._client(client_id, number))
            except (CodecError, InvalidInput) as error:
                raise TrialFailed(f"round {number}, {client_id}: {error}") from error
        arrived = [each for each in made if each.arrived]
        if arrived:
            self._server.move(
                self._mean(arrived, number),
                bits=8 * sum(map(_update_bytes, arrived)) / (len(arrived) * self._sent.layout.size),
                cohort=len(arrived),
            )
            self._downlink.publish(self._server.adapter)
        if arrived and self._controls is not None:
            self._controls.arrived(
                [(each.client_id, each.control_change) for each in arrived
                 if each.control_change is not None]
            )  # fmt: skip
        clients = tuple(self._client_round(each, number) for each in made)
        self._bytes_up += sum(each.bytes for each in clients if each.arrived)
        self._wire_up += sum(each.wire for each in clients if each.arrived)
        self._bytes_down += fetched
        return clients

    def _control_bytes(self) -> int:
        """Return what each client of a round fetches beside the adapter: SCAFFOLD's c."""
        if self._controls is None:
            return 0
        return snapshot_bytes(
            self._controls.server,
            layout=self._fleet.layout,
            segment_bytes=self._plan.segment_bytes,
        )

    def _mean(self, arrived: list[_Made], number: int) -> SumArray:
        updates = [
            ClientUpdate(
                each.client_id,
                each.local.num_examples,
                len(each.segments),
                dict(enumerate(each.segments)),
            )
            for each in arrived
        ]
        average = federated_average(
            sorted(updates, key=lambda update: update.uid),
            codec=self._codec,
            layout=self._sent.layout,
            max_delta_abs=MAX_DELTA_ABS,
        )
        for uid, reason in average.refused.items():
            raise TrialFailed(f"round {number}: the update of {uid} was refused ({reason})")
        return self._sent.spread(average.mean)

    def _client(self, client_id: str, number: int) -> _Made:
        """Train one client and encode its update; its residual is brought up to date."""
        seed = device_seed(self._plan.seed, client_id=client_id, round_id=number)
        local = self._fleet.train(
            client_id,
            self.adapter,
            seed=seed,
            options=self._method.local,
            control=None if self._controls is None else self._controls.of(client_id),
        )
        delta = self._sent.of(local.delta)
        if client_id in self._residuals:
            delta = delta + self._residuals[client_id]
        importance = None if local.importance is None else self._sent.of(local.importance)
        began = self._clock()
        segments = self._encode(delta, importance, number=number, seed=seed)
        encode_s = self._clock() - began
        arrived = arrives(
            client_id, round_id=number, seed=self._plan.seed, dropout=self._plan.dropout
        )
        if self._method.feedback is not None:
            encoded = dict(enumerate(segments))
            self._residuals[client_id] = residual_after(
                delta,
                encoded=encoded,
                accepted=encoded.keys() if arrived else (),
                codec=self._codec,
                layout=self._sent.layout,
                feedback=True,
                decay=self._method.feedback,
            )
        control_segments, change = self._control(local, number=number, seed=seed)
        return _Made(client_id, local, segments, control_segments, change, encode_s, arrived)

    def _control(
        self, local: LocalUpdate, *, number: int, seed: int
    ) -> tuple[tuple[bytes, ...], FloatArray | None]:
        """Return the change of a client's control variate as it is sent, and what arrives of it."""
        if local.control_delta is None:
            return (), None
        segments = self._encode(
            self._sent.of(local.control_delta), None, number=number, seed=seed ^ _CONTROL_STREAM
        )
        change = np.zeros(self._sent.layout.size, dtype=np.float32)
        self._codec.accumulate(
            dict(enumerate(segments)),
            layout=self._sent.layout,
            segment_count=len(segments),
            weight=1.0,
            total=change,
        )
        return segments, self._sent.spread(change).astype(np.float32)

    def _encode(
        self, delta: FloatArray, importance: FloatArray | None, *, number: int, seed: int
    ) -> tuple[bytes, ...]:
        update_bytes_most = None
        if self._method.rate is not None:
            update_bytes_most = self._method.rate.update_bytes(
                self._sent.layout.size, round_number=number, rounds=self._plan.rounds
            )
        return self._codec.encode(
            delta,
            importance,
            layout=self._sent.layout,
            budget=Budget(update_bytes=update_bytes_most, segment_bytes=self._plan.segment_bytes),
            seed=seed,
        )

    def _client_round(self, made: _Made, number: int) -> ClientRound:
        wire = sum(
            update_bytes(
                Update(
                    client_id=made.client_id,
                    round_id=number,
                    codec=self._codec.name,
                    num_examples=made.local.num_examples,
                    steps=self._plan.local_steps,
                    segments=segments,
                )
            )
            for segments in (made.segments, made.control_segments)
            if segments
        )
        return ClientRound(
            id=made.client_id,
            bytes=made.bytes,
            wire=wire,
            train_s=made.local.train_s,
            encode_s=made.encode_s,
            arrived=made.arrived,
            examples=made.local.num_examples,
        )


def _update_bytes(made: _Made) -> int:
    return sum(map(len, made.segments))
