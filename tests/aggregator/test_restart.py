"""The aggregator dies between any two durable effects, and the run ends with the same bytes."""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn

import numpy as np
import pytest

from aggregator import state_folder
from aggregator.journal import RoundState
from transport import control
from transport.control import ModelStatus, RoundStatus, TrainResponse
from transport.topics import Alert, Command, Model, Response, RoundNow

EFFECTS = [
    (f"{when} {effect}", occurrence)
    for effect in ("store.write", "store.freeze", "state.commit", "store.commit", "store.finish")
    for when in ("before", "after")
    for occurrence in ((1,) if effect == "store.finish" else (1, 2))
]


def digest(rig: Any, version: Any) -> str:
    path = rig.config.state_dir / "adapters" / str(version) / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def begin(make_rig: Any, **changes: Any) -> Any:
    values = {"goal": 3, "quorum": 2, "min_devices": 3, "codec": "fstq", "bits_per_coordinate": 9}
    rig = make_rig(**(values | changes)).start()
    for device in rig.add("a", "b", "c", codec=values["codec"]):
        device.num_examples = ord(device.client_id)
        device.join()
    return rig


@pytest.fixture
def undisturbed(make_rig: Any) -> list[str]:
    rig = begin(make_rig)
    rig.finish()
    return [digest(rig, 1), digest(rig, 2)]


def crash_and_go_on(rig: Any, crash: Any, label: Any, occurrence: Any) -> None:
    seen = 0

    def crash_at(where: Any) -> None:
        nonlocal seen
        seen += where == label
        if seen == occurrence and where == label:
            raise crash

    rig.crash_at = crash_at
    with pytest.raises(crash):
        rig.finish()
    rig.crash_at = lambda _: None
    rig.restart()
    rig.finish()


@pytest.mark.parametrize(("label", "occurrence"), EFFECTS)
def test_a_crash_around_a_durable_effect_changes_no_byte(
    make_rig: Any, undisturbed: Any, crash: Any, label: Any, occurrence: Any
) -> None:
    rig = begin(make_rig)
    run = rig.state.run.run
    crash_and_go_on(rig, crash, label, occurrence)
    assert [digest(rig, 1), digest(rig, 2)] == undisturbed
    assert (rig.state.run.run, rig.state.run.epoch) == (run, 2)
    assert [summary["round_id"] for summary in rig.summaries()] == [1, 2]
    assert all(device.trained == [1, 2] for device in rig.devices.values())
    rig.advance(60.0)
    assert all(len(device.receipts) == 2 for device in rig.devices.values())


@pytest.mark.parametrize("occurrence", range(2, 10))
def test_a_crash_at_any_batch_of_segments_changes_no_byte(
    make_rig: Any, crash: Any, occurrence: Any
) -> None:
    undisturbed = begin(make_rig, segment_bytes=128, rounds=1)
    undisturbed.finish()
    rig = begin(make_rig, segment_bytes=128, rounds=1)
    rig.batch = 2
    crash_and_go_on(rig, crash, "after store.write", occurrence)
    assert digest(rig, 1) == digest(undisturbed, 1)
    assert all(device.trained == [1] for device in rig.devices.values())


@pytest.mark.parametrize("step", ["before write", "after write", "before name", "after name"])
def test_a_crash_between_the_folder_and_its_name_changes_no_byte(
    make_rig: Any,
    undisturbed: Any,
    crash: Any,
    monkeypatch: pytest.MonkeyPatch,
    step: Any,
) -> None:
    rig = begin(make_rig)
    name = "write_version" if "write" in step else "set_current"
    original = getattr(state_folder, name)

    def dying(*arguments: Any, **options: Any) -> NoReturn:
        if step.startswith("before"):
            raise crash
        original(*arguments, **options)
        raise crash

    monkeypatch.setattr(state_folder, name, dying)
    with pytest.raises(crash):
        rig.finish()
    monkeypatch.setattr(state_folder, name, original)
    rig.restart()
    rig.finish()
    assert [digest(rig, 1), digest(rig, 2)] == undisturbed


