"""The end of a run on a virtual clock: the final evaluation, and who may still ask."""

from __future__ import annotations

from typing import Any

import pytest

from transport import control
from transport.control import (
    DeviceState,
    ModelStatus,
    RoundStatus,
    ServiceState,
    ServiceStatus,
)
from transport.topics import Alert, CoordStatus, DeviceTopic, Model, RoundNow


def test_the_final_evaluation_is_the_token_weighted_word_of_all_devices(make_rig: Any) -> None:
    rig = make_rig().start()
    for device in rig.add("a", "b", "c"):
        device.join()
    rig.finish()
    (_, payload) = rig.said(Model)[-1]
    status = control.decode(ModelStatus, payload)
    assert (status.version, status.eval_loss, status.eval_tokens) == (2, 1.5, 600)
    (_, payload) = rig.said(CoordStatus)[-1]
    assert control.decode(ServiceStatus, payload).state is ServiceState.FINISHED
    assert all(device.evaluated == [2] for device in rig.devices.values())


def test_old_versions_are_cleared_from_the_broker(make_rig: Any) -> None:
    rig = make_rig(rounds=2).start()
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    versions = {topic.split("/")[4] for topic in rig.retained if topic.startswith("flx/")}
    assert versions == {"2"}


def test_without_held_out_text_the_run_ends_without_evaluation(make_rig: Any) -> None:
    rig = make_rig(rounds=1, plan={"eval_examples": 0}).start()
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    assert all(device.evaluated == [] for device in rig.devices.values())


def test_the_final_evaluation_ends_at_its_timeout(make_rig: Any) -> None:
    rig = make_rig(rounds=1, final_eval_timeout_s=30.0).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()
    b._evaluate = lambda _: None
    rig.finish()
    assert rig.now == pytest.approx(1030.0, abs=1.0)
    status = control.decode(ModelStatus, rig.said(Model)[-1][1])
    assert status.eval_tokens == 200


def test_a_device_that_leaves_is_not_awaited_in_the_final_evaluation(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()
    b._evaluate = lambda _: None
    rig.run_until(lambda: bool(a.evaluated))
    b.lose()
    rig.finish()
    assert rig.now < 1030.0


def test_more_rounds_may_be_asked_of_a_run_that_has_ended(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    run = rig.state.run.run
    rig.config = rig.config.model_copy(update={"rounds": 3})
    rig.restart()
    rig.finish()
    assert rig.current() == 3
    assert rig.state.run.run == run


def test_a_finished_run_stays_finished_after_a_restart(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()
    rig.finish()
    rig.restart()
    rig.settle()
    assert rig.service._coordinator.state.value == "finished"
    assert a.evaluated == [1]
    status = control.decode(ModelStatus, rig.said(Model)[-1][1])
    assert status.eval_loss == 1.5


def stalled(rig: Any) -> control.AlertNotice | None:
    payload = rig.said(Alert, code="stalled")[-1][1]
    return control.decode(control.AlertNotice, payload) if payload else None


def test_a_device_without_progress_is_named_on_the_monitoring_topics(make_rig: Any) -> None:
    rig = make_rig(rounds=1, deadline_s=600.0, stall_s=60.0, answer_timeout_s=30.0).start()
    a, b = rig.add("a", "b")
    b.most_segments = 1
    a.join()
    b.join()
    rig.settle()
    b.status(DeviceState.UPLOADING)
    rig.advance(70.0)
    notice = stalled(rig)
    assert notice is not None
    assert notice.text == "no progress: b uploading"
    assert control.decode(RoundStatus, rig.said(RoundNow)[-1][1]).stalled == 1
    b.most_segments = None
    rig.finish()
    rig.advance(1.0)
    assert stalled(rig) is None


def test_steps_that_are_told_are_progress(make_rig: Any) -> None:
    rig = make_rig(rounds=1, deadline_s=600.0, stall_s=60.0, answer_timeout_s=500.0).start()
    devices = rig.add("a", "b", silent=True)
    for device in devices:
        device.join()
        device.status(DeviceState.TRAINING)
    for _ in range(9):
        rig.advance(50.0)
        rig.say(DeviceTopic("a", "progress"), b"{not read at all")
    rig.settle()
    notice = stalled(rig)
    assert notice is not None
    assert notice.text == "no progress: b training"


def test_silent_devices_are_named_and_a_round_that_is_over_clears_the_alert(make_rig: Any) -> None:
    rig = make_rig(rounds=1, deadline_s=600.0, stall_s=60.0, answer_timeout_s=20.0).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    rig.advance(90.0)
    notice = stalled(rig)
    assert notice is not None
    assert notice.text == "no progress: b silent"
    b.silent = False
    b.status(DeviceState.OFFLINE)
    b.join()
    rig.finish()
    rig.advance(1.0)
    assert stalled(rig) is None


def test_the_status_names_run_and_epoch(make_rig: Any) -> None:
    rig = make_rig().start()
    status = control.decode(ServiceStatus, rig.said(CoordStatus)[-1][1])
    assert (status.run, status.epoch) == (rig.state.run.run, 1)
    will = control.decode(ServiceStatus, rig.link.will.payload)
    assert (will.run, will.epoch, will.session) == (status.run, 1, status.session)
