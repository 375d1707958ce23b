"""The served dashboard: its streams, its limits, its certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tools.dashboard import server, stream
from tools.dashboard.auth import Address
from tools.dashboard.server import CannotServe, Tls, bind, make_server

Serve = Callable[..., Any]


def until_pages(dashboard: Any, pages: int) -> None:
    limit = time.monotonic() + 30
    while dashboard.feed.pages != pages:
        assert time.monotonic() < limit, f"{dashboard.feed.pages} pages, not {pages}"
        time.sleep(0.02)


def read_to_its_end(connection: socket.socket) -> None:
    """Return once the other side has closed it; a timeout fails the test."""
    connection.settimeout(20)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 20):
            pass


def test_a_page_is_told_what_changes(serve: Serve) -> None:
    dashboard = serve()
    page = dashboard.stream()
    assert page.response.status == 200
    assert page.response.getheader("content-type").startswith("text/event-stream")
    assert page.response.getheader("cache-control") == "no-store"
    first = page.next()
    assert first.name == "snapshot"
    assert first.value["federation"] == "clinics"
    dashboard.tell({"devices.a": {"id": "a", "step": 1}, "now_s": 7.5})
    assert page.next().value == {"devices.a": {"id": "a", "step": 1}, "now_s": 7.5}
    dashboard.tell({"devices.a": {"id": "a", "step": 2}})
    assert page.next().value == {"devices.a": {"step": 2}}
    late = dashboard.stream().next()
    assert late.value["devices"] == {"a": {"id": "a", "step": 2}}


def test_a_page_that_leaves_is_forgotten(serve: Serve) -> None:
    dashboard = serve()
    page = dashboard.stream()
    page.next()
    assert dashboard.feed.pages == 1
    page.close()
    until_pages(dashboard, 0)


def test_a_page_that_does_not_read_is_cut_off_and_costs_others_nothing(serve: Serve) -> None:
    dashboard = serve(stuck_s=0.5)
    reading = dashboard.stream()
    reading.next()
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with stuck:
        stuck.connect((dashboard.address.host, dashboard.address.port))
        stuck.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until_pages(dashboard, 2)
        number, limit = 0, time.monotonic() + 30
        while dashboard.feed.pages == 2:
            number += 1
            assert time.monotonic() < limit, "it is never cut off"
            dashboard.tell({"round": {"round_id": number, "words": "x" * 200_000}})
            assert reading.next().value["round"]["round_id"] == number
        until_pages(dashboard, 1)
        stuck.settimeout(20)
        read_to_its_end(stuck)
    dashboard.tell({"round": {"round_id": 0}})
    assert reading.next().value == {"round": {"round_id": 0}}


def test_many_pages_are_served_and_one_too_many_is_told_so(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_PAGES", 40)
    dashboard = serve()
    pages = [dashboard.stream() for _ in range(40)]
    for page in pages:
        assert page.next().name == "snapshot"
    status, headers, body = dashboard.get("/events")
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert b"no more" in body
    for number in range(5):
        dashboard.tell({"now_s": float(number + 100)})
        assert {page.next().value["now_s"] for page in pages} == {number + 100.0}


def test_a_connection_that_asks_nothing_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.2)
    dashboard = serve()
    address = (dashboard.address.host, dashboard.address.port)
    with socket.create_connection(address, timeout=20) as silent:
        read_to_its_end(silent)


def test_there_is_an_end_to_connections(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    dashboard = serve()
    kept = [dashboard.stream() for _ in range(2)]
    for page in kept:
        page.next()
    with pytest.raises((ConnectionError, OSError)):
        dashboard.get("/about")
    kept[0].close()
    until_pages(dashboard, 1)
    assert dashboard.get("/about")[0] == 200


def test_pages_end_when_the_server_does(serve: Serve) -> None:
    """The fixture ends it with a page open: it would hang here otherwise."""
    serve().stream().next()


def test_an_address_that_is_taken_is_refused_in_one_line() -> None:
    listener, address = bind(Address("127.0.0.1", 0))
    with (
        listener,
        pytest.raises(CannotServe, match=r"cannot listen on 127\.0\.0\.1:\d+ \(.*--listen"),
    ):
        bind(address)


# TLS ----------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Tls:
    from cryptography import x509  # noqa: PLC0415  # only here
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dashboard")])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    tls = Tls(tmp_path / "dashboard.crt", tmp_path / "dashboard.key")
    tls.cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    tls.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return tls


def test_over_tls_a_cookie_is_kept_from_all_else(serve: Serve, certificate: Tls) -> None:
    trusted = ssl.create_default_context(cafile=str(certificate.cert_file))
    dashboard = serve(token="correct-horse-battery", tls=certificate, trusted=trusted)
    status, headers, _ = dashboard.get("/?token=correct-horse-battery")
    assert status == 303
    assert "Secure" in headers["set-cookie"]
    assert headers["strict-transport-security"].startswith("max-age=")
    dashboard.headers["cookie"] = headers["set-cookie"].partition(";")[0]
    assert dashboard.stream().next().name == "snapshot"
    dashboard.trusted = None
    with pytest.raises((ConnectionError, OSError)):
        dashboard.get("/")


def test_a_certificate_that_cannot_be_used_is_refused_by_name(
    certificate: Tls, tmp_path: Path
) -> None:
    wrong = Tls(certificate.key_file, certificate.cert_file)
    missing = Tls(tmp_path / "none.crt", tmp_path / "none.key")
    for tls in (wrong, missing):
        with pytest.raises(CannotServe, match=str(tls.cert_file.name)):
            make_server(_nothing, bridge=None, snapshot=dict, tls=tls)  # type: ignore[arg-type]


async def _nothing(*_: object) -> None:
    raise AssertionError("it must not be asked")
