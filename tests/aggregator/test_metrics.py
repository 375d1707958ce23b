from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aggregator.inbound import Inbound, Stepped, Unreadable
from aggregator.journal import RoundRecord
from aggregator.metrics import FRESH_S, MAX_CODES, Health, Metrics
from aggregator.metrics_families import BY_NAME, FAMILIES, Kind
from aggregator.outputs import Commit, JournalSegment, Publish, Reopen
from transport import control
from transport.control import (
    AlertNotice,
    DeviceState,
    DeviceStatus,
    EnergyReport,
    ModelStatus,
    RoundPhase,
    RoundStatus,
    RoundSummary,
    RunAnnouncement,
    ServiceState,
    ServiceStatus,
    TrainingPlan,
    TrainResponse,
)
from transport.messages import Segment
from transport.topics import (
    Alert,
    CoordRun,
    CoordStatus,
    DeviceTopic,
    Model,
    Response,
    RoundLast,
    RoundNow,
    UpSegment,
)

UID = "0" * 32
STATUS = RoundStatus("r", 7, RoundPhase.OPEN, 60.0, 11, 8, 4, 5, 2, 1, 1000, 2000, 3)
SUMMARY = RoundSummary(
    "r",
    6,
    6,
    9,
    8,
    1,
    2,
    388.2,
    10,
    9,
    90,
    50,
    2.25,
    5,
    2.5,
    0.25,
    1000,
    {},
    1,
    1,
    1,
    90.0,
    60.0,
    9,
)


class Story:
    """Metrics that are told things, and read by name."""

    def __init__(self, device_labels: int = 2) -> None:
        self.metrics = Metrics(device_labels=device_labels)
        self.now = 100.0

    def status(self, device: str, state: DeviceState | None) -> None:
        message = None if state is None else DeviceStatus(state, "s")
        self.metrics.received(Inbound(DeviceTopic(device, "status"), device, message, 50))

    def answer(self, device: str, goodput_bps: float | None, *, accepted: bool = True) -> None:
        message = TrainResponse("r", 7, accepted, "", 100, 2.5, goodput_bps)
        self.metrics.received(Inbound(Response(device, "train", "7"), device, message, 50))

    def segment(self, device: str, packet_bytes: int = 500) -> None:
        address = UpSegment(device, UID, 0)
        self.metrics.received(Inbound(address, device, Segment(b"x" * 40), packet_bytes))

    def say(self, address: Any, message: Any) -> None:
        self.metrics.decided([Publish(address, message)], now=self.now)

    def __getitem__(self, key: str | tuple[str, ...]) -> float | None:
        name, *labels = (key,) if isinstance(key, str) else key
        for one in self.metrics.sample(self.now):
            if one.family.name == f"fedfstq_{name}":
                return dict(one.samples).get(tuple(labels))
        raise KeyError(name)


@pytest.fixture
def story() -> Story:
    return Story()


def test_names_follow_the_conventions() -> None:
    assert len(BY_NAME) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("fedfstq_")
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert family.text.endswith(".")
        assert not any(family.name.endswith(unit) for unit in ("_ms", "_pct", "_mb", "_bps", "_s"))


def test_the_open_round_is_told_and_its_deadline_comes_closer(story: Story) -> None:
    story.say(RoundNow(), STATUS)
    assert story["round_id"] == 7
    assert story["round_updates", "partial"] == 2
    assert story["round_stalled_devices"] == 3
    assert story["round_deadline_seconds"] == 60.0
    story.now += 50
    assert story["round_deadline_seconds"] == 10.0
    story.now += 50
    assert story["round_deadline_seconds"] == 0.0


def test_a_closed_round_has_no_deadline_and_nobody_stalls(story: Story) -> None:
    story.say(RoundNow(), STATUS)
    story.say(RoundNow(), dataclasses.replace(STATUS, phase=RoundPhase.CLOSED))
    assert story["round_deadline_seconds"] == 0.0
    assert story["round_stalled_devices"] == 0.0
    assert story["rounds_total", "abandoned"] == 0.0


