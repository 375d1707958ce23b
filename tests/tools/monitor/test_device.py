from __future__ import annotations

from typing import Any

import pytest

from transport import control, topics
from transport.control import DeviceState


def test_an_upload_behind_the_next_training_is_told_apart_from_it(desk: Any) -> None:
    desk.upload("a", accepted=14, sent=20, round_id=6)
    desk.training("a", 3)
    row = desk.device("a")
    assert (row["upload_round"], row["segments_accepted"]) == (6, 14)
    assert (row["train_round"], row["step"], row["steps"], row["train_loss"]) == (7, 3, 16, 2.2)


def test_segments_are_counted_over_updates(desk: Any) -> None:
    desk.upload("a", accepted=14, sent=20, resent=3, round_id=6)
    desk.upload("a", accepted=40, sent=49, resent=9, round_id=6)
    desk.upload("a", accepted=40, sent=49, resent=9, round_id=6)
    desk.upload("a", accepted=1, sent=2, round_id=7)
    row = desk.device("a")
    totals = (row["sent_total"], row["accepted_total"], row["resent_total"])
    assert totals == (51, 41, 9)
    assert row["updates_accepted"] == 1


def test_an_idle_device_waits_for_nothing(desk: Any) -> None:
    """Its last progress may be a second older than the receipt."""
    desk.round(7)
    desk.status("a", DeviceState.UPLOADING)
    desk.upload("a", accepted=14, sent=40, stalled_s=61.0)
    desk.status("a", DeviceState.IDLE)
    row = desk.device("a")
    assert (row["segments_accepted"], row["accepted_total"], row["updates_accepted"]) == (40, 40, 1)
    assert (row["attention"], row["words"]) == ("ok", "idle: its update is in")
    desk.status("a", DeviceState.UPLOADING)
    desk.status("a", DeviceState.IDLE)
    assert desk.device("a")["updates_accepted"] == 1


def test_who_waits_for_a_receipt_has_all_its_segments_accepted(desk: Any) -> None:
    """What it last told of a small update is from before the first of them was."""
    desk.round(7)
    desk.status("a", DeviceState.UPLOADING)
    desk.upload("a", accepted=0, sent=1, segments=1)
    desk.status("a", DeviceState.AWAITING_RECEIPT)
    assert desk.device("a")["segments_accepted"] == 1
    told = desk.monitor.snapshot()["round"]
    assert (told["segments_accepted"], told["segments"]) == (1, 1)


def test_a_device_that_is_paused_while_it_uploads_shows_how_far_it_really_is(desk: Any) -> None:
    """A pause lets an upload go on: its last progress is old once nothing waits any more."""
    desk.round(7)
    desk.status("a", DeviceState.UPLOADING)
    desk.upload("a", accepted=14, sent=20)
    desk.status("a", DeviceState.PAUSED, "operator: new fan; 1 update waits")
    assert desk.device("a")["segments_accepted"] == 14
    desk.upload("a", accepted=31, sent=33)
    assert desk.device("a")["segments_accepted"] == 31
    desk.status("a", DeviceState.PAUSED, "operator: new fan")
    row = desk.device("a")
    assert (row["segments_accepted"], row["accepted_total"], row["updates_accepted"]) == (40, 40, 1)
    assert (row["attention"], row["words"]) == ("paused", "paused: operator: new fan")


@pytest.mark.parametrize(
    "reason",
    [
        "operator: new fan; 2 updates wait",
        "operator; round 7 is finished first",
        "drain; 1 update waits; stalled: nothing accepted for 61 s",
    ],
)
def test_a_paused_device_that_still_sends_is_not_taken_as_done(desk: Any, reason: str) -> None:
    desk.status("a", DeviceState.UPLOADING)
    desk.upload("a", accepted=14, sent=20)
    desk.status("a", DeviceState.PAUSED, reason)
    assert desk.device("a")["segments_accepted"] == 14


