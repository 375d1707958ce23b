"""Rounds on a virtual clock: the real shell and journal, scripted devices, a doubled link."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from transport import control
from transport.control import (
    DeviceState,
    RoundPhase,
    RoundStatus,
    RoundSummary,
    ServiceStatus,
    TrainCommand,
    TrainResponse,
)
from transport.messages import ReceiptState, Segment
from transport.topics import (
    Alert,
    Command,
    CoordStatus,
    Response,
    RoundLast,
    RoundNow,
    UpSegment,
)
from transport.transfer import Sender


def oracle(rig: Any, rounds: Any, members: Any) -> Any:
    """Plain dense FedAvg over the scripted updates."""
    flat = rig.initial
    for round_id in range(1, rounds + 1):
        updates = [rig.devices[name].updates[round_id] for name in members]
        weights = np.array([update.manifest.num_examples for update in updates], dtype=np.float64)
        deltas = np.stack([update.delta.astype(np.float64) for update in updates])
        mean = (weights[:, None] * deltas).sum(0) / weights.sum()
        flat = (flat.astype(np.float64) + mean).astype(np.float32)
    return flat


def test_two_devices_make_two_versions_by_weighted_averaging(make_rig: Any) -> None:
    rig = make_rig().start()
    a, b = rig.add("a", "b")
    b.num_examples = 30
    a.join()
    b.join()
    rig.finish()
    np.testing.assert_allclose(rig.adapter(2), oracle(rig, 2, ["a", "b"]), rtol=0, atol=1e-7)
    assert rig.current() == 2
    assert a.trained == b.trained == [1, 2]
    assert {receipt.state for receipt in a.receipts.values()} == {ReceiptState.ACCEPTED}
    first, second = rig.summaries()
    assert (first["participants"], first["complete"], first["partial"]) == (2, 2, 0)
    assert (first["eval_version"], first["eval_loss"], second["eval_loss"]) == (0, 3.0, 1.5)
    assert first["bytes_up"] > first["bytes_up_payload"] == first["bytes_up_fp32"]


def test_fstq_updates_of_many_segments_are_averaged(make_rig: Any) -> None:
    rig = make_rig(codec="fstq", bits_per_coordinate=8.0).start()
    for device in rig.add("a", "b", codec="fstq"):
        device.join()
    rig.finish()
    assert rig.current() == 2
    assert not np.array_equal(rig.adapter(2), rig.initial)
    assert rig.summaries()[0]["bytes_up_payload"] < rig.summaries()[0]["bytes_up_fp32"]


def test_it_waits_for_enough_devices_before_a_round_opens(make_rig: Any) -> None:
    rig = make_rig(min_devices=3).start()
    a, b, c = rig.add("a", "b", "c")
    a.join()
    b.join()
    rig.settle()
    (_, payload) = rig.said(CoordStatus)[-1]
    assert control.decode(ServiceStatus, payload).reason == "2 of 3 devices online"
    assert a.trained == []
    c.join()
    rig.finish()
    assert rig.current() == 2


def test_paused_and_departed_devices_are_not_asked(make_rig: Any) -> None:
    rig = make_rig(goal=3, quorum=1, min_devices=1, rounds=1).start()
    a, b, c = rig.add("a", "b", "c")
    b.status(DeviceState.PAUSED)
    c.status(DeviceState.LOST)
    a.join()
    rig.finish()
    assert (a.trained, b.trained, c.trained) == ([1], [], [])


def test_a_device_that_comes_online_fills_a_cohort_that_is_too_small(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=1, min_devices=1, rounds=1).start()
    a, b = rig.add("a", "b")
    a.silent = True
    a.join()
    rig.settle()
    b.join()
    rig.settle()
    assert b.trained == [1]


def test_a_device_that_declines_is_replaced(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=3, rounds=1).start()
    devices = rig.add("a", "b", "c")
    for device in devices:
        device.declines = device.client_id == "a"
        device.join()
    rig.finish()
    assert rig.summaries()[0]["participants"] == 2
    assert rig.now < 1000.0 + rig.config.deadline_s


def test_a_device_that_declined_the_attempt_before_is_counted_in_again(make_rig: Any) -> None:
    """Its word on the old deadline and the new command crossed on the way."""
    rig = make_rig(goal=2, quorum=1, min_devices=2, rounds=1).start()
    a, b = rig.add("a", "b", silent=True)
    a.join()
    b.join()
    rig.settle()
    run = rig.state.run.run
    address = Response("b", "train", "1")
    rig.say(address, TrainResponse(run, 1, accepted=False, reason="deadline"))
    rig.say(address, TrainResponse(run, 1, accepted=True))
    rig.settle()
    a.silent = False
    a.lose()
    a.come_back()
    rig.settle()
    assert rig.current() == 0  # it waits for b
    b.silent = False
    b.lose()
    b.come_back()
    rig.finish()
    assert rig.summaries()[0]["participants"] == 2


def test_a_round_closes_at_once_when_everybody_else_declines(make_rig: Any) -> None:
    rig = make_rig(goal=3, quorum=1, min_devices=3, rounds=1).start()
    devices = rig.add("a", "b", "c")
    for device in devices[1:]:
        device.declines = True
    for device in devices:
        device.join()
    rig.finish()
    assert rig.summaries()[0]["participants"] == 1
    assert rig.now < 1000.0 + rig.config.deadline_s


def test_over_selection_asks_more_devices_than_the_goal(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=2, over_selection=1.5, min_devices=5, rounds=1).start()
    devices = rig.add("a", "b", "c", "d", "e", most_segments=0)
    for device in devices:
        device.join()
    rig.settle()
    asked = [device for device in devices if device.trained]
    assert len(asked) == 3
    for device in asked[:2]:
        device.most_segments = None
    rig.finish()
    assert rig.summaries()[0]["participants"] == 2
    assert rig.now < 1000.0 + rig.config.deadline_s


def test_a_lost_device_gets_its_command_again_when_it_comes_back(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    rig.settle()
    b.lose()
    rig.settle()
    b.silent = False
    b.come_back()
    rig.finish()
    assert b.trained == [1]
    assert len(rig.said(Command, client_id="b", name="train")) == 2


def test_a_restarted_device_gets_its_command_again(make_rig: Any) -> None:
    """A new session says so, even where the broker never noticed that the old one went."""
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    rig.settle()
    b.silent, b.session = False, "s2"
    b.join()
    rig.finish()
    assert b.trained == [1]


def test_at_the_deadline_a_partial_update_counts_with_what_was_accepted(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    b.most_segments = 2
    a.join()
    b.join()
    rig.finish()
    (summary,) = rig.summaries()
    assert (summary["complete"], summary["partial"]) == (1, 1)
    assert summary["seconds"] == pytest.approx(60.0)
    (receipt,) = b.receipts.values()
    assert (receipt.state, receipt.accepted) == (ReceiptState.PARTIAL, frozenset({0, 1}))


def test_an_update_of_which_nothing_arrived_is_late(make_rig: Any) -> None:
    rig = make_rig(goal=3, quorum=2, min_devices=3, rounds=1).start()
    a, b, c = rig.add("a", "b", "c")
    c.most_segments = 0
    for device in (a, b, c):
        device.join()
    rig.finish()
    (receipt,) = c.receipts.values()
    assert (receipt.state, receipt.accepted) == (ReceiptState.LATE, frozenset())
    assert rig.summaries()[0]["late"] == 1


@pytest.mark.parametrize("late", ["stale", "merge", "drop"])
def test_what_becomes_of_a_late_update_is_the_run_s_policy(make_rig: Any, late: str) -> None:
    rig = make_rig(
        goal=3, quorum=2, min_devices=3, rounds=4, late=late, max_staleness=2, deadline_s=100.0
    ).start()
    a, b, c = rig.add("a", "b", "c")
    c.most_segments = 0
    for device in (a, b, c):
        device.join()
    rig.run_until(lambda: rig.current() == 1)
    rig.settle()
    c.most_segments = None
    c.come_back()
    rig.finish()
    receipt = c.receipts[c.updates[1].uid]
    first, second, *_ = rig.summaries()
    assert first["late"] == 1
    wanted = {
        "stale": (ReceiptState.ACCEPTED, "", 0, 1),
        "merge": (ReceiptState.LATE, "late", 0, 0),
        "drop": (ReceiptState.LATE, "dropped", 1, 0),
    }
    told = (receipt.state, receipt.reason, first["dropped"], second["stale"])
    assert told == wanted[late]
    # It is no participant that a round waits for, and says nothing of the version before.
    assert second["participants"] == 3 + second["stale"]
    assert second["eval_tokens"] == 300


def test_an_update_that_never_comes_is_late_when_it_is_too_old(make_rig: Any) -> None:
    rig = make_rig(
        goal=3, quorum=2, min_devices=3, rounds=5, max_staleness=2, deadline_s=100.0
    ).start()
    a, b, c = rig.add("a", "b", "c")
    c.most_segments = 0
    for device in (a, b, c):
        device.join()
    rig.run_until(lambda: rig.current() == 2)
    rig.settle()
    assert c.receipts == {}
    rig.finish()
    rig.advance(400.0)
    receipts = [c.receipts[c.updates[round_id].uid] for round_id in c.updates]
    assert {receipt.state for receipt in receipts} == {ReceiptState.LATE}
    # Rounds 1 and 2 were too old for the rounds 4 and 5, the others had no round to come.
    assert [summary["late"] for summary in rig.summaries()] == [1, 1, 1, 1, 1]
    assert not rig.state.store.load().updates


def test_late_updates_make_no_quorum(make_rig: Any, update_maker: Any) -> None:
    """One of round 2 does not decode; the late one that does cannot take its place."""
    rig = make_rig(goal=2, quorum=2, min_devices=3, over_selection=1.5, rounds=2).start()
    a, b, c = rig.add("a", "b", "c")
    c.most_segments = 0

    def too_far(*, round_id: int, **script: Any) -> Any:
        update = update_maker(round_id=round_id, **script)
        if round_id == 2:
            c.most_segments = None
            c.declines = True
            c.reconnect()
            return update_maker(round_id=round_id, **script, delta=update.delta * 1e6)
        return update

    b.make = too_far
    for device in (a, b, c):
        device.join()
    rig.run_until(lambda: bool(rig.said(Alert, code="refused-magnitude")))
    counted = {update.uid for update in rig.frozen[2]}
    assert {a.updates[2].uid, b.updates[2].uid, c.updates[1].uid} == counted
    assert rig.current() == 1
    (d,) = rig.add("d")
    d.join()
    rig.finish()
    assert (rig.summaries()[1]["participants"], rig.summaries()[1]["stale"]) == (3, 1)


def test_a_manifest_for_a_closed_round_is_late_and_a_repeated_one_gets_its_receipt(
    make_rig: Any, update_maker: Any
) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=2).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()
    rig.run_until(lambda: rig.current() >= 1)
    stranger = rig.add("c")[0]
    stranger.online = True
    update = update_maker(client_id="c", run=rig.state.run.run, round_id=1)
    stranger.updates[1] = update

    stranger.senders[update.uid] = Sender(update.uid, update.manifest, rng=Random(0))
    stranger.reconnect()
    rig.settle()
    assert stranger.receipts[update.uid].state is ReceiptState.LATE
    # The same question has the same answer, under whatever epoch asks.
    first = a.receipts[a.updates[1].uid]
    a.senders[a.updates[1].uid] = Sender(a.updates[1].uid, a.updates[1].manifest, rng=Random(0))
    a.receipts.clear()
    a.reconnect()
    rig.settle()
    assert a.receipts[a.updates[1].uid] == first


def test_a_quorum_that_is_missed_abandons_the_round_and_opens_it_again(make_rig: Any) -> None:
    """What had arrived still counts in the next attempt."""
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    rig.run_until(lambda: rig.now >= 1060.0)
    rig.settle()
    statuses = [control.decode(RoundStatus, payload) for _, payload in rig.said(RoundNow)]
    assert RoundPhase.ABANDONED in {status.phase for status in statuses}
    assert statuses[-1].phase is RoundPhase.OPEN
    assert rig.said(Alert, code="round-abandoned")
    assert rig.current() == 0
    b.silent = False
    b.come_back()
    rig.finish()
    assert a.trained == [1]
    np.testing.assert_allclose(rig.adapter(1), oracle(rig, 1, ["a", "b"]), rtol=0, atol=1e-7)
    assert rig.said(Alert, code="round-abandoned")[-1][1] == b""
    assert rig.summaries()[0]["seconds"] >= 60.0


def test_updates_that_arrive_while_devices_are_awaited_can_close_the_round(make_rig: Any) -> None:
    """After an abandoned attempt everybody has gone but for the segments still on their way."""
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    b.most_segments = 0
    a.join()
    b.join()
    rig.run_until(lambda: bool(b.senders))
    a.lose()
    rig.settle()
    rig.run_until(lambda: bool(rig.said(Alert, code="round-abandoned")))
    assert rig.service._coordinator._training.state.value == "waiting"
    b.most_segments = None
    rig.run_until(lambda: rig.current() == 1)
    assert rig.summaries()[0]["participants"] == 2


def test_a_device_that_does_not_answer_is_replaced_by_another_that_is_online(
    make_rig: Any,
) -> None:
    """Its retained status says idle although it is dead: its broker never published its will."""
    rig = make_rig(goal=2, quorum=2, min_devices=3, rounds=1, answer_timeout_s=20.0).start()
    devices = rig.add("a", "b", "c", silent=True)
    for device in devices:
        device.join()
    rig.settle()
    asked = {address.client_id for address, _ in rig.said(Command, name="train")}
    assert len(asked) == 2
    for device in devices:
        device.silent = device.client_id == min(asked)
    (alive,) = asked - {min(asked)}
    rig.devices[alive].lose()
    rig.devices[alive].come_back()
    rig.finish()
    assert rig.now == pytest.approx(1020.0)
    assert rig.devices[min(asked)].trained == []
    assert rig.summaries()[0]["participants"] == 2


def test_a_dead_device_that_nobody_can_replace_costs_one_answer_timeout_in_the_whole_run(
    make_rig: Any,
) -> None:
    rig = make_rig(goal=3, quorum=2, min_devices=3, rounds=4, answer_timeout_s=20.0).start()
    a, b, dead = rig.add("a", "b", "dead")
    dead.silent = True
    for device in (a, b, dead):
        device.join()
    rig.finish()
    assert a.trained == b.trained == [1, 2, 3, 4]
    assert rig.now == pytest.approx(1020.0)  # the final evaluation does not wait for it either
    # It is asked each time, and would count as soon as it answers.
    assert len(rig.said(Command, client_id="dead", name="train")) == 4


def test_a_silent_device_that_answers_late_is_awaited_again(make_rig: Any) -> None:
    """Its trainer took its time to load; its word counts as if it had come at once."""
    rig = make_rig(goal=3, quorum=2, min_devices=3, rounds=1, answer_timeout_s=20.0).start()
    a, b, slow = rig.add("a", "b", "slow", silent=True)
    for device in (a, b, slow):
        device.join()
    rig.advance(25.0)
    for device in (a, b):
        device.silent = False
        device.lose()
        device.come_back()
    slow.silent = False
    slow._train(control.decode(TrainCommand, rig.said(Command, client_id="slow")[0][1]))
    rig.finish()
    assert rig.summaries()[0]["participants"] == 3


def test_a_silent_device_is_asked_again_when_it_shows_up(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=1, answer_timeout_s=20.0).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    rig.advance(25.0)
    b.silent = False
    b.join()  # the same status and session as before
    rig.finish()
    assert b.trained == [1]
    assert rig.now == pytest.approx(1025.0)


def test_a_device_whose_command_was_lost_is_asked_again_where_nobody_replaces_it(
    make_rig: Any,
) -> None:
    """A broker that was wiped between taking a command and delivering it has lost it for good."""
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=1, answer_timeout_s=20.0).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    rig.advance(15.0)
    b.silent = False  # it is there all along, and has nothing to say
    rig.finish()
    assert b.trained == [1]
    assert rig.now == pytest.approx(1020.0)


def test_those_that_answer_are_asked_before_those_that_did_not(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=4, rounds=5, answer_timeout_s=20.0).start()
    devices = rig.add("a", "b", "c", "dead")
    rig.devices["dead"].silent = True
    for device in devices:
        device.join()
    rig.finish()
    assert rig.now == pytest.approx(1020.0)
    assert len(rig.said(Command, client_id="dead", name="train")) == 1


def test_everybody_may_go_and_come_back(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b", silent=True)
    a.join()
    b.join()
    rig.settle()
    a.lose()
    b.lose()
    rig.advance(200.0)
    assert rig.service._coordinator._training.state.value == "waiting"
    for device in (a, b):
        device.silent = False
        device.come_back()
    rig.finish()
    assert rig.current() == 1


def test_a_link_that_breaks_costs_nothing_but_time(make_rig: Any) -> None:
    rig = make_rig(rounds=2).start()
    a, b = rig.add("a", "b")
    b.most_segments = 2
    a.join()
    b.join()
    rig.settle()
    rig.lose_link()
    rig.advance(5.0)
    rig.regain_link()
    b.most_segments = None
    rig.finish()
    assert a.trained == b.trained == [1, 2]
    np.testing.assert_allclose(rig.adapter(2), oracle(rig, 2, ["a", "b"]), rtol=0, atol=1e-7)


def test_a_link_that_breaks_after_the_commit_still_brings_receipts_and_the_next_version(
    make_rig: Any,
) -> None:
    rig = make_rig(rounds=2).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()

    def cut(where: Any) -> None:
        if where == "before state.commit":
            rig.link.connected = False

    rig.crash_at = cut
    rig.run_until(lambda: rig.current() == 1)
    rig.crash_at = lambda _: None
    assert a.receipts == {}
    rig.lose_link()
    rig.regain_link()
    rig.finish()
    rig.advance(30.0)  # receipts that were lost come again when their devices ask
    assert len(a.receipts) == len(b.receipts) == 2


def test_the_bytes_of_repeats_and_refusals_are_counted(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()
    rig.finish()
    plain = rig.summaries()[0]["bytes_up"]

    again = make_rig(rounds=1).start()
    a, b = again.add("a", "b")
    b.silent = True
    a.join()
    b.join()
    again.settle()
    a.reconnect()  # the manifest once more
    for index, body in enumerate(a.updates[1].bodies):
        again.say(UpSegment("a", a.updates[1].uid, index), Segment(body))
    again.settle()
    b.silent = False
    b.lose()
    b.come_back()
    again.finish()
    (summary,) = again.summaries()
    assert summary["bytes_up"] > plain * 1.4
    assert summary["bytes_up_payload"] == rig.summaries()[0]["bytes_up_payload"]


def test_the_summary_is_published_retained_as_it_is_written(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    (_, payload) = rig.said(RoundLast)[-1]
    assert control.decode(RoundSummary, payload).round_id == 1
    assert control.decode(RoundSummary, payload).bytes_down > 0
