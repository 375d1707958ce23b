import dataclasses

from tools.fleet_view import FleetView
from transport import control, topics
from transport.topics import Topics

NAMES = Topics("f")


def summary(round_id: int) -> control.RoundSummary:
    return control.RoundSummary(
        run="r", round_id=round_id, version=round_id, participants=2, complete=2, partial=0, late=0,
        seconds=1.0, bytes_up=100, bytes_up_payload=90, bytes_up_fp32=1000, bytes_down=50,
        train_loss=2.0, eval_version=round_id - 1, eval_loss=2.0, eval_accuracy=0.5,
        eval_tokens=10, refused={},
    )  # fmt: skip


def receive(view: FleetView, address: topics.Address, message: object) -> None:
    view.receive(NAMES.topic(address), control.encode(message))


def test_a_device_is_what_its_topics_said_last() -> None:
    view = FleetView(NAMES)
    status = control.DeviceStatus(control.DeviceState.TRAINING, "s", round_id=3)
    receive(view, topics.DeviceTopic("a", "status"), status)
    progress = control.Progress(round_id=3, step=2, steps=10)
    receive(view, topics.DeviceTopic("a", "progress"), progress)
    telemetry = control.Telemetry(ts=1.0, ram_used_mb=100)
    receive(view, topics.DeviceTopic("a", "telemetry"), telemetry)
    profile = control.DeviceProfile(
        board="b", agent_version="0", python="3", torch="2", cuda="", ram_mb=1, examples=1,
        heldout_examples=1, base_digest="00",
    )  # fmt: skip
    receive(view, topics.DeviceTopic("a", "info"), profile)
    device = view.devices["a"]
    assert (device.status, device.progress) == (status, progress)
    assert (device.telemetry, device.profile) == (telemetry, profile)


def test_bytes_are_summed_over_rounds_and_a_repeated_summary_counts_once() -> None:
    view = FleetView(NAMES)
    for round_id in (1, 2, 2):
        receive(view, topics.RoundLast(), summary(round_id))
    assert (view.bytes_up, view.bytes_up_fp32) == (200, 2000)


def test_energy_is_kept_per_device_and_summed_over_rounds() -> None:
    view = FleetView(NAMES)
    report = control.EnergyReport("r", 1, 5.0, None, None, 0.0, 5.0, 0.0, 1.0, 0.0)
    receive(view, topics.DeviceTopic("a", "energy"), report)
    kept = [view.devices["a"].energy]
    view.receive(NAMES.topic(topics.DeviceTopic("a", "energy")), b"")
    kept.append(view.devices["a"].energy)
    assert (kept, view.malformed) == ([report, None], 0)
    receive(view, topics.RoundLast(), summary(1))
    told = [view.energy_j]
    for round_id in (2, 3):
        measured = dataclasses.replace(summary(round_id), energy_j=30.5)
        receive(view, topics.RoundLast(), measured)
        told.append(view.energy_j)
    assert told == [None, 30.5, 61.0]


def test_service_run_round_and_alerts_are_kept_and_an_empty_alert_clears() -> None:
    view = FleetView(NAMES)
    service = control.ServiceStatus(control.ServiceState.RUNNING, "s", "0.1")
    run = control.RunAnnouncement("r", "b", "d", "l", "fstq", 5, 1, control.TrainingPlan())
    now = control.RoundStatus("r", 1, control.RoundPhase.OPEN, 60.0, 4, 4, 2, 0, 0, 0, 0, 0)
    alert = control.AlertNotice("warning", "text")
    receive(view, topics.CoordStatus(), service)
    receive(view, topics.CoordRun(), run)
    receive(view, topics.RoundNow(), now)
    receive(view, topics.Alert("x"), alert)
    assert (view.service, view.run, view.round) == (service, run, now)
    assert view.alerts == {"x": alert}
    view.receive(NAMES.topic(topics.Alert("x")), b"")
    assert view.alerts == {}


def test_what_cannot_be_read_is_counted_and_changes_nothing() -> None:
    view = FleetView(NAMES)
    view.receive("fl/v1/other/round", b"{}")
    view.receive(NAMES.topic(topics.RoundNow()), b"{}")
    view.receive(NAMES.topic(topics.RoundNow()), b"\xff")
    assert (view.malformed, view.round) == (3, None)


def test_commands_that_pass_by_are_no_news() -> None:
    view = FleetView(NAMES)
    view.receive(NAMES.topic(topics.Command("a", "train", "1")), b"anything")
    assert view.malformed == 0