def test_a_resumed_device_that_is_idle_has_nothing_left_to_send(desk: Any) -> None:
    desk.status("a", DeviceState.UPLOADING)
    desk.upload("a", accepted=14, sent=20)
    desk.status("a", DeviceState.PAUSED, "operator; 1 update waits")
    desk.status("a", DeviceState.IDLE)
    assert desk.device("a")["segments_accepted"] == 40


def test_a_new_session_is_a_restart_and_the_same_one_is_not(desk: Any) -> None:
    for session in ("one", "one", "two"):
        desk.status("a", DeviceState.IDLE, session=session)
    assert desk.device("a")["restarts"] == 1


def test_speed_is_seen_where_it_is_not_told(desk: Any) -> None:
    """10 segments of 32 KiB were sent in 10 s, half of which was accepted."""
    desk.status("a", DeviceState.UPLOADING)
    desk.upload("a", accepted=0, sent=0)
    desk.now += 1
    desk.upload("a", accepted=1, sent=1)
    assert desk.device("a")["goodput_bps"] is None
    desk.now += 9
    desk.upload("a", accepted=5, sent=10)
    assert desk.device("a")["goodput_bps"] == 8 * 32_768 // 2


def test_what_it_is_and_feels_and_spends(desk: Any) -> None:
    desk.telemetry("a", power_w=9.8, temp_c=52.5, power_mode="15W", disk_free_mb=80_640)
    profile = control.DeviceProfile(
        "Orin", "0.1.0", "3.10", "2.8", "12.6", 7620, 1840, 204, "9f", jetpack="6"
    )
    desk.hear(topics.DeviceTopic("a", "info"), profile)
    energy = control.EnergyReport("run", 7, 3480.2, None, None, 1.0, 2.0, 3.0, 4.0, 0.0)
    desk.hear(topics.DeviceTopic("a", "energy"), energy)
    desk.hear(topics.Response("a", "eval", "6"), control.EvalResponse("run", 6, 2.04, 11_264, 9))
    row = desk.device("a")
    expected = {
        "power_w": 9.8, "temp_c": 52.5, "power_mode": "15W", "board": "Orin", "ram_mb": 7620,
        "jetpack": "6", "energy_j": 3480.2, "energy_round": 7, "eval_version": 6, "eval_loss": 2.04,
        "disk_free_mb": 80_640, "on_mains": None,
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected


def test_an_evaluation_that_failed_is_none(desk: Any) -> None:
    response = control.EvalResponse("run", 6, 0.0, 0, 0, reason="stale")
    desk.hear(topics.Response("a", "eval", "6"), response)
    assert desk.device("a")["eval_loss"] is None


def test_an_answer_tells_the_speed_and_the_size_to_come(desk: Any) -> None:
    response = control.TrainResponse("run", 7, True, "", 310_000, 13.8, 180_000.0)  # noqa: FBT003 - a message's fields
    desk.hear(topics.Response("a", "train", "7"), response)
    row = desk.device("a")
    assert (row["goodput_bps"], row["update_bytes"]) == (180_000, 310_000)


def test_its_figures_are_kept_over_time(desk: Any) -> None:
    for temp_c in (50.0, 60.0):
        desk.telemetry("a", temp_c=temp_c, power_w=9.5)
        desk.now += 10
    assert desk.monitor.history("a") == {
        "goodput_bps": [],
        "power_w": [[1000.0, 9.5], [1010.0, 9.5]],
        "temp_c": [[1000.0, 50.0], [1010.0, 60.0]],
    }
    assert desk.monitor.history("nobody") is None


@pytest.mark.parametrize("leaf", ["info", "energy"])
def test_only_a_cleared_status_takes_a_device_away(desk: Any, leaf: str) -> None:
    desk.status("a", DeviceState.IDLE)
    desk.hear(topics.DeviceTopic("a", leaf), None)
    assert "a" in desk.monitor.snapshot()["devices"]
    desk.monitor.changes()
    desk.hear(topics.DeviceTopic("a", "status"), None)
    changes = desk.monitor.changes()
    assert changes["devices.a"] is None
    assert changes["fleet"]["devices"] == 0
