from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.bench.curves import Curve
from tools.evidence.commands import axes_of
from tools.evidence.reading import RoundRecord, Trial, read_folder
from tools.evidence.targets import (
    Comparison,
    compare,
    compare_all,
    loss_at_bytes,
    place_of,
    target_of,
    value_at,
)

Make = Callable[..., Any]


def test_the_target_is_the_running_minimum_after_a_share_of_the_rounds(trial_of: Make) -> None:
    trial = trial_of([4.0, 3.0, 3.5, 2.0, 1.0], [0, 1, 2, 3, 4])
    assert target_of(trial, share=0.5) == 3.0
    assert target_of(trial, share=0.625) == pytest.approx(2.5)
    assert target_of(trial, share=1.0) == 1.0


def test_a_loss_is_reached_on_the_line_from_the_lowest_before(trial_of: Make) -> None:
    trial = trial_of([4.0, 3.0, 3.5, 2.0], [0, 10, 20, 30])
    assert place_of(trial, 2.5) == pytest.approx(2.5)
    assert value_at([0, 10, 20, 30], 2.5) == pytest.approx(25.0)
    assert place_of(trial, 4.5) == 0.0
    assert place_of(trial, 1.9) is None


def test_rounds_without_an_evaluation_are_passed_over(trial_of: Make) -> None:
    trial = trial_of([4.0, None, 2.0], [0, 10, 40])
    assert place_of(trial, 3.0) == pytest.approx(1.0)
    assert target_of(trial, share=0.5) == pytest.approx(3.0)


def test_the_baseline_reaches_its_own_target_where_it_was_set(trial_of: Make) -> None:
    trial = trial_of([4.0, 3.0, 2.5, 2.2, 2.0], [0, 1, 2, 3, 4])
    assert place_of(trial, target_of(trial, share=0.5)) == pytest.approx(2.0)


@given(
    losses=st.lists(st.floats(1, 5), min_size=2, max_size=12),
    share=st.floats(0, 1),
)
@settings(deadline=None, max_examples=60)
def test_bytes_are_read_as_the_codec_benchmark_reads_them(
    losses: list[float], share: float
) -> None:
    sent = tuple(7.0 * at for at in range(len(losses)))
    records = tuple(
        RoundRecord(at, loss, None, count, count, 0, ())
        for at, (loss, count) in enumerate(zip(losses, sent, strict=True))
    )
    settings_ = {"method": "m", "seed": 0, "workload": "w", "rounds": len(losses) - 1}
    trial = Trial(settings_, "", "", "", {}, "", "", records, {}, (), "", Path("x"))
    curve = Curve(tuple(losses), tuple(losses), tuple(losses), sent)
    target = target_of(trial, share=share)
    assert target == pytest.approx(curve.loss_after(share))
    place, expected = place_of(trial, target), curve.bytes_to(target)
    assert place is not None
    assert expected is not None
    assert value_at(sent, place) == pytest.approx(expected)


def test_what_was_not_reached_is_kept_apart_with_the_bytes_it_has_sent(
    tmp_path: Path, trial_file: Make
) -> None:
    trial_file(tmp_path)
    trial_file(tmp_path, method="qsgd", speed=0.1)
    trial_file(tmp_path, method="stc@0.1", failure="diverged")
    trials = read_folder(tmp_path).trials
    found = compare(trials, axes_of(trials)).by_text
    assert not found["qsgd"].reached
    assert not found["qsgd"].always_reached
    assert found["qsgd"].least_bytes() == {0: 20 * 3 * 10_000}
    assert found["stc@0.1"].runs == 1
    assert not found["stc@0.1"].outcomes
    assert [trial.failure for trial in found["stc@0.1"].failed] == ["diverged"]


def test_a_seed_whose_baseline_failed_has_no_target_and_is_named(
    tmp_path: Path, trial_file: Make
) -> None:
    trial_file(tmp_path, seed=0)
    trial_file(tmp_path, seed=1, failure="diverged")
    for seed in (0, 1, 2):
        trial_file(tmp_path, seed=seed, method="fp16")
    trials = read_folder(tmp_path).trials
    (found,) = compare_all(trials)
    assert found.seeds == (0,)
    assert sorted(trial.seed for trial in found.untargeted) == [1, 2]
    assert list(found.by_text["fp16"].outcomes) == [0]


def test_a_baseline_that_does_not_learn_sets_no_target(tmp_path: Path, trial_file: Make) -> None:
    trial_file(tmp_path, speed=0.0)
    trial_file(tmp_path, method="fp16")
    (found,) = compare_all(read_folder(tmp_path).trials)
    assert found.targets == {}
    assert len(found.untargeted) == 2


def test_settings_and_experiments_are_compared_apart(tmp_path: Path, trial_file: Make) -> None:
    trial_file(tmp_path)
    trial_file(tmp_path, alpha=1.0)
    trial_file(tmp_path, experiment="other")
    found = compare_all(read_folder(tmp_path).trials)
    assert [(each.experiment, each.setting["alpha"]) for each in found] == [
        ("other", 0.1), ("uplink", 0.1), ("uplink", 1.0),
    ]  # fmt: skip


def test_equal_bytes_per_round_divide_by_the_rate(comparison: Comparison) -> None:
    """fp16 learns as fp32 does here and sends half, so that it takes half."""
    reference = comparison.reference
    assert reference is not None
    half = comparison.by_text["fp16"].reached
    assert reference.always_reached
    for seed, sent in reference.reached.items():
        assert sent == pytest.approx(10 * 3 * 400_000, rel=1e-6)
        assert half[seed] < sent


def test_the_lowest_loss_at_some_bytes_is_none_beyond_the_last(trial_of: Make) -> None:
    trial = trial_of([4.0, 2.0, 3.0], [0, 10, 20])
    assert loss_at_bytes(trial, 5) == pytest.approx(3.0)
    assert loss_at_bytes(trial, 20) == 2.0
    assert loss_at_bytes(trial, 21) is None
    assert value_at([0.0, 1.0, 5.0], 1.5) == pytest.approx(3.0)
