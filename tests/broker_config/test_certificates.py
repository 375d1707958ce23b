"""The certificate script signs what it should and refuses the rest in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "broker_config" / "certificates.sh"


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", SCRIPT, folder, *arguments], check=False, capture_output=True, text=True
    )


def _openssl(*arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("name", ["a/b", "Dev", "+", "#", "-dev", "dev-", "", "a" * 65, "ca"])
def test_a_name_that_is_no_identifier_is_not_signed(certificates: Path, name: str) -> None:
    """A slash in a CN would let one device write another's topics."""
    before = sorted(certificates.iterdir())
    done = _run(certificates, "login", name)
    assert done.returncode == 2
    assert done.stderr.startswith("certificates.sh: ")
    assert done.stderr.count("\n") == 1
    assert sorted(certificates.iterdir()) == before


def test_an_existing_certificate_is_never_overwritten(certificates: Path) -> None:
    before = {file: file.read_bytes() for file in certificates.iterdir()}
    for arguments in (["ca"], ["broker", "localhost"], ["login", "dev-1"]):
        assert _run(certificates, *arguments).returncode == 2
    assert {file: file.read_bytes() for file in certificates.iterdir()} == before


def test_keys_are_readable_by_their_owner_alone(certificates: Path) -> None:
    keys = list(certificates.glob("*.key"))
    assert len(keys) == 7
    assert {file.stat().st_mode & 0o777 for file in keys} == {0o600}


@pytest.mark.parametrize(("name", "purpose"), [("dev-1", "sslclient"), ("broker", "sslserver")])
def test_a_certificate_serves_one_purpose_and_passes_strict_checks(
    certificates: Path, name: str, purpose: str
) -> None:
    """Python 3.13 verifies with OpenSSL's strict flag; a device must not pose as the broker."""
    verify = ["verify", "-x509_strict", "-CAfile", f"{certificates}/ca.crt"]
    leaf = f"{certificates}/{name}.crt"
    assert leaf in _openssl(*verify, "-purpose", purpose, leaf)
    other = {"sslclient": "sslserver", "sslserver": "sslclient"}[purpose]
    with pytest.raises(subprocess.CalledProcessError):
        _openssl(*verify, "-purpose", other, leaf)


def test_the_broker_is_named_by_hosts_and_addresses(certificates: Path, tmp_path: Path) -> None:
    for file in ("ca.crt", "ca.key"):
        (tmp_path / file).write_bytes((certificates / file).read_bytes())
    assert _run(tmp_path, "broker", "mqtt.example.org", "10.0.0.5", "fd00::5").returncode == 0
    names = _openssl("x509", "-in", f"{tmp_path}/broker.crt", "-noout", "-ext", "subjectAltName")
    assert "DNS:mqtt.example.org, IP Address:10.0.0.5, IP Address:FD00:0:0:0:0:0:0:5" in names


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["broker"], ["login"]])
def test_wrong_usage_is_one_clear_line(tmp_path: Path, arguments: list[str]) -> None:
    done = _run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_signing_without_the_authority_says_what_to_do_first(tmp_path: Path) -> None:
    done = _run(tmp_path, "login", "dev-1")
    assert done.returncode == 2
    assert "run 'certificates.sh FOLDER ca' first" in done.stderr