def test_rounds_are_counted_by_how_they_end(story: Story) -> None:
    story.say(RoundNow(), dataclasses.replace(STATUS, phase=RoundPhase.ABANDONED))
    story.metrics.decided([Reopen(RoundRecord(round_id=7), {})], now=0.0)
    story.metrics.decided([Commit(RoundRecord(round_id=6), 6, {}, SUMMARY)], now=0.0)
    assert [story["rounds_total", how] for how in ("abandoned", "reopened", "committed")] == [1] * 3
    assert story["updates_total", "complete"] == 8
    assert story["updates_total", "late"] == 2
    assert story["updates_stale_total"] == 1
    assert story["bytes_up_fp32_total"] == 90
    assert story["energy_joules_total"] == 90.0
    assert story["energy_above_idle_joules_total"] == 60.0


def test_a_summary_said_again_after_a_restart_counts_nothing(story: Story) -> None:
    story.say(RoundLast(), SUMMARY)
    story.say(RoundLast(), SUMMARY)
    assert story["rounds_total", "committed"] == 0
    assert story["updates_total", "complete"] == 0
    assert story["round_seconds"] == 388.2
    assert story["train_loss"] == 2.25
    assert story["eval_loss"] == 2.5


def test_energy_that_nobody_measures_is_not_zero(story: Story) -> None:
    silent = dataclasses.replace(SUMMARY, energy_j=None, energy_above_idle_j=None)
    story.metrics.decided([Commit(RoundRecord(round_id=6), 6, {}, silent)], now=0.0)
    story.say(RoundLast(), silent)
    assert story["energy_joules_total"] is None
    assert story["round_energy_joules"] is None


def test_an_older_evaluation_does_not_hide_the_newer(story: Story) -> None:
    story.say(Model(), ModelStatus("r", 6, "ab", 1000, 3, 1.5, 0.5, 200))
    story.say(RoundLast(), SUMMARY)  # it speaks of version 5
    assert (story["eval_version"], story["eval_loss"]) == (6, 1.5)
    assert story["eval_accuracy_ratio"] == 0.5
    assert story["adapter_bytes"] == 1000


def test_run_and_service_have_one_series_each(story: Story) -> None:
    plan = TrainingPlan()
    for run in ("old", "new"):
        said = RunAnnouncement(run, "base", "bd", "ld", "fstq-r", 20, 32_768, plan)
        story.say(CoordRun(), said)
    status = ServiceStatus(ServiceState.WAITING, "s", "0.1", epoch=3)
    story.say(CoordStatus(), status)
    story.say(CoordStatus(), dataclasses.replace(status, state=ServiceState.RUNNING))
    assert story["run_info", "old", "fstq-r", ""] is None
    assert story["run_info", "new", "fstq-r", ""] == 1
    assert story["run_rounds"] == 20
    assert [story["state", state.value] for state in ServiceState].count(1.0) == 1
    assert story["state", "running"] == 1
    assert story["epoch"] == 3


def test_bytes_count_whatever_becomes_of_them(story: Story) -> None:
    story.status("a", DeviceState.IDLE)
    story.segment("a")
    story.segment("a")
    story.metrics.received(Unreadable("a", "malformed", "no frame", 70))
    story.metrics.decided([JournalSegment(UID, 0, b"x")], now=0.0)
    story.metrics.sent(300)
    assert story["bytes_up_total"] == 1070
    assert story["device_bytes_up_total", "a"] == 1000
    assert story["segments_received_total"] == 2
    assert story["segments_accepted_total"] == 1
    assert story["bytes_down_total"] == 300


def test_devices_are_counted_by_state(story: Story) -> None:
    for name in ("a", "b", "c"):
        story.status(name, DeviceState.TRAINING)
    story.status("b", DeviceState.LOST)
    assert story["devices", "training"] == 2
    assert story["devices", "lost"] == 1
    assert story["devices", "idle"] == 0
    assert (story["device_up", "a"], story["device_up", "b"]) == (1, 0)


def test_only_so_many_devices_have_series_of_their_own(story: Story) -> None:
    for number in range(50):
        name = f"d-{number}"
        story.status(name, DeviceState.IDLE)
        story.answer(name, 8000.0 * (number + 1))
        story.segment(name)
        report = EnergyReport("r", 7, 5.0, None, 2.5, 1.0, 2.0, 2.0, 9.0, 0.0, "ina")
        story.metrics.received(Inbound(DeviceTopic(name, "energy"), name, report, 50))
    samples = story.metrics.sample(0.0)
    labelled = [one for one in samples if one.family.labels == ("device",)]
    assert {len(one.samples) for one in labelled} == {2}
    assert story["devices_without_label"] == 48
    assert story["bytes_up_total"] == 50 * 500
    assert story["goodput_bytes_per_second", "0.5"] == 26_000.0
    assert story["device_goodput_bytes_per_second", "d-0"] == 1000.0
    assert story["device_upload_seconds", "d-0"] == 2.5
    assert story["device_round_energy_joules", "d-1"] == 5.0
    assert story["device_idle_watts", "d-1"] == 2.5


