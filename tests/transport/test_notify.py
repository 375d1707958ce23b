"""What systemd hears of a service, over a socket of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from transport.notify import Heartbeat, Notifier, Outage, duration


class Supervisor:
    """The other end of `$NOTIFY_SOCKET`."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0", 1))
        self.socket.settimeout(0.0)
        self.environ = {
            "NOTIFY_SOCKET": name,
            "WATCHDOG_USEC": "8000000",
            "WATCHDOG_PID": str(os.getpid()),
        }

    def heard(self) -> list[str]:
        words = []
        while True:
            try:
                words.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return words


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    name = str(tmp_path / "n") if request.param == "path" else f"@fedfstq-test-{os.getpid()}"
    made = Supervisor(name)
    yield made
    made.socket.close()


def test_every_word_reaches_the_supervisor(supervisor: Supervisor) -> None:
    notifier = Notifier(supervisor.environ)
    assert notifier.is_supervised
    notifier.ready()
    notifier.status("training\nround 12")
    notifier.ping()
    notifier.stopping()
    assert supervisor.heard() == [
        "READY=1",
        "STATUS=training round 12",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_a_status_is_said_once_and_not_at_any_length(supervisor: Supervisor) -> None:
    notifier = Notifier(supervisor.environ)
    for text in ("a", "a", "b" * 1000, "a"):
        notifier.status(text)
    assert supervisor.heard() == ["STATUS=a", "STATUS=" + "b" * 200, "STATUS=a"]


@pytest.mark.parametrize(
    "environ",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "relative"}],
)
def test_without_systemd_nothing_is_said(environ: dict[str, str]) -> None:
    notifier = Notifier({**environ, "WATCHDOG_USEC": "8000000"})
    assert not notifier.is_supervised
    assert notifier.watchdog_s is None
    notifier.ready()
    Heartbeat(notifier, is_turning=lambda _now: pytest.fail("nobody asks")).beat(0.0)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "/" + "x" * 300, "@" + "x" * 300])
def test_a_supervisor_that_cannot_be_reached_raises_nothing(name: str) -> None:
    Notifier({"NOTIFY_SOCKET": name}).ready()


def test_a_full_queue_blocks_nobody(supervisor: Supervisor) -> None:
    notifier = Notifier(supervisor.environ)
    for _ in range(10_000):
        notifier.ping()
    assert 0 < len(supervisor.heard()) < 10_000


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 8.0),
        ({"WATCHDOG_PID": ""}, 8.0),
        ({"WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_watchdog_is_the_one_that_is_meant_for_this_process(
    supervisor: Supervisor, changes: dict[str, str], expected: float | None
) -> None:
    assert Notifier({**supervisor.environ, **changes}).watchdog_s == expected


def test_a_heartbeat_pings_four_times_in_an_interval_however_often_the_loop_turns(
    supervisor: Supervisor,
) -> None:
    heartbeat = Heartbeat(Notifier(supervisor.environ), is_turning=lambda _now: True)
    assert heartbeat.interval_s == 2.0
    for tick in range(80):
        heartbeat.beat(1000.0 + tick / 10)
    assert supervisor.heard() == ["WATCHDOG=1"] * 4


def test_a_thread_that_hangs_stops_the_pings_until_it_goes_on(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    turning = True
    heartbeat = Heartbeat(Notifier(supervisor.environ), is_turning=lambda _now: turning)
    heartbeat.beat(0.0)
    turning = False
    heartbeat.beat(2.0)
    heartbeat.beat(4.0)
    assert supervisor.heard() == ["WATCHDOG=1"]
    assert caplog.text.count("the link's thread hangs") == 1
    turning = True
    heartbeat.beat(6.0)
    assert supervisor.heard() == ["WATCHDOG=1"]


def test_a_loop_that_hangs_pings_no_more(supervisor: Supervisor) -> None:
    """Nothing but `beat` pings: no timer, no thread."""
    Heartbeat(Notifier(supervisor.environ), is_turning=lambda _now: True)
    assert supervisor.heard() == []


def test_an_outage_is_told_in_words_until_it_is_over() -> None:
    outage = Outage(100.0)
    assert outage.words(105.0) == "no broker for 5 s"
    outage.connected()
    assert outage.words(300.0) == ""
    outage.disconnected(400.0)
    assert outage.words(599.0) == "no broker for 3 min"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (60.0, "1 min"), (7199.0, "119 min"), (7200.0, "2 h")],
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
