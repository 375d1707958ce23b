"""The metrics' server on a real socket, before good clients, bad ones and none."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aggregator import metrics_server
from aggregator.inbound import Inbound
from aggregator.metrics import Metrics
from aggregator.metrics_config import MetricsConfig
from aggregator.metrics_families import FAMILIES
from aggregator.metrics_server import MAX_REQUEST_BYTES, Monitoring, exposition
from transport.control import DeviceState, DeviceStatus
from transport.topics import DeviceTopic


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def monitoring() -> Iterator[Monitoring]:
    with Monitoring(MetricsConfig(listen="127.0.0.1:0")) as monitoring:
        wait_for(lambda: monitoring._server and monitoring._server.port)
        yield monitoring


def port_of(monitoring: Monitoring) -> int:
    assert monitoring._server is not None
    return monitoring._server.port


def turn(monitoring: Monitoring, *, leads: bool = True, is_linked: bool = True) -> None:
    monitoring.turned(
        time.monotonic(), leads=leads, is_connected=True, is_linked=is_linked, words="round 7 of 20"
    )


def ask(monitoring: Monitoring, request: bytes) -> tuple[int, dict[str, str], str]:
    with socket.create_connection(("127.0.0.1", port_of(monitoring)), 20) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), headers, body.decode()


def get(monitoring: Monitoring, path: str) -> tuple[int, dict[str, str], str]:
    return ask(monitoring, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_metrics_are_served_in_prometheus_text(monitoring: Monitoring) -> None:
    status = DeviceStatus(DeviceState.IDLE, "s")
    monitoring.received(Inbound(DeviceTopic("a", "status"), "a", status, 50))
    monitoring.sent(300)
    turn(monitoring)
    code, headers, body = get(monitoring, "/metrics?x=1")
    assert code == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert int(headers["Content-Length"]) == len(body)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert found["fedfstq_bytes_down_total",] == 300.0
    assert found["fedfstq_device_up", "a"] == 1.0


def test_the_library_writes_every_name_as_it_is_written_here() -> None:
    text = exposition(Metrics(device_labels=1).sample(0.0)).decode()
    typed = {
        (line.split(" ")[2], line.split(" ")[3])
        for line in text.splitlines()
        if line.startswith("# TYPE")
    }
    assert typed == {(family.name, family.kind.value) for family in FAMILIES}


def test_health_is_200_while_it_leads_and_503_otherwise(monitoring: Monitoring) -> None:
    assert get(monitoring, "/healthz")[::2] == (503, "starting\n")
    turn(monitoring)
    assert get(monitoring, "/healthz")[::2] == (200, "round 7 of 20\n")
    turn(monitoring, leads=False)
    assert get(monitoring, "/healthz")[::2] == (503, "round 7 of 20\n")
    turn(monitoring, is_linked=False)
    assert get(monitoring, "/healthz")[::2] == (503, "the link's thread hangs\n")


def test_a_loop_that_hangs_is_told_and_a_long_average_is_none(monitoring: Monitoring) -> None:
    long_ago = time.monotonic() - 1000
    monitoring.turned(long_ago, leads=True, is_connected=True, is_linked=True, words="averaging")
    code, _, body = get(monitoring, "/healthz")
    assert (code, body) == (503, "the loop has not come around for 1000 s\n")
    monitoring.works(time.monotonic())
    assert get(monitoring, "/healthz")[::2] == (200, "averaging\n")


def test_head_has_no_body(monitoring: Monitoring) -> None:
    code, headers, body = ask(monitoring, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (code, body) == (200, "")
    assert int(headers["Content-Length"]) >= 0


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/../etc HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET /" + b"a" * (2 * MAX_REQUEST_BYTES) + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000, 431),
    ],
)
def test_nothing_else_is_served(monitoring: Monitoring, request_bytes: bytes, code: int) -> None:
    assert ask(monitoring, request_bytes)[0] == code
    turn(monitoring)
    assert get(monitoring, "/healthz")[0] == 200


def test_who_says_nothing_is_left_after_a_moment(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_S", 0.2)
    turn(monitoring)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            silent = socket.create_connection(("127.0.0.1", port_of(monitoring)), 20)
            stack.enter_context(silent)
        assert get(monitoring, "/healthz")[0] == 200


def test_who_asks_a_byte_at_a_time_is_left_as_well(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", port_of(monitoring)), 20) as slow:
        with contextlib.suppress(OSError):
            for _ in range(400):
                slow.sendall(b"G")
                time.sleep(0.05)
            pytest.fail("it was listened to for 20 s")
        turn(monitoring)
        assert get(monitoring, "/healthz")[0] == 200


def test_who_goes_away_in_the_middle_disturbs_nobody(monitoring: Monitoring) -> None:
    for request in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port_of(monitoring)), 20) as connection:
            connection.sendall(request)
    turn(monitoring)
    assert get(monitoring, "/healthz")[0] == 200


def test_a_picture_is_made_once_a_second_and_written_once(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(samples: object) -> bytes:
        written.append(samples)
        return b"numbers\n"

    monkeypatch.setattr(metrics_server, "exposition", write)
    for now in (10.0, 10.5, 10.9):
        monitoring.turned(now, leads=True, is_connected=True, is_linked=True, words="")
        assert get(monitoring, "/metrics")[2] == "numbers\n"
    assert len(written) == 1
    monitoring.turned(11.1, leads=True, is_connected=True, is_linked=True, words="")
    assert get(monitoring, "/metrics")[0] == 200
    assert len(written) == 2


def test_a_fault_in_counting_ends_nothing_and_is_told_once(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    for name in ("received", "decided", "sent", "turned"):
        monkeypatch.setattr(Metrics, name, fail)
    for _ in range(3):
        monitoring.received(Inbound(DeviceTopic("a", "status"), "a", None, 1))
        monitoring.decided([])
        monitoring.sent(1)
        turn(monitoring)
    assert caplog.text.count("metrics are wrong from now on") == 1
    assert get(monitoring, "/healthz")[0] == 200


def test_a_fault_in_answering_leaves_the_next_one_an_answer(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bytes:
        raise RuntimeError("a bug")

    turn(monitoring)
    with monkeypatch.context() as patch:
        patch.setattr(metrics_server, "exposition", fail)
        with pytest.raises((IndexError, ValueError, OSError)):
            get(monitoring, "/metrics")
    assert get(monitoring, "/metrics")[0] == 200


def test_an_address_that_is_taken_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics_server, "LISTEN_AGAIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with Monitoring(MetricsConfig(listen=listen)) as monitoring:
            wait_for(lambda: "it is tried again" in caplog.text)
            turn(monitoring)
            other.close()
            wait_for(lambda: port_of(monitoring))
            assert get(monitoring, "/healthz")[0] == 200
    assert caplog.text.count("it is tried again") == 1


def test_without_a_configuration_there_is_no_thread_and_nothing_is_counted() -> None:
    with Monitoring(None) as monitoring:
        monitoring.sent(300)
        monitoring.received(None)
        monitoring.decided([])
        turn(monitoring)
        monitoring.works(1.0)
        assert monitoring._server is None
        assert all(
            value == 0 for one in monitoring._metrics.sample(0.0) for _, value in one.samples
        )