def test_a_device_that_is_cleared_leaves_nothing_and_makes_room(story: Story) -> None:
    for name in ("a", "b"):
        story.status(name, DeviceState.IDLE)
        story.answer(name, 8000.0)
    story.status("a", None)
    story.status("c", DeviceState.IDLE)
    labels = {
        labels
        for one in story.metrics.sample(0.0)
        if one.family.labels == ("device",)
        for labels, _ in one.samples
    }
    assert labels == {("b",), ("c",)}
    story.status("never-seen", None)


def test_answers_are_counted_and_who_declines_keeps_its_goodput(story: Story) -> None:
    story.answer("a", 8000.0)
    story.answer("a", None, accepted=False)
    assert (story["answers_total", "accepted"], story["answers_total", "declined"]) == (1, 1)
    assert story["device_goodput_bytes_per_second", "a"] == 1000.0
    story.answer("a", None)
    assert story["device_goodput_bytes_per_second", "a"] is None
    assert story["goodput_bytes_per_second", "0.9"] is None


def test_without_a_connection_nobody_knows_who_is_online(story: Story) -> None:
    story.metrics.turned(leads=True, is_connected=True)
    story.status("a", DeviceState.IDLE)
    story.metrics.turned(leads=False, is_connected=False)
    assert story["devices", "idle"] == 0
    assert story["device_up", "a"] is None
    assert (story["leading"], story["connected"]) == (0, 0)
    story.metrics.turned(leads=True, is_connected=True)
    story.status("a", DeviceState.IDLE)
    assert story["devices", "idle"] == 1


def test_refusals_count_as_their_notices_do(story: Story) -> None:
    story.say(Alert("refused-layout"), AlertNotice("warning", "x", 3))
    story.say(Alert("refused-layout"), AlertNotice("warning", "x", 5))
    assert story["refused_total", "layout"] == 5
    assert story["alert", "refused-layout"] is None


def test_an_alert_stands_until_it_is_cleared(story: Story) -> None:
    story.say(Alert("stalled"), AlertNotice("warning", "x"))
    assert story["alert", "stalled"] == 1
    story.say(Alert("stalled"), None)
    assert story["alert", "stalled"] is None


def test_no_flood_of_codes_grows_the_page(story: Story) -> None:
    for number in range(1000):
        story.say(Alert(f"refused-{number}"), AlertNotice("warning", "x"))
    (refused,) = [one for one in story.metrics.sample(0.0) if "refused" in one.family.name]
    assert len(refused.samples) == MAX_CODES


def test_what_means_nothing_here_changes_nothing(story: Story) -> None:
    before = story.metrics.sample(0.0)
    story.metrics.decided([object(), Publish(Response("a", "eval", "1"), None)], now=0.0)
    story.metrics.received(Inbound(DeviceTopic("a", "progress"), "a", Stepped(), 50))
    assert story.metrics.sample(0.0) == before


def test_a_picture_does_not_change_behind_its_reader(story: Story) -> None:
    story.metrics.sent(1)
    before = story.metrics.sample(0.0)
    kept = [(one.family.name, dict(one.samples)) for one in before]
    story.metrics.sent(1)
    story.say(RoundNow(), STATUS)
    assert [(one.family.name, dict(one.samples)) for one in before] == kept


@pytest.mark.parametrize(
    ("leads", "age_s", "verdict"),
    [
        (True, 0.0, (True, "round 7 of 20")),
        (True, FRESH_S, (True, "round 7 of 20")),
        (False, 0.0, (False, "round 7 of 20")),
        (True, FRESH_S + 1, (False, "the loop has not come around for 41 s")),
    ],
)
def test_health_is_a_loop_that_turns_and_leads(
    *, leads: bool, age_s: float, verdict: tuple[bool, str]
) -> None:
    assert Health(5.0, leads, "round 7 of 20").verdict(5.0 + age_s) == verdict


def test_every_state_of_the_protocol_has_its_number(story: Story) -> None:
    for state in control.DeviceState:
        assert story["devices", state.value] == 0
