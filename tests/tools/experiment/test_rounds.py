"""The round loop on a fleet whose clients each want another point: no model, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from codec.codec import FloatArray
from codec.errors import CorruptSegment
from codec.layout import Layout
from codec.reference.dense import Dense
from codec.registry import codec_named
from tools.experiment.fleet import Control, Evaluation, LocalUpdate, TrialFailed
from tools.experiment.local_options import LocalOptions
from tools.experiment.methods import parse_method
from tools.experiment.rounds import Plan, Point, arrives, play
from tools.experiment.wire import snapshot_bytes

LAYOUT = Layout.from_shapes({"m.lora_A.weight": (16, 20), "m.lora_B.weight": (40, 8)})
PLAN = Plan(
    rounds=6, cohort=2, dropout=0.0, segment_bytes=1024, local_steps=4, evaluate_every=1, seed=3
)


@dataclass
class Wishes:
    """Each client's local training goes half the way to the point that it wants."""

    layout: Layout = LAYOUT
    client_ids: tuple[str, ...] = ("a", "b", "c", "d")
    importance: FloatArray | None = None
    trained: list[tuple[str, int, LocalOptions]] = field(default_factory=list)
    controls: list[Control | None] = field(default_factory=list)

    def wish(self, client_id: str) -> FloatArray:
        generator = np.random.default_rng(ord(client_id))
        common = np.random.default_rng(0).normal(size=self.layout.size)
        return (common + 0.1 * generator.normal(size=self.layout.size)).astype(np.float32)

    def start(self) -> FloatArray:
        return np.zeros(self.layout.size, dtype=np.float32)

    def train(
        self,
        client_id: str,
        adapter: FloatArray,
        *,
        seed: int,
        options: LocalOptions,
        control: Control | None,
    ) -> LocalUpdate:
        self.trained.append((client_id, seed, options))
        self.controls.append(control)
        delta = ((self.wish(client_id) - adapter) / 2).astype(np.float32)
        change = None if control is None else np.ones_like(delta)
        return LocalUpdate(delta, self.importance, 100, 0.5, change)

    def evaluate(self, adapter: FloatArray) -> Evaluation:
        distances = [np.mean((self.wish(name) - adapter) ** 2) for name in self.client_ids]
        return Evaluation(float(np.mean(distances)), 0.25)


