"""Scripts of what a device says, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from tools.monitor.alerts import FRESH_S
from tools.monitor.attention import LOST_S, SILENT_S, STILL_AT_FIRST_S, STILL_S
from transport import control, topics
from transport.control import DeviceState

IDLE, TRAINING, UPLOADING = DeviceState.IDLE, DeviceState.TRAINING, DeviceState.UPLOADING


def answer(desk: Any, name: str, reason: str, *, accepted: bool = False) -> None:
    response = control.TrainResponse("run", 7, accepted, reason)
    desk.hear(topics.Response(name, "train", "7"), response)


# What it does -------------------------------------------------------------------------------------


def test_an_upload_is_told_with_its_speed_and_its_repeats(desk: Any) -> None:
    desk.status("a", UPLOADING)
    assert desk.told("a") == ("ok", "uploads")
    desk.telemetry("a", goodput_bps=12_000.0)
    assert desk.told("a") == ("ok", "uploads at 12 kbit/s")
    desk.upload("a", accepted=14, sent=60, resent=9)
    assert desk.told("a") == ("ok", "uploads at 12 kbit/s, 14 of 40 segments; 9 sent twice")


def test_a_training_is_told_by_steps_and_time_left(desk: Any) -> None:
    desk.status("a", TRAINING)
    assert desk.told("a") == ("ok", "training: begins")
    desk.training("a", 3, eta_s=40.0)
    assert desk.told("a") == ("ok", "training: step 3 of 16, 40 s left")
    desk.training("a", 4, out_of_memory=2)
    assert desk.told("a") == ("ok", "training: step 4 of 16, out of memory 2 times")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (IDLE, "idle"),
        (DeviceState.FETCHING, "fetches the adapter"),
        (
            DeviceState.AWAITING_RECEIPT,
            "sent all of 40 segments, waits for the receipt",
        ),
    ],
)
def test_other_states_have_words(desk: Any, state: DeviceState, words: str) -> None:
    desk.upload("a", accepted=40, sent=40)
    desk.status("a", state)
    assert desk.told("a") == ("ok", words)


def test_a_device_that_has_only_sent_telemetry_is_told_as_such(desk: Any) -> None:
    desk.telemetry("a", power_w=5.0)
    assert desk.told("a") == ("ok", "has not said what it does")
    assert desk.device("a")["state"] == "unknown"


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("base", "declined round 7: its base model is not the run's"),
        ("brand-new", "declined round 7: brand-new"),
        ("", "declined round 7: no reason given"),
    ],
)
def test_a_device_that_declines_the_open_round(desk: Any, reason: str, words: str) -> None:
    desk.round(7)
    desk.status("a", IDLE)
    answer(desk, "a", reason)
    assert desk.told("a") == ("refused", words)
    desk.round(8)
    desk.pass_time(1)
    assert desk.told("a")[0] == "ok"


def test_a_device_that_declines_and_then_takes_part_is_ok(desk: Any) -> None:
    desk.round(7)
    desk.status("a", IDLE)
    answer(desk, "a", "adapter")
    answer(desk, "a", "", accepted=True)
    assert desk.told("a")[0] == "ok"


@pytest.mark.parametrize("reason", ["settled", "stale", "paused", "temperature", "deadline"])
def test_a_harmless_decline_is_no_refusal(desk: Any, reason: str) -> None:
    desk.round(7)
    desk.status("a", IDLE)
    answer(desk, "a", reason)
    assert desk.told("a")[0] == "ok"


def test_a_device_that_is_lied_to_says_so(desk: Any) -> None:
    desk.status("a", UPLOADING, "signature")
    attention, words = desk.told("a")
    assert attention == "refused"
    assert "not signed" in words


def test_a_clone_is_refused_for_as_long_as_its_alert_stands(desk: Any) -> None:
    desk.status("a", IDLE)
    desk.alert("cloned", "two sessions", "a", retained=True)
    assert desk.told("a") == ("refused", "cloned (two sessions)")
    desk.clear("cloned")
    assert desk.told("a")[0] == "ok"


def test_a_refusal_is_news_for_two_minutes(desk: Any) -> None:
    """The alert stands until somebody clears it; the device may be well for days."""
    desk.status("a", IDLE)
    desk.alert("refused-round", "manifest names round 3", "a")
    assert desk.told("a") == ("refused", "refused: round (manifest names round 3)")
    for _ in range(int(FRESH_S) + 1):
        desk.pass_time(1)
        desk.status("a", IDLE)
    assert desk.told("a")[0] == "ok"


def test_an_old_refusal_that_the_broker_kept_is_no_news(desk: Any) -> None:
    desk.status("a", IDLE)
    desk.alert("refused-round", "manifest names round 3", "a", retained=True)
    desk.alert("refused-login", "somebody", "", retained=False)
    assert desk.told("a")[0] == "ok"


# Lost ---------------------------------------------------------------------------------------------


def test_a_device_that_is_lost_is_told_with_the_moment(desk: Any) -> None:
    desk.now = 12 * 3600.0 + 3 * 60
    desk.status("a", IDLE)
    desk.status("a", DeviceState.LOST, ts=5.0)
    assert desk.told("a") == ("lost", "lost since 12:03")


def test_a_goodbye_before_anybody_looked_is_told_by_its_own_clock(desk: Any) -> None:
    desk.now = 13 * 3600.0
    desk.status("a", DeviceState.OFFLINE, ts=12 * 3600.0 + 3 * 60, retained=True)
    assert desk.told("a") == ("lost", "offline since 12:03")
    desk.status("b", DeviceState.OFFLINE, ts=1e14, retained=True)
    assert desk.told("b")[1] == "offline since a moment that no calendar has"
    desk.now += 7 * 86_400
    desk.status("a", DeviceState.OFFLINE, ts=12 * 3600.0 + 3 * 60, retained=True)
    assert desk.told("a")[1] == "offline since 1970-01-01 12:03"


def test_the_moment_of_a_last_will_is_not_believed(desk: Any) -> None:
    """It was written when the device connected."""
    desk.status("a", DeviceState.LOST, ts=500.0, retained=True)
    assert desk.told("a") == ("lost", "lost since before anybody looked")


def test_silence_stalls_and_then_loses_a_device(desk: Any) -> None:
    desk.status("a", IDLE)
    desk.pass_time(SILENT_S - 1)
    assert desk.told("a")[0] == "ok"
    desk.pass_time(1)
    assert desk.told("a") == ("stalled", "idle: no word for 60 s")
    desk.pass_time(LOST_S - SILENT_S)
    assert desk.told("a") == ("lost", "no word for 3 min")
    desk.telemetry("a")
    assert desk.told("a") == ("ok", "idle")


def test_who_is_usually_silent_for_long_is_not_blamed(desk: Any) -> None:
    for _ in range(3):
        desk.telemetry("a")
        desk.pass_time(100)
    desk.telemetry("a")
    desk.pass_time(250)
    assert desk.told("a")[0] == "ok"
    desk.pass_time(60)
    assert desk.told("a")[0] == "lost"


def test_nobody_is_blamed_while_the_observer_is_cut_off(desk: Any) -> None:
    desk.monitor.linked(desk.now)
    desk.status("a", IDLE)
    desk.monitor.unlinked("cable", now=desk.now)
    desk.pass_time(1000)
    assert desk.told("a")[0] == "ok"
    desk.monitor.linked(desk.now)
    desk.pass_time(SILENT_S - 1)
    assert desk.told("a")[0] == "ok"
    desk.pass_time(1)
    assert desk.told("a")[0] == "stalled"


def test_a_status_that_the_broker_kept_is_no_word(desk: Any) -> None:
    desk.monitor.linked(desk.now)
    desk.status("a", TRAINING, retained=True)
    assert desk.told("a")[0] == "ok"
    assert desk.device("a")["heard_s"] is None
    desk.pass_time(SILENT_S)
    assert desk.told("a") == ("stalled", "training: begins: no word for 60 s")


# Stalled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("stalled: nothing accepted for 60 s", "uploads: nothing accepted for 60 s"),
        ("aggregator silent for 60 s", "uploads: aggregator silent for 60 s"),
        ("no broker for 120 s", "uploads: no broker for 120 s"),
        ("fetch-stalled", "uploads: nothing comes of the adapter that it asked for"),
    ],
)
def test_a_device_that_says_it_stalls(desk: Any, reason: str, words: str) -> None:
    desk.status("a", UPLOADING, reason)
    assert desk.told("a") == ("stalled", words)


def test_an_upload_that_says_it_stalls_until_it_is_done(desk: Any) -> None:
    desk.status("a", UPLOADING)
    desk.upload("a", accepted=14, sent=20, stalled_s=61.0)
    assert desk.told("a") == ("stalled", "uploads, 14 of 40 segments: nothing accepted for 61 s")
    desk.upload("a", accepted=40, sent=40, stalled_s=61.0)
    assert desk.told("a")[0] == "ok"


def test_the_aggregators_word_counts_for_those_it_names(desk: Any) -> None:
    for name in ("a", "b", "c", "d"):
        desk.status(name, DeviceState.PAUSED if name == "d" else UPLOADING)
    desk.alert("stalled", "no progress: a uploading, b offline, d paused and 3 more", "a")
    assert desk.told("a") == ("stalled", "uploads: the aggregator sees no progress")
    assert desk.told("b")[0] == "stalled"
    assert desk.told("c")[0] == "ok"
    assert desk.told("d")[0] == "paused"
    desk.clear("stalled")
    assert desk.told("a")[0] == "ok"


def test_steps_that_do_not_come_stall_a_training(desk: Any) -> None:
    desk.status("a", TRAINING)
    desk.training("a", 3)
    for _ in range(int(STILL_S)):
        desk.pass_time(1)
        desk.telemetry("a")
    assert desk.told("a") == ("stalled", "training: step 3 of 16: no step for 2 min")
    desk.training("a", 4)
    assert desk.told("a")[0] == "ok"


def test_a_training_with_long_steps_has_time(desk: Any) -> None:
    desk.status("a", TRAINING)
    for step in (1, 2):
        desk.training("a", step)
        for _ in range(60):
            desk.pass_time(1)
            desk.telemetry("a")
    for _ in range(150):
        desk.pass_time(1)
        desk.telemetry("a")
    assert desk.told("a")[0] == "ok"
    for _ in range(40):
        desk.pass_time(1)
        desk.telemetry("a")
    assert desk.told("a")[0] == "stalled"


def test_before_the_first_step_a_model_may_have_to_be_loaded(desk: Any) -> None:
    desk.status("a", TRAINING)
    for seconds, attention in ((STILL_AT_FIRST_S - 1, "ok"), (1, "stalled")):
        for _ in range(int(seconds)):
            desk.pass_time(1)
            desk.telemetry("a")
        assert desk.told("a")[0] == attention


def test_an_upload_of_which_nothing_is_accepted(desk: Any) -> None:
    desk.status("a", UPLOADING)
    desk.upload("a", accepted=14, sent=14)
    for _ in range(int(STILL_S)):
        desk.pass_time(1)
        desk.upload("a", accepted=14, sent=20)
    assert desk.told("a")[0] == "stalled"
    assert desk.told("a")[1].endswith(": nothing accepted for 2 min")


# Paused -------------------------------------------------------------------------------------------


def test_a_pause_says_why(desk: Any) -> None:
    why = "temperature: 86 °C, resumes below 80 °C; 1 update waits"
    desk.status("a", DeviceState.PAUSED, why)
    assert desk.told("a") == ("paused", f"paused: {why}")
    desk.status("a", DeviceState.PAUSED)
    assert desk.told("a") == ("paused", "paused")


# Slow ---------------------------------------------------------------------------------------------


def test_a_training_that_will_miss_the_deadline(desk: Any) -> None:
    desk.round(7, deadline_s=20.0)
    desk.status("a", TRAINING)
    desk.training("a", 3, eta_s=40.0)
    words = "training: step 3 of 16, 40 s left: needs 40 s, the round ends in 20 s"
    assert desk.told("a") == ("slow", words)
    desk.pass_time(30)
    assert desk.told("a")[1].endswith("needs 40 s, the round's deadline has passed")
    desk.round(8)
    desk.pass_time(1)
    assert desk.told("a")[0] == "ok"


def test_an_upload_that_will_miss_the_deadline(desk: Any) -> None:
    """26 segments of 32 KiB at 80 kbit/s take 85 s."""
    desk.round(7, deadline_s=60.0)
    desk.status("a", UPLOADING)
    desk.telemetry("a", goodput_bps=80_000.0)
    desk.upload("a", accepted=14, sent=14)
    words = "uploads at 80 kbit/s, 14 of 40 segments: needs 85 s, the round ends in 60 s"
    assert desk.told("a") == ("slow", words)
    desk.round(7, deadline_s=90.0)
    desk.upload("a", accepted=14, sent=14)
    assert desk.told("a")[0] == "ok"


def test_who_uploads_last_is_slow_although_the_others_are_done(desk: Any) -> None:
    """A newcomer looks when the round waits for one device alone."""
    for name, state, goodput_bps in (
        ("a", UPLOADING, 12_000.0),
        ("b", IDLE, 800_000.0),
        ("c", TRAINING, 900_000.0),
        ("d", DeviceState.LOST, 10_000.0),
    ):
        desk.status(name, state)
        desk.telemetry(name, goodput_bps=goodput_bps)
    desk.upload("a", accepted=14, sent=14)
    desk.pass_time(1)
    words = "uploads at 12 kbit/s, 14 of 40 segments: the others have 800 kbit/s"
    assert desk.told("a") == ("slow", words)
    assert desk.told("b")[0] == "ok"


@pytest.mark.parametrize(
    ("state", "doing"),
    [
        (TRAINING, "has trained, sends its update of 14.0 kB at 7.4 kbit/s"),
        (UPLOADING, "uploads 14.0 kB at 7.4 kbit/s"),
    ],
)
def test_a_slow_link_is_told_before_word_of_the_upload_gets_through_it(
    desk: Any, state: DeviceState, doing: str
) -> None:
    """What was sent for the round before is not taken for this one."""
    for name in ("b", "c"):
        desk.status(name, IDLE)
        desk.telemetry(name, goodput_bps=900_000.0)
    desk.status("a", UPLOADING, round_id=6)
    desk.upload("a", accepted=2, sent=2, segments=2, round_id=6)
    desk.telemetry("a", goodput_bps=7_400.0)
    response = control.TrainResponse("run", 7, True, "", 14_000)  # noqa: FBT003 - a message's fields
    desk.hear(topics.Response("a", "train", "7"), response)
    desk.status("a", TRAINING, round_id=7)
    desk.training("a", 15, eta_s=1.0)
    assert desk.told("a") == ("ok", "training: step 15 of 16, 1 s left")
    desk.training("a", 16, eta_s=0.0)
    desk.status("a", state, round_id=7)
    desk.pass_time(1)
    assert desk.told("a") == ("slow", f"{doing}: the others have 900 kbit/s")
    desk.round(7, deadline_s=11.0)
    desk.pass_time(1)
    assert desk.told("a") == ("slow", f"{doing}: needs 15 s, the round ends in 10 s")


def test_an_upload_far_behind_the_others(desk: Any) -> None:
    for name, goodput_bps in (("a", 12_000.0), ("b", 800_000.0), ("c", 900_000.0)):
        desk.status(name, UPLOADING)
        desk.upload(name, accepted=14, sent=14)
        desk.telemetry(name, goodput_bps=goodput_bps)
    desk.pass_time(1)
    words = "uploads at 12 kbit/s, 14 of 40 segments: the others have 800 kbit/s"
    assert desk.told("a") == ("slow", words)
    assert desk.told("b")[0] == "ok"


def test_an_upload_whose_link_loses_much(desk: Any) -> None:
    desk.status("a", UPLOADING)
    desk.upload("a", accepted=14, sent=30, resent=9)
    words = "uploads, 14 of 40 segments; 9 sent twice: its link loses much: 30 % sent twice"
    assert desk.told("a") == ("slow", words)


def test_a_few_repeats_say_nothing(desk: Any) -> None:
    desk.status("a", UPLOADING)
    desk.upload("a", accepted=1, sent=6, resent=4)
    assert desk.told("a")[0] == "ok"
