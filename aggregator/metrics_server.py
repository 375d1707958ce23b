"""`/metrics` and `/healthz` over HTTP, in a thread that the service never waits for.

The service's thread folds what it sees and leaves an immutable picture at most once a second; the
server's thread reads the newest one. No lock is shared, one connection is served at a time within
a bound of bytes and seconds, and whatever goes wrong here ends with a line in the log.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from typing_extensions import Self

from aggregator.inbound import Inbound, Unreadable
from aggregator.metrics import Health, Metrics, Sampled
from aggregator.metrics_config import MetricsConfig, parse_listen
from aggregator.metrics_families import Kind

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4096
# [s] For one request and its answer, however slowly they come.
REQUEST_S = 2.0
ANSWER_S = 5.0
# Reads of what is too long, at most.
_MAX_DRAINED = 25
# [s] Between two attempts to listen, where the address is taken or not there yet.
LISTEN_AGAIN_S = 5.0
# [s] How late the thread notices that it is to end.
POLL_S = 0.2
# [s] Between two pictures.
SAMPLE_S = 1.0

_TEXT = "text/plain; charset=utf-8"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Monitoring:
    """Lets Prometheus see the service; without a configuration it does nothing.

    A context: the server's thread lives inside of it. None of its methods raises or waits.
    """

    def __init__(self, config: MetricsConfig | None) -> None:
        self._config = config
        self._metrics = Metrics(device_labels=config.device_labels if config else 0)
        self._server: MetricsServer | None = None
        self._next_sample_at = 0.0
        self._has_failed = False

    def __enter__(self) -> Self:
        if self._config is not None:
            self._server = MetricsServer(self._config)
            self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def received(self, inbound: Inbound | Unreadable | None) -> None:
        """Note what a device has said."""
        if self._server is not None and inbound is not None:
            with self._harmless():
                self._metrics.received(inbound)

    def decided(self, outputs: Iterable[object]) -> None:
        """Note what is about to be done."""
        if self._server is not None:
            with self._harmless():
                self._metrics.decided(outputs, now=time.monotonic())

    def sent(self, packet_bytes: int) -> None:
        """Note what was published under `flx/`."""
        if self._server is not None:
            with self._harmless():
                self._metrics.sent(packet_bytes)

    def turned(
        self, now: float, *, leads: bool, is_connected: bool, is_linked: bool, words: str
    ) -> None:
        """Note that the service's loop has come around.

        Args:
            now: Monotonic seconds.
            leads: Whether this aggregator leads.
            is_connected: Whether the broker is reached.
            is_linked: Whether the link's thread is at work.
            words: What the service does.
        """
        if self._server is None:
            return
        with self._harmless():
            if not is_linked:
                words = "the link's thread hangs"
            self._server.health = Health(now, leads and is_linked, words)
            self._metrics.turned(leads=leads, is_connected=is_connected)
            if now >= self._next_sample_at:
                self._next_sample_at = now + SAMPLE_S
                self._server.samples = self._metrics.sample(now)

    def works(self, now: float) -> None:
        """Note that a long computation goes on."""
        if self._server is not None and self._server.health is not None:
            before = self._server.health
            self._server.health = Health(now, before.leads, before.words)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """Let no fault of monitoring end a run."""
        try:
            yield
        except Exception:
            if not self._has_failed:
                logger.exception("metrics are wrong from now on")
            self._has_failed = True


class MetricsServer(threading.Thread):
    """Answers Prometheus, one connection at a time.

    Attributes:
        samples: The newest picture, replaced as a whole by the service's thread.
        health: The same, of its loop; None before it has come around.
        port: Where it listens; 0 while it does not.
    """

    def __init__(self, config: MetricsConfig) -> None:
        super().__init__(name="metrics", daemon=True)
        self.samples: tuple[Sampled, ...] = ()
        self.health: Health | None = None
        self.port = 0
        self._address = parse_listen(config.listen)
        self._stopping = threading.Event()
        self._rendered: tuple[tuple[Sampled, ...], bytes] | None = None
        self._has_complained = False

    def stop(self) -> None:
        """End the thread, and return soon, whether it has ended or not."""
        self._stopping.set()
        self.join(1.0)

    def run(self) -> None:
        """Serve until `stop`; an address that cannot be had is tried again."""
        while not self._stopping.is_set():
            try:
                with self._listen() as listener:
                    self._serve(listener)
            except OSError as error:
                if not self._has_complained:
                    host, port = self._address
                    logger.error(  # noqa: TRY400 - one clear line
                        "no metrics: %s port %d: %s; it is tried again", host, port, error
                    )
                self._has_complained = True
                self.port = 0
                self._stopping.wait(LISTEN_AGAIN_S)

    def _listen(self) -> socket.socket:
        host, port = self._address
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=8)
        listener.settimeout(POLL_S)
        self.port = listener.getsockname()[1]
        self._has_complained = False
        logger.info("metrics at http://%s:%d/metrics", host, self.port)
        return listener

    def _serve(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                try:
                    self._answer(connection)
                except OSError:
                    continue  # who asked has gone, or was too slow
                except Exception:
                    # The next request may be luckier; a dead thread would help nobody.
                    logger.exception("a request for metrics has failed")

    def _answer(self, connection: socket.socket) -> None:
        head = _read_head(connection, until=time.monotonic() + REQUEST_S)
        status, content_type, body, is_head = 431, _TEXT, b"the request is too long\n", False
        if head is not None:
            method, _, rest = head.partition(b" ")
            path, space, protocol = rest.partition(b"\r\n")[0].partition(b" ")
            is_head = method == b"HEAD"
            if not space or not protocol.startswith(b"HTTP/1."):
                status, body = 400, b"this speaks HTTP/1.1\n"
            elif method not in {b"GET", b"HEAD"}:
                status, body = 405, b"GET it\n"
            else:
                status, content_type, body = self._page(path.partition(b"?")[0])
        lines = (
            f"HTTP/1.1 {status} {_PHRASES[status]}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
            *(("Allow: GET, HEAD",) if status == 405 else ()),  # noqa: PLR2004 - HTTP's number
        )
        answer = "\r\n".join((*lines, "", "")).encode()
        connection.settimeout(ANSWER_S)  # of `sendall` as a whole
        connection.sendall(answer if is_head else answer + body)
        connection.shutdown(socket.SHUT_WR)
        if head is None:
            _drain(connection)

    def _page(self, path: bytes) -> tuple[int, str, bytes]:
        if path == b"/metrics":
            return 200, _EXPOSITION, self._exposition()
        if path == b"/healthz":
            health = self.health
            is_well, words = (
                (False, "starting") if health is None else health.verdict(time.monotonic())
            )
            return 200 if is_well else 503, _TEXT, " ".join(words.split()).encode() + b"\n"
        return 404, _TEXT, b"there are /metrics and /healthz\n"

    def _exposition(self) -> bytes:
        """Return the newest picture as text, made once for each picture."""
        samples, rendered = self.samples, self._rendered
        if rendered is None or rendered[0] is not samples:
            rendered = self._rendered = (samples, exposition(samples))
        return rendered[1]


def exposition(samples: Iterable[Sampled]) -> bytes:
    """Return metrics in Prometheus' text format."""
    # An extra: who asks for no metrics does without it.
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
    from prometheus_client.core import (  # noqa: PLC0415
        CounterMetricFamily,
        GaugeMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class _Picture(Collector):
        def collect(self) -> Iterator[Metric]:
            for one in samples:
                family = one.family
                metric: CounterMetricFamily | GaugeMetricFamily
                if family.kind is Kind.COUNTER:
                    metric = CounterMetricFamily(family.name, family.text, labels=family.labels)
                else:
                    metric = GaugeMetricFamily(family.name, family.text, labels=family.labels)
                for labels, value in one.samples:
                    metric.add_metric(labels, value)
                yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Picture())
    return generate_latest(registry)


def _drain(connection: socket.socket) -> None:
    """Let the answer arrive: what is closed before all was read is reset, with what it said."""
    connection.settimeout(ANSWER_S / _MAX_DRAINED)
    for _ in range(_MAX_DRAINED):
        if not connection.recv(MAX_REQUEST_BYTES):
            return


def _read_head(connection: socket.socket, *, until: float) -> bytes | None:
    """Return a request up to its empty line; None where it is too long.

    Raises:
        OSError: It does not come in time, or never.
    """
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > MAX_REQUEST_BYTES:
            return None
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        piece = connection.recv(1024)
        if not piece:
            raise ConnectionResetError
        head += piece
    return head
