from __future__ import annotations

from typing import Any

from tools.evidence.measured import (
    inference_sheet,
    inference_verdicts,
    overhead_sheet,
    overhead_verdicts,
    replay_sheet,
    rows_of,
)

OVERHEAD: dict[str, Any] = {
    "model": "tiny",
    "mask": "off",
    "time_ratio": 1.02,
    "time_ratio_low": 1.01,
    "time_ratio_high": 1.04,
    "memory_ratio": 1.05,
}
INFERENCE: dict[str, Any] = {
    "workload": "med",
    "model": "tiny",
    "selection": "scores",
    "positions": "original",
    "keep_ratio": 0.5,
    "new_tokens": 16,
    "end_to_end_speedup": 1.6,
    "end_to_end_speedup_low": 1.5,
    "end_to_end_speedup_high": 1.7,
    "span_tokens": 1,
    "relative_loss_change": 0.01,
    "relative_accuracy_change": -0.02,
}


def test_rows_are_those_of_files_of_their_kind() -> None:
    files: dict[str, dict[str, Any]] = {
        "overhead": {"kind": "overhead", "command": "c", "rows": [{"a": 1}, "no row"]},
        "other": {"kind": "other", "rows": [{"a": 2}]},
        "broken": {"kind": "overhead", "rows": 3},
    }
    assert rows_of(files, "overhead") == [{"a": 1, "command": "c"}]


def test_overhead_is_judged_by_time_and_by_memory() -> None:
    rows = [OVERHEAD, OVERHEAD | {"time_ratio": 1.04}, OVERHEAD | {"memory_ratio": 1.2}, {}]
    found = overhead_verdicts(rows)
    assert [each.reached for each in found] == [True, False, False, None]
    assert found[0].found == "2.0 % of time, 5.0 % of memory"
    assert found[0].span == "1.0 % to 4.0 %"
    shown = overhead_sheet(rows).rows
    assert abs(shown[1]["time"] - 0.04) < 1e-9
    assert shown[3]["time"] is None


def test_inference_is_judged_by_the_fastest_that_keeps_the_quality() -> None:
    worse = INFERENCE | {"end_to_end_speedup": 3.0, "relative_loss_change": 0.2}
    blind = INFERENCE | {"end_to_end_speedup": 9.0, "keep_ratio": 0.0}
    whole = INFERENCE | {"selection": "none", "end_to_end_speedup": 10.0}
    slow = INFERENCE | {"end_to_end_speedup": 1.2}
    found, by_accuracy = inference_verdicts([whole, worse, blind, slow, INFERENCE])
    assert found.reached
    assert by_accuracy.found == "nothing keeps the quality"
    right = INFERENCE | {"end_to_end_speedup": 2.0, "relative_accuracy_change": -0.01}
    assert inference_verdicts([right | {"relative_loss_change": 0.5}])[1].reached
    assert "less token accuracy" in by_accuracy.goal
    assert (found.found, found.where) == ("1.60×", "med, tiny")  # noqa: RUF001  # the sign that is meant
    assert found.span == "1.50 to 1.70"
    assert inference_verdicts([slow])[0].reached is False
    assert inference_verdicts([worse])[0].found == "nothing keeps the quality"
    assert inference_verdicts([whole]) == []
    assert inference_sheet([INFERENCE, {}]).rows[1]["end_to_end_span"] is None


def test_of_several_ways_to_drop_the_same_tokens_the_best_is_shown() -> None:
    spans = INFERENCE | {"span_tokens": 16, "relative_loss_change": 0.002}
    fewer = INFERENCE | {"keep_ratio": 0.4, "relative_loss_change": 0.05}
    shown = inference_sheet([INFERENCE, spans, fewer]).rows
    assert [(row["keep_ratio"], row["span_tokens"]) for row in shown] == [(0.5, 16), (0.4, 1)]


def test_real_links_stand_beside_the_model() -> None:
    sheet = replay_sheet(
        [{"method": "fp32", "slowest_rate_bps": 517_804.0, "measured_s": 36.3}, {}]
    )
    assert sheet.rows[0]["slowest_mbit_s"] == 0.517804
    assert "slowest_mbit_s" not in sheet.rows[1]
    assert {"modelled_s", "measured_s", "command"} <= {column.key for column in sheet.columns}
