from __future__ import annotations

from typing import Any

from tools.monitor.alerts import MAX_ALERTS, MAX_LOGGED


def test_an_alert_stands_until_it_is_cleared_and_stays_in_the_log(desk: Any) -> None:
    desk.alert("stalled", "no progress: a uploading", "a")
    desk.now += 10
    desk.alert("stalled", "no progress: a uploading, b offline", "a", count=2)
    snapshot = desk.monitor.snapshot()
    standing = {
        "code": "stalled", "severity": "warning", "count": 2, "client_id": "a",
        "text": "no progress: a uploading, b offline", "raised_s": 1000.0,
    }  # fmt: skip
    assert snapshot["alerts"] == {"stalled": standing}
    assert snapshot["alert_log"] == {"1": {**standing, "cleared_s": None}}
    desk.now += 10
    desk.clear("stalled")
    desk.clear("stalled")
    snapshot = desk.monitor.snapshot()
    assert snapshot["alerts"] == {}
    assert snapshot["alert_log"] == {"1": {**standing, "cleared_s": 1020.0}}


def test_an_alert_that_comes_back_is_another_entry(desk: Any) -> None:
    for _ in range(2):
        desk.alert("stalled", "again")
        desk.clear("stalled")
    assert list(desk.monitor.snapshot()["alert_log"]) == ["1", "2"]


def test_neither_alerts_nor_their_log_grow_without_end(desk: Any) -> None:
    for number in range(2 * MAX_ALERTS):
        desk.alert(f"refused-{number}", "x" * 60_000)
    for _ in range(2 * MAX_LOGGED):
        desk.alert("refused-0", "x")
        desk.clear("refused-0")
    snapshot = desk.monitor.snapshot()
    assert len(snapshot["alerts"]) <= MAX_ALERTS
    assert len(snapshot["alert_log"]) == MAX_LOGGED
    assert snapshot["observer"]["alerts_left_out"] == MAX_ALERTS
    assert max(len(one["text"]) for one in snapshot["alerts"].values()) <= 240