class Broken(Wishes):
    def evaluate(self, adapter: FloatArray) -> Evaluation:
        return Evaluation(math.nan if adapter.any() else 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Damaging(Dense):
    """A codec whose own bytes do not decode."""

    def accumulate(self, *_: object, **__: object) -> float:
        raise CorruptSegment("damaged")


def ticks() -> float:
    return 0.0


def points(text: str, *, plan: Plan = PLAN, fleet: Wishes | None = None) -> list[Point]:
    method = parse_method(text)
    return [
        point
        for point, _ in play(
            method,
            codec=codec_named(method.codec),
            fleet=fleet or Wishes(),
            plan=plan,
            clock=ticks,
        )
    ]


def losses(run: list[Point]) -> list[float]:
    return [point.evaluation.loss for point in run if point.evaluation is not None]


def test_a_trial_has_a_point_before_the_first_round_and_one_after_each() -> None:
    run = points("fp32")
    assert [point.round for point in run] == list(range(PLAN.rounds + 1))
    assert (run[0].bytes_up, run[0].wire_up, run[0].bytes_down, run[0].clients) == (0, 0, 0, ())
    assert run[0].evaluation == Wishes().evaluate(Wishes().start())


@pytest.mark.parametrize(
    "text",
    [
        "fp32",
        "top-k@4,ef",
        "fstq-r@2",
        "fp32,momentum=0.3",
        "fp32,server=fedadam,tau=0.1,step=0.5",
        "fp32,scaffold",
    ],
)
def test_the_loss_falls_as_far_as_the_clients_agree(text: str) -> None:
    found = losses(points(text, plan=replace(PLAN, rounds=15)))
    assert found[-1] < found[0] / 5


def test_the_same_trial_gives_the_same_points() -> None:
    assert points("fstq-r@1", plan=replace(PLAN, dropout=0.3)) == points(
        "fstq-r@1", plan=replace(PLAN, dropout=0.3)
    )


def test_every_method_has_the_same_cohorts_seeds_and_dropouts() -> None:
    plan = replace(PLAN, dropout=0.4)
    seen = []
    for text in ("fp32", "eden@1", "top-k@1,ef", "fp32,scaffold"):
        fleet = Wishes()
        run = points(text, plan=plan, fleet=fleet)
        arrivals = [(each.id, each.arrived) for point in run for each in point.clients]
        seen.append(([(name, seed) for name, seed, _ in fleet.trained], arrivals))
    assert all(each == seen[0] for each in seen)
    assert {arrived for _, arrived in seen[0][1]} == {True, False}


def test_clients_train_with_the_methods_options() -> None:
    fleet, method = Wishes(), parse_method("fp32,mask=random,ratio=0.4,prox=0.1")
    points(str(method), fleet=fleet)
    assert {options for _, _, options in fleet.trained} == {method.local}


def test_bytes_are_of_what_arrived_segments_and_whole_messages() -> None:
    run = points("eden@1", plan=replace(PLAN, dropout=0.4))
    for before, after in pairwise(run):
        arrived = [each for each in after.clients if each.arrived]
        assert after.bytes_up - before.bytes_up == sum(each.bytes for each in arrived)
        assert after.wire_up - before.wire_up == sum(each.wire for each in arrived)
    assert run[-1].wire_up > run[-1].bytes_up


def test_every_client_of_a_cohort_fetches_the_adapter() -> None:
    run = points("fp32", plan=replace(PLAN, dropout=0.9))
    first = snapshot_bytes(Wishes().start(), layout=LAYOUT, segment_bytes=1024)
    assert run[1].bytes_down == 2 * first


@pytest.mark.parametrize("text", ["fstq@2", "fstq-r@1:4"])
def test_no_round_takes_more_than_its_budget(text: str) -> None:
    method, run = parse_method(text), points(text)
    assert method.rate is not None
    for point in run[1:]:
        most = method.rate.update_bytes(LAYOUT.size, round_number=point.round, rounds=PLAN.rounds)
        assert all(0 < each.bytes <= most for each in point.clients)


def test_where_nothing_arrives_the_adapter_stays_as_it_is() -> None:
    for seed in range(100):
        plan = replace(PLAN, rounds=1, dropout=0.6, seed=seed)
        run = points("fp32,momentum=0.9", plan=plan)
        if not any(each.arrived for each in run[1].clients):
            assert run[1].evaluation == run[0].evaluation
            assert run[1].bytes_up == 0
            return
    pytest.fail("in none of a hundred rounds was everything lost")


def test_who_is_lost_at_one_dropout_is_lost_at_every_higher_one() -> None:
    names = [f"c{number}" for number in range(500)]
    there = [
        {name for name in names if arrives(name, round_id=1, seed=0, dropout=dropout)}
        for dropout in (0.0, 0.3, 0.7)
    ]
    assert len(there[0]) == 500
    assert there[2] < there[1] < there[0]
    assert 300 < len(there[1]) < 400
    assert 100 < len(there[2]) < 200


class Once(Wishes):
    """Clients of which the first that is asked learns something, and nobody anything after it."""

    def train(
        self,
        client_id: str,
        adapter: FloatArray,
        *,
        seed: int,
        options: LocalOptions,
        control: Control | None,  # noqa: ARG002  # the fleet's own signature
    ) -> LocalUpdate:
        whole = self.wish(client_id) if not self.trained else np.zeros_like(adapter)
        self.trained.append((client_id, seed, options))
        return LocalUpdate(whole, None, 1, 0.0)


def adapters(text: str, plan: Plan) -> list[FloatArray]:
    method = parse_method(text)
    trial = play(
        method,
        codec=codec_named(method.codec),
        fleet=Once(client_ids=("a",)),
        plan=plan,
        clock=ticks,
    )
    return [adapter for _, adapter in trial]


@pytest.mark.parametrize(("text", "share"), [("fp32", 0.0), ("fp32,ef", 1.0), ("fp32,ef=0.5", 0.5)])
def test_with_feedback_a_lost_update_comes_later(text: str, share: float) -> None:
    seed = next(
        seed
        for seed in range(1000)
        if not arrives("a", round_id=1, seed=seed, dropout=0.5)
        and arrives("a", round_id=2, seed=seed, dropout=0.5)
    )
    plan = replace(PLAN, rounds=2, cohort=1, dropout=0.5, seed=seed)
    _, first, second = adapters(text, plan)
    assert not first.any()
    np.testing.assert_allclose(second, share * Once().wish("a"), rtol=1e-6)


def test_feedback_sends_in_the_end_what_few_bits_drop() -> None:
    plan = replace(PLAN, rounds=20, cohort=1)
    wish = Once().wish("a")
    missing = {
        text: float(np.linalg.norm(adapters(text, plan)[-1] - wish) / np.linalg.norm(wish))
        for text in ("top-k@2", "top-k@2,ef")
    }
    assert missing["top-k@2"] > 0.5
    assert missing["top-k@2,ef"] < 0.1


def test_with_a_frozen_only_b_moves_and_only_b_is_paid_for() -> None:
    method = parse_method("fp32,freeze=A")
    trial = list(play(method, codec=codec_named("fp32"), fleet=Wishes(), plan=PLAN, clock=ticks))
    point, adapter = trial[-1]
    tensors = LAYOUT.unflatten(adapter)
    assert not tensors["m.lora_A.weight"].any()
    assert tensors["m.lora_B.weight"].any()
    assert point.clients[0].bytes < 0.6 * points("fp32")[-1].clients[0].bytes


def test_control_variates_are_paid_for_both_ways() -> None:
    plain, controlled = points("fp32")[-1], points("fp32,scaffold")[-1]
    assert controlled.bytes_up == 2 * plain.bytes_up
    assert controlled.bytes_down > plain.bytes_down


def test_control_variates_are_of_those_whose_updates_arrived() -> None:
    fleet = Wishes()
    run = points("fp32,scaffold", plan=replace(PLAN, dropout=0.5), fleet=fleet)
    counts = dict.fromkeys(fleet.client_ids, 0)
    seen = iter(fleet.controls)
    for point in run[1:]:
        total = sum(counts.values())
        for each in point.clients:
            control = next(seen)
            assert control is not None
            np.testing.assert_allclose(control.client, counts[each.id])
            np.testing.assert_allclose(control.server, total / 4)
        for each in point.clients:
            counts[each.id] += each.arrived


def test_only_some_rounds_are_evaluated_where_so_asked_and_always_the_last() -> None:
    run = points("fp32", plan=replace(PLAN, rounds=5, evaluate_every=3))
    evaluated = [point.round for point in run if point.evaluation is not None]
    assert evaluated == [0, 3, 5]


def test_a_loss_that_is_no_number_fails_the_trial() -> None:
    with pytest.raises(TrialFailed, match="held-out loss is nan"):
        points("fp32", fleet=Broken())


def test_an_importance_that_is_no_number_fails_the_trial() -> None:
    fleet = Wishes(importance=np.full(LAYOUT.size, np.nan, dtype=np.float32))
    with pytest.raises(TrialFailed, match="round 1, "):
        points("fstq@2", fleet=fleet)


def test_an_update_that_does_not_decode_fails_the_trial() -> None:
    trial = play(
        parse_method("fp32"), codec=Damaging("any"), fleet=Wishes(), plan=PLAN, clock=ticks
    )
    with pytest.raises(TrialFailed, match="was refused"):
        list(trial)
