"""A link between two real sockets of this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tools.demo.slow_link import SlowLink

KBIT_S = 80.0
UP = b"u" * 5_000


@pytest.fixture
def broker() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10.0)
        yield listener


def take(end: socket.socket, size: int) -> bytes:
    taken = b""
    while len(taken) < size and (part := end.recv(size - len(taken))):
        taken += part
    return taken


def connected(link: SlowLink, broker: socket.socket) -> tuple[socket.socket, socket.socket]:
    device = socket.create_connection(("127.0.0.1", link.port), timeout=10.0)
    end, _ = broker.accept()
    end.settimeout(10.0)
    return device, end


def test_all_of_it_arrives_no_faster_than_the_link_is(broker: socket.socket) -> None:
    with SlowLink(*broker.getsockname(), kbit_s=KBIT_S) as link:
        device, end = connected(link, broker)
        with device, end:
            end.sendall(b"d" * 200_000)  # what comes down is not held up
            began = time.monotonic()
            device.sendall(UP)
            assert take(device, 200_000) == b"d" * 200_000
            assert take(end, len(UP)) == UP
            assert time.monotonic() - began >= 0.9 * 8 * len(UP) / (1000 * KBIT_S)


def test_an_end_that_closes_closes_the_other(broker: socket.socket) -> None:
    with SlowLink(*broker.getsockname(), kbit_s=KBIT_S) as link:
        for closes_first in ("device", "broker"):
            device, end = connected(link, broker)
            first, second = (device, end) if closes_first == "device" else (end, device)
            with first, second:
                first.close()
                assert second.recv(1) == b""


def test_a_link_that_ends_lets_go_of_everybody(broker: socket.socket) -> None:
    with SlowLink(*broker.getsockname(), kbit_s=KBIT_S) as link:
        device, end = connected(link, broker)
    with device, end:
        assert device.recv(1) == b""
        assert end.recv(1) == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", link.port), timeout=1.0)


def test_a_link_that_ends_lets_go_of_who_was_about_to_come(
    broker: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has accepted by then, and the link has not taken note of it."""
    reached, goes_on = threading.Event(), threading.Event()
    create = socket.create_connection

    def slowly(address: tuple[str, int], **options: float) -> socket.socket:
        found = create(address, **options)
        reached.set()
        goes_on.wait(10.0)
        return found

    with SlowLink(*broker.getsockname(), kbit_s=KBIT_S) as link:
        device = create(("127.0.0.1", link.port), timeout=10.0)
        monkeypatch.setattr(socket, "create_connection", slowly)
        assert reached.wait(10.0)
    goes_on.set()
    with device:
        assert device.recv(1) == b""


def test_without_a_broker_a_device_is_let_go() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with (
        SlowLink(*address, kbit_s=KBIT_S) as link,
        socket.create_connection(("127.0.0.1", link.port), timeout=10.0) as device,
    ):
        assert device.recv(1) == b""
