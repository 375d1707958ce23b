"""A device that two have become is quarantined; what only looks like that is not."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.cohort import MAX_RETIRED, Presence
from transport import control, frame
from transport.control import AlertNotice, DeviceState, DeviceStatus
from transport.link import Delivery
from transport.messages import Receipt, ReceiptState
from transport.topics import Alert, Command, DeviceTopic, Down, UpManifest

S = DeviceState


def said(presence: Presence, state: DeviceState, session: str, *, fresh: bool = True) -> bool:
    return presence.receive("a", DeviceStatus(state, session), fresh=fresh)


def test_an_earlier_session_that_comes_back_alive_is_a_clone() -> None:
    presence = Presence()
    assert said(presence, S.IDLE, "s1")
    assert said(presence, S.IDLE, "s2")
    assert presence.cloned == frozenset()
    assert not said(presence, S.TRAINING, "s1")
    assert presence.cloned == {"a"}
    assert presence.eligible() == ()
    assert not said(presence, S.IDLE, "s2")


def test_restarts_are_no_clones_however_many() -> None:
    presence = Presence()
    for number in range(4 * MAX_RETIRED):
        assert said(presence, S.IDLE, f"s{number}")
    assert presence.cloned == frozenset()
    # Only so many are remembered: an older one passes for new.
    said(presence, S.IDLE, "s0")
    assert presence.cloned == frozenset()
    said(presence, S.IDLE, f"s{4 * MAX_RETIRED - 2}")
    assert presence.cloned == {"a"}


@pytest.mark.parametrize("state", [S.LOST, S.OFFLINE])
def test_the_will_of_an_earlier_session_that_comes_late_changes_nothing(state: Any) -> None:
    """A broker notices a half-open connection after the device has come back with a new one."""
    presence = Presence()
    said(presence, S.IDLE, "s1")
    said(presence, S.IDLE, "s2")
    assert not said(presence, state, "s1")
    assert presence.cloned == frozenset()
    assert presence.eligible() == ("a",)
    assert not presence.has_left("a")


def test_the_will_of_a_session_that_nobody_has_seen_retires_nobody() -> None:
    presence = Presence()
    said(presence, S.IDLE, "s2")
    said(presence, S.LOST, "s1")
    assert not said(presence, S.TRAINING, "s2")
    assert presence.cloned == frozenset()
    assert presence.eligible() == ("a",)


def test_a_retained_status_is_no_evidence() -> None:
    """After a reconnection, or from a broker's old database, an earlier session may stand there."""
    presence = Presence()
    said(presence, S.IDLE, "s1")
    said(presence, S.IDLE, "s2")
    presence.forget()
    assert said(presence, S.IDLE, "s1", fresh=False)
    assert presence.cloned == frozenset()
    said(presence, S.IDLE, "s2")
    assert presence.cloned == frozenset()


def test_an_old_retained_status_does_not_retire_the_session_that_is_on() -> None:
    presence = Presence()
    said(presence, S.IDLE, "s2")
    presence.forget()
    said(presence, S.IDLE, "s1", fresh=False)
    assert said(presence, S.IDLE, "s2")
    assert presence.cloned == frozenset()


def test_statuses_that_are_delivered_once_more_are_no_evidence() -> None:
    """What was not acknowledged when the link broke comes again, in its old order."""
    presence = Presence()
    for fresh in (True, False):
        said(presence, S.IDLE, "s1", fresh=fresh)
        said(presence, S.IDLE, "s2", fresh=fresh)
        presence.forget()
    said(presence, S.IDLE, "s2")
    assert presence.cloned == frozenset()


def test_a_lost_link_of_the_aggregator_does_not_lift_the_quarantine() -> None:
    presence = Presence()
    for session in ("s1", "s2", "s1"):
        said(presence, S.IDLE, session)
    presence.forget()
    said(presence, S.IDLE, "s2", fresh=False)
    assert presence.eligible() == ()


def test_clearing_the_status_lifts_the_quarantine() -> None:
    presence = Presence()
    for session in ("s1", "s2", "s1"):
        said(presence, S.IDLE, session)
    assert not presence.receive("a", None)
    assert presence.cloned == frozenset()
    assert said(presence, S.IDLE, "s2")
    assert said(presence, S.IDLE, "s3")
    assert presence.eligible() == ("a",)


# In a run ---------------------------------------------------------------------------------------


def clone(rig: Any, device: Any) -> None:
    """Let two processes of one identity take turns."""
    for session in ("s2", "s1"):
        device.session = session
        device.join()
    rig.settle()


def begin_in_silence(make_rig: Any) -> tuple[Any, Any, Any]:
    """Open a round for two devices that take part and have not sent anything yet."""
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=1, deadline_s=600.0).start()
    a, b = rig.add("a", "b", silent=True)
    a.join()
    b.join()
    rig.settle()
    return rig, a, b


def alert(rig: Any) -> AlertNotice | None:
    payload = rig.said(Alert, code="cloned")[-1][1]
    return control.decode(AlertNotice, payload) if payload else None


