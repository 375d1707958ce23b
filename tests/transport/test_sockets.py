from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from transport import sockets
from transport.broker import BrokerConfig, TlsConfig
from transport.errors import BadLinkConfig
from transport.silence import TcpView


class Recorder:
    """A socket of a kernel that lacks one option."""

    def __init__(self, lacks: int | None = None) -> None:
        self.lacks = lacks
        self.options: dict[tuple[int, int], int | bytes] = {}

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        if option == self.lacks:
            raise OSError(2, "No such file or directory")
        self.options[level, option] = value


def test_long_uploads_get_their_options() -> None:
    sock = Recorder()
    sockets.tune(sock)
    assert sock.options[socket.IPPROTO_TCP, socket.TCP_NODELAY] == 1
    assert sock.options[socket.SOL_SOCKET, socket.SO_SNDBUF] == 131_072
    assert sock.options[socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT] == 45_000
    assert sock.options[socket.IPPROTO_TCP, socket.TCP_CONGESTION] == b"bbr"
    assert sock.options[socket.IPPROTO_TCP, 44] == 8_000


def test_a_kernel_without_bbr_is_no_fault() -> None:
    sock = Recorder(lacks=socket.TCP_CONGESTION)
    sockets.tune(sock)
    assert len(sock.options) == 4


def test_a_real_socket_takes_them() -> None:
    with socket.socket() as sock:
        sockets.tune(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 45_000


def test_bytes_that_wait_for_a_slow_reader_are_no_silence() -> None:
    """The user timeout is a tenth of the time that the send buffer needs to empty."""
    with socket.socket() as listener, socket.socket() as sender:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sockets.tune(sender)
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 150)
        sender.connect(listener.getsockname())
        reader, _ = listener.accept()
        with reader:
            reader.settimeout(10)
            sender.settimeout(10)
            thread = threading.Thread(target=lambda: sender.sendall(bytes(200_000)))
            thread.start()
            received = 0
            while received < 200_000:
                part = reader.recv(4096)
                assert part, "the kernel gave the connection up"
                received += len(part)
                time.sleep(0.03)
            thread.join(10)


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as near:
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            yield near, far


Ends = tuple[socket.socket, socket.socket]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has TCP_INFO")


def eventually(near: socket.socket, holds: Callable[[TcpView], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        view = sockets.look(near, is_queue_empty=True)
        assert view is not None
        if holds(view):
            return True
        time.sleep(0.01)
    return False


@on_linux
def test_a_socket_tells_what_is_acknowledged_and_what_came(connected: Ends) -> None:
    near, far = connected
    near.sendall(bytes(1000))
    assert eventually(near, lambda view: view.is_drained and view.outstanding == 0)
    assert eventually(near, lambda view: view.received_ago_s > 0.2)
    far.sendall(b"x")
    assert eventually(near, lambda view: view.received_ago_s < 0.1)
    view = sockets.look(near, is_queue_empty=False)
    assert view is not None
    assert not view.is_drained
    assert 0 < view.rtt_s < 1


@on_linux
def test_a_reader_that_stops_reading_leaves_bytes_that_are_not_drained(connected: Ends) -> None:
    """Its window is closed, but its TCP answers: nothing is outstanding for long."""
    near, _ = connected
    near.settimeout(0.0)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1 << 16))
    assert eventually(near, lambda view: not view.is_drained and view.outstanding == 0)


def test_a_system_that_tells_nothing_is_not_looked_at(
    connected: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = connected
    far.close()
    near.close()
    assert sockets.look(near, is_queue_empty=True) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sockets.look(near, is_queue_empty=True) is None


@on_linux
def test_a_kernel_whose_answer_is_short_is_not_read(
    connected: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = type("Longer", (), {"size": 1 << 16})()
    monkeypatch.setattr(sockets, "_TCP_INFO", longer)
    assert sockets.look(connected[0], is_queue_empty=True) is None


def test_an_aborted_connection_sends_nothing_more(connected: Ends) -> None:
    near, far = connected
    sockets.abort(near)
    near.close()
    far.settimeout(10)
    with pytest.raises(ConnectionResetError):
        far.recv(1)


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("sécret with spaces \nnot this\n")
    assert sockets.read_password(BrokerConfig(username="u", password_file=path)) == (
        "sécret with spaces "
    )
    assert sockets.read_password(BrokerConfig(username="u")) is None


@pytest.mark.parametrize("content", [b"", b"\nsecond\n", b"\xff\xfe"])
def test_a_password_file_without_a_password_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(BadLinkConfig, match=str(path)):
        sockets.read_password(BrokerConfig(username="u", password_file=path))


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    with pytest.raises(BadLinkConfig, match=f"password_file {path} cannot be read: No such file"):
        sockets.read_password(BrokerConfig(username="u", password_file=path))


def test_a_password_without_a_username_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadLinkConfig, match="username"):
        sockets.read_password(BrokerConfig(password_file=tmp_path / "password"))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    try:
        subprocess.run(
            [*command, "-keyout", str(key), "-out", str(certificate)],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed: apt-get install openssl")
    return certificate, key


def test_a_context_trusts_the_given_authority_and_checks_names(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    context = sockets.tls_context(
        TlsConfig(ca_file=certificate, cert_file=certificate, key_file=key)
    )
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_each_tls_file_that_cannot_be_used_is_named(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = pair
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    nowhere = tmp_path / "nowhere"
    for tls, named in (
        (TlsConfig(ca_file=nowhere), f"ca_file {nowhere}"),
        (TlsConfig(ca_file=tmp_path), f"ca_file {tmp_path}"),
        (TlsConfig(ca_file=junk), f"ca_file {junk}"),
        (TlsConfig(ca_file=certificate, cert_file=nowhere, key_file=key), f"cert_file {nowhere}"),
        (TlsConfig(ca_file=certificate, cert_file=certificate, key_file=nowhere), "key_file"),
        (TlsConfig(ca_file=certificate, cert_file=certificate, key_file=junk), f"{junk}"),
        (TlsConfig(ca_file=certificate, cert_file=certificate), f"{certificate}"),
        (TlsConfig(ca_file=certificate, key_file=key), "cert_file"),
    ):
        with pytest.raises(BadLinkConfig, match=named):
            sockets.tls_context(tls)


def test_an_encrypted_key_is_refused_instead_of_asked_for(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = pair
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", str(key), "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    with pytest.raises(BadLinkConfig, match="unencrypted"):
        sockets.tls_context(TlsConfig(ca_file=certificate, cert_file=certificate, key_file=locked))
