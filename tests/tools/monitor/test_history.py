from __future__ import annotations

from typing import Any

from tools.monitor.history import MAX_ROUNDS
from transport import control, topics


def test_savings_are_sums_over_the_rounds_that_were_seen(desk: Any) -> None:
    empty = desk.monitor.snapshot()["savings"]
    assert (empty["rounds"], empty["times"], empty["words"]) == (0, None, "no round has closed yet")
    desk.summary(1, energy_j=10.5)
    desk.summary(2)
    savings = desk.monitor.snapshot()["savings"]
    assert savings == {
        "rounds": 2, "bytes_up": 2_000, "bytes_up_payload": 1_800, "bytes_up_fp32": 32_000,
        "bytes_down": 4_000, "seconds": 200.0, "times": 16.0, "saved_pct": 93.8, "energy_j": 10.5,
        "words": "2.00 kB up in 2 rounds instead of 32.0 kB: 16.0 times less",
    }  # fmt: skip
    assert empty.keys() == savings.keys()


def test_a_round_counts_once_and_by_its_last_word(desk: Any) -> None:
    desk.summary(1)
    desk.summary(1)
    desk.summary(1, bytes_up=500)
    savings = desk.monitor.snapshot()["savings"]
    assert (savings["rounds"], savings["bytes_up"], savings["times"]) == (1, 500, 32.0)


def test_a_codec_that_saves_nothing_is_not_praised(desk: Any) -> None:
    desk.summary(1, bytes_up=32_000)
    words = desk.monitor.snapshot()["savings"]["words"]
    assert words == "32.0 kB up in 1 round, 16.0 kB for dense fp32"


def test_losses_are_told_by_version(desk: Any) -> None:
    desk.summary(6)
    model = control.ModelStatus("5f0c9d1e7a324b6f8c1d2e3f4a5b6c7d", 6, "3e", 100, 4, 2.25, 0.52)
    desk.hear(topics.Model(), model)
    assert desk.monitor.snapshot()["losses"] == {
        "5": {"version": 5, "eval_loss": 2.3, "eval_accuracy": 0.5, "train_loss": None},
        "6": {"version": 6, "eval_loss": 2.25, "eval_accuracy": 0.52, "train_loss": 2.2},
    }


def test_a_round_without_losses_has_none(desk: Any) -> None:
    desk.summary(1, train_loss=None, eval_loss=None, eval_accuracy=None, eval_version=-1)
    snapshot = desk.monitor.snapshot()
    assert snapshot["losses"] == {}
    assert snapshot["rounds"]["1"]["eval_version"] is None


def test_a_version_below_0_has_no_loss(desk: Any) -> None:
    desk.summary(1, eval_version=-1, train_loss=None)
    assert desk.monitor.snapshot()["losses"] == {}


def test_a_long_run_is_thinned_and_its_sums_are_not(desk: Any) -> None:
    for round_id in range(1, 2_001):
        desk.summary(round_id, energy_j=1.0)
    desk.summary(3)  # one that is counted already, and no longer kept
    snapshot = desk.monitor.snapshot()
    assert len(snapshot["rounds"]) <= MAX_ROUNDS
    assert len(snapshot["losses"]) <= MAX_ROUNDS
    assert {"1", "2000"} <= snapshot["rounds"].keys()
    savings = snapshot["savings"]
    assert savings["rounds"] == 2_000
    assert savings["bytes_up"] == 2_000_000
    assert savings["energy_j"] == 2_000.0


def test_the_refused_are_told_up_to_a_bound(desk: Any) -> None:
    desk.summary(1, refused={f"reason-{number}": 1 for number in range(2_000)})
    assert len(desk.monitor.snapshot()["rounds"]["1"]["refused"]) == 16