def test_a_cloned_device_is_replaced_named_and_not_asked_again(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=2).start()
    a, b = rig.add("a", "b", silent=True)
    a.join()
    b.join()
    rig.settle()
    (c,) = rig.add("c")
    clone(rig, b)
    notice = alert(rig)
    assert notice is not None
    assert (notice.client_id, notice.count, notice.severity) == ("b", 1, "error")
    assert "clear d/<device>/status" in notice.text
    a.silent = b.silent = False
    rig.published.clear()
    c.join()
    a.come_back()
    a.status(S.OFFLINE)
    a.join()
    rig.finish()
    assert rig.said(Command, client_id="b") == []
    assert [summary["participants"] for summary in rig.summaries()] == [2, 2]
    assert rig.now < 1000.0 + rig.config.deadline_s


def test_nothing_new_is_taken_from_a_cloned_device_until_its_status_is_cleared(
    make_rig: Any, update_maker: Any
) -> None:
    rig, _, b = begin_in_silence(make_rig)
    clone(rig, b)
    update = update_maker(client_id="b", run=rig.state.run.run, round_id=1)
    rig.say(UpManifest("b", update.uid), update.manifest)
    rig.advance(1.0)
    assert rig.said(Alert, code="refused-cloned")
    assert rig.state.store.load().updates == ()
    topic = DeviceTopic("b", "status")
    rig.say(topic, b"", retain=True)
    rig.settle()
    assert alert(rig) is None
    rig.say(UpManifest("b", update.uid), update.manifest)
    rig.settle()
    assert [record.uid for record in rig.state.store.load().updates] == [update.uid]


def test_a_quarantine_outlives_the_aggregator_and_the_broker(
    make_rig: Any, update_maker: Any
) -> None:
    rig, a, b = begin_in_silence(make_rig)
    clone(rig, b)
    rig.published.clear()
    rig.restart()
    a.join()
    b.join()
    rig.settle()
    notice = alert(rig)
    assert notice is not None
    assert notice.text.startswith("b: two devices share one identity")
    assert rig.said(Command, client_id="b") == []
    update = update_maker(client_id="b", run=rig.state.run.run, round_id=1)
    rig.say(UpManifest("b", update.uid), update.manifest)
    rig.advance(1.0)
    assert rig.state.store.load().updates == ()
    rig.say(DeviceTopic("b", "status"), b"", retain=True)
    rig.settle()
    rig.published.clear()
    rig.restart()
    rig.settle()
    assert alert(rig) is None


def test_one_number_for_two_updates_is_a_clone_though_no_session_comes_back(
    make_rig: Any, update_maker: Any
) -> None:
    """Two boards that take turns, each started anew, look like one that restarts."""
    rig, _, _ = begin_in_silence(make_rig)
    made = [
        update_maker(client_id="b", run=rig.state.run.run, round_id=1, seq=7, steps=steps)
        for steps in (1, 2)
    ]
    for update in made:
        rig.say(UpManifest("b", update.uid), update.manifest)
        rig.advance(1.0)
    notice = alert(rig)
    assert notice is not None
    assert notice.client_id == "b"
    assert [record.uid for record in rig.state.store.load().updates] == [made[0].uid]
    assert rig.said(Alert, code="refused-twin")
    (_, payload) = rig.said(Down, client_id="b", uid=made[1].uid)[-1]
    receipt = frame.decode(Receipt, payload)
    assert (receipt.state, receipt.reason) == (ReceiptState.REFUSED, "twin")


def test_what_was_let_in_before_still_counts(make_rig: Any) -> None:
    """It is named by its bytes, so that it cannot become another update on the way."""
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=1).start()
    a, b = rig.add("a", "b")
    a.join()
    a.most_segments = b.most_segments = 1
    b.join()
    rig.settle()
    clone(rig, b)
    a.most_segments = b.most_segments = None
    for device in (a, b):
        for sender in device.senders.values():
            sender.disconnected(rig.now)
        device.reconnect()
    rig.finish()
    # It is not waited for: the round closes with what has come of it.
    assert [(one["complete"], one["partial"]) for one in rig.summaries()] == [(1, 1)]
    assert [receipt.state for receipt in b.receipts.values()] == [ReceiptState.PARTIAL]


def test_what_is_delivered_again_over_a_new_connection_clones_nobody(make_rig: Any) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=3, rounds=1).start()
    (a,) = rig.add("a")
    a.join()
    a.session = "s2"
    a.join()
    rig.settle()
    again = [
        Delivery(
            topic=f"fl/v1/lab/d/a/{leaf}",
            payload=control.encode(DeviceStatus(S.IDLE, session)),
            qos=1,
            retain=False,
            mid=0,
        )
        for leaf, session in (("status", "s1"), ("status", "s2"))
    ]
    rig.lose_link()
    process, seen = rig.service._process, []

    def process_behind_what_comes_again(events: list[Any]) -> None:
        process(events)
        if not seen:  # right behind LinkUp, before anything that is retained
            seen.append(True)
            process(again)

    rig.service._process = process_behind_what_comes_again
    rig.regain_link()
    rig.settle()
    assert alert(rig) is None
    assert rig.service._coordinator._presence.eligible() == ("a",)
