from __future__ import annotations

import socket

import pytest

from transport import sockets
from transport.limits import MAX_CONTROL_BYTES
from transport.silence import TcpView, Verdict
from transport.watch import Watch


def view(*, received_ago_s: float) -> TcpView:
    return TcpView(
        outstanding=0,
        is_drained=True,
        acknowledged_ago_s=0.1,
        received_ago_s=received_ago_s,
        rtt_s=0.1,
        rtt_deviation_s=0.02,
    )


@pytest.mark.parametrize(
    ("payload_bytes", "verdict"),
    [(MAX_CONTROL_BYTES, Verdict.KEEP), (MAX_CONTROL_BYTES + 1, Verdict.ASK)],
)
def test_only_segments_make_a_transfer_that_is_asked_for(
    payload_bytes: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "look", lambda *_, **__: view(received_ago_s=5.0))
    watch = Watch()
    watch.note(payload_bytes, now=100.0)
    with socket.socket() as sock:
        assert watch.look(sock, is_queue_empty=True, now=105.0) is verdict


def test_a_system_that_tells_nothing_keeps_its_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "look", lambda *_, **__: None)
    watch = Watch()
    watch.note(MAX_CONTROL_BYTES + 1, now=0.0)
    with socket.socket() as sock:
        for now in range(1, 600):
            assert watch.look(sock, is_queue_empty=True, now=float(now)) is Verdict.KEEP


def test_the_socket_is_not_read_at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(sockets, "look", lambda *_, **__: looks.append(1))
    watch = Watch()
    with socket.socket() as sock:
        for turn in range(1000):
            watch.look(sock, is_queue_empty=True, now=turn / 1000)
    assert 2 <= len(looks) <= 5
