"""`fedfstq dashboard`: what it refuses, and what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.cli import app
from tools.dashboard.command import _token
from transport.exit_codes import ExitCode


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "viewer.yaml"
    file.write_text(
        "federation: clinics\nbroker: {host: 127.0.0.1, port: 1, connect_timeout_s: 1}\n",
        encoding="utf-8",
    )
    return file


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--listen", "0.0.0.0:8765"], ExitCode.USAGE, "--token FILE and --tls-cert"),
        (["--listen", "pi:8765"], ExitCode.USAGE, "no IP address"),
        (["--tls-cert", "a.crt"], ExitCode.USAGE, "go together"),
        (["--fleet", "/nowhere"], ExitCode.USAGE, "--config or --fleet"),
        (["--token", "/nowhere/token"], ExitCode.CONFIG, "/nowhere/token"),
        (["--tls-cert", "/a.crt", "--tls-key", "/a.key"], ExitCode.CONFIG, "/a.crt"),
    ],
)
def test_what_is_unsafe_or_wrong_is_refused_in_one_line(
    config: Path, options: list[str], code: ExitCode, said: str
) -> None:
    arguments = ["dashboard", "--listen", "127.0.0.1:0", "--config", str(config), *options]
    result = CliRunner().invoke(app, arguments)
    expected = ExitCode.CONFIG if "--fleet" in options else code
    assert result.exit_code == expected, result.output
    assert said in result.stderr
    assert result.stderr.startswith("fedfstq: ")
    assert result.stderr.count("\n") == 1


def test_a_token_is_made_where_there_is_none_and_nobody_else_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = _token(file)
    assert token is not None
    assert len(token) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert _token(file) == token
    assert _token(None) is None


def test_it_serves_without_a_broker_says_where_and_ends_at_a_signal(config: Path) -> None:
    command = [sys.executable, "-m", "tools.cli", "dashboard", "-c", str(config)]
    token = config.parent / "token"
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--token", str(token)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"dashboard: http://127\.0\.0\.1:\d+/\?token=….*\n", line)
        assert token.read_text().strip() not in line  # a log may be read by others
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode == ExitCode.OK


def test_a_signal_while_the_event_loop_is_made_ends_it_as_well(config: Path) -> None:
    script = (
        "import asyncio, os, signal, sys\n"
        "made = asyncio.base_events.BaseEventLoop.__init__\n"
        "def make(self):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    made(self)\n"
        "asyncio.base_events.BaseEventLoop.__init__ = make\n"
        "from tools.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    command = ["dashboard", "-c", str(config), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.stderr == ""
    assert ended.returncode == ExitCode.OK


def test_help_loads_no_web_server() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from tools.cli import app;"
        "assert 'loopback' in CliRunner().invoke(app, ['dashboard', '--help']).output;"
        "print(sorted({'starlette', 'uvicorn', 'paho', 'torch', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
