"""The end of a run on a virtual clock: the final evaluation, and who may still ask."""

from __future__ import annotations

from typing import Any

import pytest

from transport import control
from transport.control import (
    ModelStatus,
    ServiceState,
    ServiceStatus,
)
from transport.topics import CoordStatus, Model


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
