"""A key is systemd's copy where there is one, and the configured file otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from transport.broker import TlsConfig
from transport.credentials import credential
from transport.errors import BadLinkConfig
from transport.sockets import tls_context

PEM = b"-----BEGIN PRIVATE KEY-----\n"


def test_systemds_copy_comes_first(tmp_path: Path) -> None:
    (tmp_path / "dev.key").write_bytes(PEM)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credential(Path("/etc/certs/dev.key"), environ=environ) == tmp_path / "dev.key"


@pytest.mark.parametrize("content", [None, b"", b"missing"])
def test_a_copy_that_is_no_key_does_not_count(tmp_path: Path, content: bytes | None) -> None:
    """The units give a word in the place of a file that is not there."""
    if content is not None:
        (tmp_path / "dev.key").write_bytes(content)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    named = Path("/etc/certs/dev.key")
    assert credential(named, environ=environ) == named


def test_without_systemd_the_file_is_the_one_that_is_named() -> None:
    named = Path("/etc/certs/dev.key")
    assert credential(named, environ={}) == named
    assert credential(named, environ={"CREDENTIALS_DIRECTORY": ""}) == named


def test_a_link_reads_its_key_from_the_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dev.key").write_bytes(PEM)
    (tmp_path / "ca.crt").write_bytes(b"no certificate")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    tls = TlsConfig(
        ca_file=tmp_path / "ca.crt", cert_file=tmp_path / "ca.crt", key_file=Path("/none/dev.key")
    )
    with pytest.raises(BadLinkConfig, match="ca_file"):  # the key was read before
        tls_context(tls)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(BadLinkConfig, match=r"key_file /none/dev\.key cannot be read"):
        tls_context(tls)
