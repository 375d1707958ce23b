"""Nothing passes the gate but what the one that leads says, and what devices said waits there."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from aggregator.fencing import CLAIM_S, Claim, Fence, Yield
from aggregator.gate import MAX_BATCH, MAX_HELD_BYTES, MAX_HELD_UPLOADS, Gate, encode
from transport import control, frame
from transport.control import AlertNotice, ServiceState, ServiceStatus
from transport.errors import LinkLost
from transport.link import Delivery, LinkDown, LinkUp, Publication
from transport.messages import Want
from transport.topics import (
    Alert,
    CoordStatus,
    DeviceTopic,
    Down,
    Response,
    Topics,
    UpSegment,
)

TOPICS = Topics("lab")
STATUS = TOPICS.topic(CoordStatus())


class ListLink:
    """A link that keeps what it is given."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.published: list[Publication] = []
        self.alive = True
        self.fault: Exception | None = None

    def publish(self, publication: Publication) -> None:
        if self.fault is not None:
            raise self.fault
        self.published.append(publication)


@pytest.fixture
def link() -> ListLink:
    return ListLink()


@pytest.fixture
def fence() -> Fence:
    return Fence(run="r", epoch=1, session="m", software="1", version=0, sha256="0")


@pytest.fixture
def gate(link: Any, fence: Fence) -> Gate:
    return Gate(link, fence, topics=TOPICS, mqtt_version="5")


def delivery(topic: str, payload: bytes = b"", *, retain: bool = False) -> Delivery:
    return Delivery(topic, payload, qos=1, retain=retain, mid=1)


def said(status: ServiceStatus) -> Delivery:
    return delivery(STATUS, control.encode(status))


def lead(fence: Fence) -> None:
    (question,) = fence.connected(0.0)
    assert isinstance(question, Claim)
    fence.heard(question.status, retained=False, now=0.0)
    fence.tick(CLAIM_S)
    assert fence.leads


def test_only_who_leads_publishes(gate: Gate, link: ListLink, fence: Fence) -> None:
    gate.has_told = True
    assert gate.publish("fl/v1/lab/round", b"{}", retain=True) == 0
    assert not gate.has_told
    lead(fence)
    assert gate.publish("fl/v1/lab/round", b"{}", retain=True) > 0
    (publication,) = link.published
    assert (publication.topic, publication.retain) == ("fl/v1/lab/round", True)


def test_a_claim_passes_and_is_not_retained(gate: Gate, link: ListLink) -> None:
    status = ServiceStatus(ServiceState.STARTING, "m", "1", run="r", epoch=1)
    gate.claim(Claim(status))
    (publication,) = link.published
    assert publication.topic == STATUS
    assert not publication.retain
    link.fault = LinkLost("gone")
    gate.claim(Claim(status))


def test_what_a_lost_link_or_a_packet_limit_keeps_back_is_no_error(
    gate: Gate, link: ListLink, fence: Fence, caplog: pytest.LogCaptureFixture
) -> None:
    lead(fence)
    gate.has_told = True
    link.fault = ValueError("a packet of 9 bytes, at most 8 are sent")
    assert gate.publish("fl/v1/lab/round", b"{}", retain=True) == 0
    assert gate.has_told
    assert "not published" in caplog.text
    link.fault = LinkLost("gone")
    assert gate.publish("fl/v1/lab/round", b"{}", retain=True) == 0
    assert not gate.has_told


def test_events_come_in_batches_in_their_order(gate: Gate, link: ListLink) -> None:
    events = [LinkDown(str(number)) for number in range(MAX_BATCH + 2)]
    for event in events:
        link.events.put(event)
    assert gate.take_events(None) == events[:MAX_BATCH]
    assert gate.take_events(None) == events[MAX_BATCH:]
    assert gate.take_events(0.0) == []
    link.alive = False
    with pytest.raises(LinkLost, match="thread"):
        gate.take_events(0.0)


def test_looking_around_finds_another_one_and_loses_no_event(
    gate: Gate, link: ListLink, fence: Fence
) -> None:
    lead(fence)
    other = said(ServiceStatus(ServiceState.RUNNING, "z", "1", run="r", epoch=2))
    device = delivery(TOPICS.topic(DeviceTopic("a", "status")))
    for event in (device, other):
        link.events.put(event)
    (verdict,) = gate.look_around(5.0)
    assert isinstance(verdict, Yield)
    assert gate.take_events(None) == [device, other]


def test_looking_around_sees_that_the_connection_was_another_one(
    gate: Gate, link: ListLink, fence: Fence
) -> None:
    """It may have been another aggregator's time to lead in between."""
    lead(fence)
    for event in (LinkDown("cut"), LinkUp(session_present=True)):
        link.events.put(event)
    assert gate.look_around(5.0) == []
    assert not fence.leads
    assert len(gate.take_events(None)) == 2


def test_what_devices_say_waits_and_uploads_only_so_many(gate: Gate) -> None:
    statuses = [
        delivery(TOPICS.topic(DeviceTopic(f"d{number}", "status")))
        for number in range(2 * MAX_HELD_UPLOADS)
    ]
    segments = [
        delivery(TOPICS.topic(UpSegment("a", "0" * 32, number)))
        for number in range(2 * MAX_HELD_UPLOADS)
    ]
    for one in (*segments, *statuses):
        assert gate.overhear(one, now=0.0) is None
        gate.hold(one)
    assert gate.release() == [*segments[:MAX_HELD_UPLOADS], *statuses]
    assert gate.release() == []


def test_a_status_does_not_outlive_the_connection_that_showed_it(gate: Gate) -> None:
    """The device may be away by then; the next connection's broker tells whether it is."""
    status = delivery(TOPICS.topic(DeviceTopic("a", "status")), b"{}", retain=True)
    cleared = delivery(TOPICS.topic(DeviceTopic("b", "status")))
    telemetry = delivery(TOPICS.topic(DeviceTopic("a", "telemetry")), b"{}")
    answer = delivery(TOPICS.topic(Response("a", "train", "0" * 16)), b"{}")
    segment = delivery(TOPICS.topic(UpSegment("a", "0" * 32, 0)), b"{}")
    nonsense = delivery("fl/v1/lab/what", b"{}")
    for one in (status, cleared, telemetry, answer, segment, nonsense):
        gate.hold(one)
    gate.disconnected()
    assert gate.release() == [cleared, telemetry, answer, segment, nonsense]


def test_messages_for_people_get_the_wall_clock_and_others_their_frame() -> None:
    status = ServiceStatus(ServiceState.RUNNING, "m", "1")
    assert control.decode(ServiceStatus, encode(STATUS, status)).ts > 0
    alert = TOPICS.topic(Alert("stalled"))
    assert control.decode(AlertNotice, encode(alert, AlertNotice("warning", "w"))).since > 0
    assert encode(alert, None) == b""
    down = TOPICS.topic(Down("a", "0" * 32))
    assert encode(down, Want(1)) == frame.encode(Want(1))


def test_what_devices_say_takes_bounded_memory_while_nobody_leads(gate: Gate) -> None:
    long = bytes(64 << 10)
    for number in range(2 * MAX_HELD_BYTES // len(long)):
        gate.hold(delivery(TOPICS.topic(DeviceTopic(f"d{number}", "status")), long))
    assert sum(len(one.payload) for one in gate.release()) <= MAX_HELD_BYTES
    short = delivery(TOPICS.topic(DeviceTopic("d", "status")))
    gate.hold(short)
    assert gate.release() == [short], "what was released takes no room any more"
