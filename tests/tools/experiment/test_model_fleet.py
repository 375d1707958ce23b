"""The fleet of a trial: its clients, its held-out loss, and that it is always the same."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from agent.adapter import AdaptedModel
from agent.evaluate import evaluate
from agent.tokens import Row
from tools.demo.options import BASE_FOLDER
from tools.experiment import model_fleet
from tools.experiment.fleet import Fleet, TrialFailed
from tools.experiment.local_options import LocalOptions, TokenMask
from tools.experiment.merging import MergingUnsupported
from tools.experiment.model_fleet import FleetSettings, ModelFleet, open_fleet
from transport.control import TrainingPlan

pytestmark = pytest.mark.torch
PLAN = TrainingPlan(local_steps=1, batch_size=2, max_tokens=24, learning_rate=1e-3)
SETTINGS = FleetSettings(
    model=str(BASE_FOLDER),
    workload="stdlib",
    data=None,
    alpha=0.1,
    clients=12,
    heldout_rows=20,
    rank=2,
    lora_alpha=4,
    target_modules=("q_proj", "v_proj"),
    plan=PLAN,
)
Start = Callable[[AdaptedModel], np.ndarray[tuple[int], np.dtype[np.float32]]]


def tiny(
    tiny_model: Callable[[], AdaptedModel], rows: list[Row], start: Start, plan: TrainingPlan = PLAN
) -> ModelFleet:
    model = tiny_model()
    return ModelFleet(
        model,
        start=start(model),
        rows={"c01": tuple(rows[:6]), "c00": tuple(rows[6:])},
        heldout=rows,
        plan=plan,
    )


def test_evaluation_is_the_agents_own(
    tiny_model: Callable[[], AdaptedModel], tiny_rows: list[Row], tiny_start: Start
) -> None:
    fleet: Fleet = tiny(tiny_model, tiny_rows, tiny_start)
    found = fleet.evaluate(fleet.start())
    model = tiny_model()
    model.load_flat(fleet.start())
    expected = evaluate(model.base, tiny_rows, rows_at_once=4)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.accuracy == expected.correct / expected.tokens
    assert fleet.client_ids == ("c00", "c01")


def test_the_token_order_is_of_every_held_out_target_and_leaves_no_trace(
    tiny_model: Callable[[], AdaptedModel], tiny_rows: list[Row], tiny_start: Start
) -> None:
    fleet = tiny(tiny_model, tiny_rows, tiny_start)
    before = fleet.evaluate(fleet.start())

    def order(mask: TokenMask, seed: int = 3) -> list[int]:
        options = LocalOptions(mask=mask)
        return fleet.token_order(fleet.start(), seed=seed, options=options)

    plain = order(TokenMask.OFF)
    targets = {int(each) for row in tiny_rows for each in row.ids[row.learnt]}
    assert set(plain) == targets
    assert len(plain) == len(targets)
    assert order(TokenMask.OFF) == order(TokenMask.HARD) == plain
    assert order(TokenMask.RANDOM) != order(TokenMask.RANDOM, seed=4)
    assert order(TokenMask.GRADIENT_NORM) != plain
    assert fleet.evaluate(fleet.start()) == before


def test_a_model_whose_positions_cannot_be_merged_fails_the_trial(
    tiny_model: Callable[[], AdaptedModel],
    tiny_rows: list[Row],
    tiny_start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsupported(model: object, *, share: float) -> None:
        raise MergingUnsupported(f"{share} of {type(model).__name__}")

    monkeypatch.setattr(model_fleet, "MergedLoss", unsupported)
    fleet = tiny(tiny_model, tiny_rows, tiny_start)
    with pytest.raises(TrialFailed, match=r"merge: 0\.4 of"):
        fleet.train("c00", fleet.start(), seed=3, options=LocalOptions(merge=0.4), control=None)


def test_training_is_the_same_whoever_was_trained_or_evaluated_before(
    tiny_model: Callable[[], AdaptedModel], tiny_rows: list[Row], tiny_start: Start
) -> None:
    fleet = tiny(tiny_model, tiny_rows, tiny_start)

    def delta(client_id: str, *, merge: float = 0.0) -> bytes:
        update = fleet.train(
            client_id, fleet.start(), seed=3, options=LocalOptions(merge=merge), control=None
        )
        return update.delta.tobytes()

    first = delta("c00")
    assert delta("c01") != first
    assert delta("c00", merge=0.4) != first
    assert delta("c00", merge=0.4) == delta("c00", merge=0.4)
    fleet.evaluate(fleet.start() * np.float32(2))
    assert delta("c00") == first


def test_divergence_is_a_result_of_the_trial(
    tiny_model: Callable[[], AdaptedModel], tiny_rows: list[Row], tiny_start: Start
) -> None:
    plan = dataclasses.replace(PLAN, learning_rate=1.0, clip_norm=0.0)
    fleet = tiny(tiny_model, tiny_rows, tiny_start, plan)
    start = fleet.start() * np.float32(1e25)
    with pytest.raises(TrialFailed, match=r"^diverged: c00: .*lower the learning rate"):
        fleet.train("c00", start, seed=3, options=LocalOptions(), control=None)


def test_the_demos_model_and_texts_make_a_fleet() -> None:
    fleet = open_fleet(SETTINGS, seed=1)
    assert fleet.client_ids[:2] == ("c00", "c01")
    assert len(fleet.client_ids) == 12
    start = fleet.start()
    # B is zero: version 0 is the base model.
    assert math.isfinite(fleet.evaluate(start).loss)
    assert fleet.evaluate(start) == fleet.evaluate(start * np.float32(2))
    update = fleet.train("c03", start, seed=1, options=LocalOptions(), control=None)
    assert update.delta.any()
    assert update.num_examples > 10
    again = open_fleet(SETTINGS, seed=1)
    assert again.start().tobytes() == start.tobytes()
    same = again.train("c03", start, seed=1, options=LocalOptions(), control=None)
    assert same.delta.tobytes() == update.delta.tobytes()
    other = open_fleet(SETTINGS, seed=2)
    assert other.start().tobytes() != start.tobytes()
    assert other.evaluate(start) == fleet.evaluate(start), "held-out rows are always the same"


def test_a_bfloat16_base_is_nearly_the_same_model() -> None:
    full = open_fleet(SETTINGS, seed=1)
    expected = full.evaluate(full.start())
    half = open_fleet(dataclasses.replace(SETTINGS, dtype="bfloat16"), seed=1)
    assert half.evaluate(half.start()).loss == pytest.approx(expected.loss, abs=0.02)
