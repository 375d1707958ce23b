"""The aggregator dies between any two durable effects, and the run ends with the same bytes."""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn

import numpy as np
import pytest

from aggregator import state_folder
from aggregator.journal import RoundState
from transport import control, frame
from transport.control import ModelStatus, RoundStatus, TrainResponse
from transport.link import LinkUp
from transport.messages import Receipt
from transport.topics import Alert, Command, Down, Model, Response, RoundNow, UpManifest

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


@pytest.mark.parametrize(
    ("ran_s", "left_s"),
    [
        (65.0, 140.0),  # 60 s of it were saved: a crash gives back less than half a minute
        (190.0, 30.0),  # devices have the time to come back
    ],
)
def test_the_open_round_goes_on_with_its_cohort_and_what_is_left_of_its_deadline(
    make_rig: Any, ran_s: Any, left_s: Any
) -> None:
    rig = make_rig(
        goal=2, quorum=2, min_devices=3, rounds=1, answer_timeout_s=1000.0, deadline_s=200.0
    ).start()
    devices = rig.add("a", "b", "c", silent=True)
    for device in devices:
        device.join()
    rig.settle()
    asked = {address.client_id for address, _ in rig.said(Command, name="train")}
    rig.advance(ran_s)
    rig.published.clear()
    rig.restart()
    rig.settle()
    assert {address.client_id for address, _ in rig.said(Command, name="train")} == asked
    status = control.decode(RoundStatus, rig.said(RoundNow)[-1][1])
    assert (status.round_id, status.deadline_s) == (1, left_s)


def test_a_round_that_crashes_again_and_again_ends_all_the_same(make_rig: Any) -> None:
    """Every restart costs at least the grace, and gives back less than that."""
    rig = make_rig(rounds=1, quorum=1, min_devices=2, deadline_s=600.0).start()
    a, b = rig.add("a", "b")
    b.most_segments = 1
    b.silent = True
    a.join()
    b.join()
    for _ in range(100):
        if rig.current() == 1:
            break
        rig.advance(31.0)
        rig.restart()
    assert rig.now < 1000.0 + 700.0
    assert rig.summaries()[0]["participants"] == 1


def begin_with_a_late_one(make_rig: Any, update_maker: Any, *, heals: bool) -> Any:
    """Round 1 ends without any of c's update; round 2 lasts until its deadline."""
    rig = make_rig(
        goal=2, quorum=2, min_devices=3, over_selection=1.5, rounds=3, segment_bytes=128
    ).start()
    devices = rig.add("a", "b", "c")
    a, b, c = devices
    c.most_segments = 0

    def make(*, client_id: str, round_id: int, **script: Any) -> Any:
        if round_id == 2 and client_id == "c" and heals:
            c.most_segments = None
            c.reconnect()
        elif round_id == 2:
            rig.devices[client_id].most_segments = 1
        elif round_id == 3:
            a.most_segments = b.most_segments = None
        return update_maker(client_id=client_id, round_id=round_id, **script)

    for device in devices:
        device.make, device.num_examples = make, ord(device.client_id)
        device.join()
    return rig


LATE_EFFECTS = [
    (f"{when} {effect}", occurrence)
    for effect, occurrences in (
        ("store.write", (4, 6, 8, 10, 12)),
        ("store.freeze", (1, 2)),
        ("state.commit", (1, 2)),
        ("store.commit", (1, 2)),
    )
    for when in ("before", "after")
    for occurrence in occurrences
]


@pytest.mark.parametrize(("label", "occurrence"), LATE_EFFECTS)
def test_a_crash_changes_no_byte_of_a_round_with_a_late_update(
    make_rig: Any, update_maker: Any, crash: Any, label: Any, occurrence: Any
) -> None:
    rig = begin_with_a_late_one(make_rig, update_maker, heals=True)
    crash_and_go_on(rig, crash, label, occurrence)
    rig.advance(400.0)
    flat = rig.initial
    known = {u.uid: (n, u) for d in rig.devices.values() for n, u in d.updates.items()}
    counted: list[str] = []
    for round_id in (1, 2, 3):
        deltas, weights = [], []
        for frozen in rig.frozen[round_id]:
            made_in, update = known[frozen.uid]
            delta = np.zeros_like(update.delta, dtype=np.float64)
            each = (len(update.bodies[0]) - 36) // 4
            for index in frozen.accepted:
                span = slice(index * each, (index + 1) * each)
                delta[span] = update.delta[span]
            deltas.append(delta)
            weights.append(update.manifest.num_examples / np.sqrt(1 + round_id - made_in))
            counted.append(frozen.uid)
        flat = (flat + np.average(np.stack(deltas), axis=0, weights=weights)).astype(np.float32)
    np.testing.assert_allclose(rig.adapter(3), flat, rtol=0, atol=1e-7)
    assert len(counted) == len(set(counted))
    c = rig.devices["c"]
    assert c.updates[1].uid in {update.uid for update in rig.frozen[2]}
    receipt = c.receipts[c.updates[1].uid]
    assert receipt.accepted == frozenset(range(len(c.updates[1].bodies)))
    assert [summary["stale"] for summary in rig.summaries()][1] == 1
    assert rig.summaries()[0]["late"] == 1
    assert all(device.receipts.keys() == device.senders.keys() for device in rig.devices.values())


def test_after_a_restart_a_late_update_is_let_in_by_the_terms_of_its_own_round(
    make_rig: Any, update_maker: Any
) -> None:
    """Who was not asked then is refused, and so is a second one of who has delivered."""
    rig = begin_with_a_late_one(make_rig, update_maker, heals=False)
    c = rig.devices["c"]
    rig.run_until(lambda: rig.current() == 1)
    rig.settle()
    rig.restart()
    rig.settle()
    run = rig.state.run.run
    rig.add("x")
    for name, reason in (("x", "not-selected"), ("a", "second-update"), ("c", "second-update")):
        update = update_maker(client_id=name, run=run, round_id=1, seq=99)
        rig.say(UpManifest(name, update.uid), update.manifest)
        rig.settle()
        (payload,) = {payload for _, payload in rig.said(Down, uid=update.uid)}
        assert frame.decode(Receipt, payload).reason == reason
    c.most_segments = None
    c.come_back()
    rig.finish()
    assert c.receipts[c.updates[1].uid].state.value == "accepted"


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


def test_what_a_broken_connection_left_is_said_again_only_by_one_that_leads(
    make_rig: Any,
) -> None:
    """Another aggregator may have led meanwhile, and what is retained may be its word."""
    rig = make_rig().start()
    said = rig.link.repeats
    rig.lose_link()
    rig.link.connected = True
    rig.service._process([LinkUp(session_present=True)])
    assert not rig.service._fence.leads
    assert rig.link.repeats == said
    rig.lose_link()
    rig.regain_link()
    assert rig.service._fence.leads
    assert rig.link.repeats == said + 1