def test_a_crash_while_updates_are_refused_settles_them_once(
    make_rig: Any, crash: Any, update_maker: Any
) -> None:
    rig = make_rig(rounds=1).start()
    a, evil = rig.add("a", "evil")

    def too_far(**script: Any) -> Any:

        delta = np.full(update_maker(**script).delta.shape, 1e9, dtype=np.float32)
        return update_maker(**script, delta=delta)

    evil.make = too_far
    a.join()
    evil.join()

    def crash_at(where: Any) -> None:
        if where == "before store.reopen":
            raise crash

    rig.crash_at = crash_at
    with pytest.raises(crash):
        rig.finish()
    rig.crash_at = lambda _: None
    rig.restart()
    rig.advance(60.0)
    (receipt,) = evil.receipts.values()
    assert receipt.reason == "magnitude"
    (honest,) = rig.add("b")
    honest.join()
    rig.finish()
    assert a.trained == [1]


def test_the_open_round_goes_on_with_its_cohort_and_a_full_deadline(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=3, rounds=1, answer_timeout_s=1000.0).start()
    devices = rig.add("a", "b", "c", silent=True)
    for device in devices:
        device.join()
    rig.settle()
    asked = {address.client_id for address, _ in rig.said(Command, name="train")}
    rig.advance(50.0)
    rig.published.clear()
    rig.restart()
    rig.settle()
    assert {address.client_id for address, _ in rig.said(Command, name="train")} == asked
    status = control.decode(RoundStatus, rig.said(RoundNow)[-1][1])
    assert (status.round_id, status.deadline_s) == (1, 60.0)


def test_a_round_that_a_refusal_closes_is_frozen_in_one_transaction(
    make_rig: Any, crash: Any
) -> None:
    """A record that says frozen without the segments that count would lose all of them."""
    rig = make_rig(goal=2, quorum=1, min_devices=2, rounds=1).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    rig.settle()

    def crash_at(where: Any) -> None:
        if where == "before store.freeze":
            raise crash

    rig.crash_at = crash_at
    rig.say(Response("b", "train", "1"), TrainResponse(rig.state.run.run, 1, accepted=False))
    with pytest.raises(crash):
        rig.settle()
    assert rig.state.store.load().round.state is RoundState.OPEN
    rig.crash_at = lambda _: None
    rig.restart()
    rig.finish()
    assert (rig.summaries()[0]["participants"], b.trained) == (1, [])


def test_a_round_that_closes_as_it_opens_is_frozen_in_one_transaction(
    make_rig: Any, crash: Any
) -> None:
    """What is missing comes in while the round waits for devices."""
    rig = make_rig(rounds=1, segment_bytes=2048).start()
    a, b = rig.add("a", "b")
    b.most_segments = 0
    a.join()
    b.join()
    rig.run_until(lambda: bool(b.senders))
    a.lose()
    rig.run_until(lambda: bool(rig.said(Alert, code="round-abandoned")))
    b.most_segments = None

    def crash_at(where: Any) -> None:
        if where == "before store.freeze":
            raise crash

    rig.crash_at = crash_at
    with pytest.raises(crash):
        rig.run_until(lambda: rig.current() == 1)
    assert rig.state.store.load().round.state is RoundState.OPEN


def test_a_device_that_declined_is_not_asked_again_after_a_restart(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=1, min_devices=2, rounds=1).start()
    a, b = rig.add("a", "b")
    a.silent, b.declines = True, True
    a.join()
    b.join()
    rig.settle()
    rig.published.clear()
    a.silent = False
    rig.restart()
    rig.finish()
    assert {address.client_id for address, _ in rig.said(Command, name="train")} == {"a"}


def test_a_round_that_waits_for_devices_waits_on_after_a_restart(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b", silent=True)
    a.join()
    b.join()
    rig.settle()
    a.lose()
    b.lose()
    rig.advance(100.0)
    rig.restart()
    rig.settle()
    assert rig.service._coordinator._training.state.value == "waiting"
    a.silent = b.silent = False
    a.come_back()
    b.come_back()
    rig.finish()


def test_a_restart_in_the_final_evaluation_keeps_what_has_been_said(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    b._evaluate = lambda _: None
    a.join()
    b.join()
    rig.run_until(lambda: bool(a.evaluated))
    rig.settle()
    del b._evaluate
    rig.restart()
    rig.finish()
    assert (a.evaluated, b.evaluated) == ([1], [1])

    assert control.decode(ModelStatus, rig.said(Model)[-1][1]).eval_tokens == 400


def test_the_segments_of_committed_rounds_leave_the_journal(make_rig: Any) -> None:
    rig = begin(make_rig)
    rig.finish()
    connection = rig.state.store._connection
    assert connection.execute("SELECT count(*) FROM segments").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM receipts").fetchone() == (6,)
