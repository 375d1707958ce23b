"""How a command ends early, and writes what it was asked for: one line says what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import typer

from transport.exit_codes import ExitCode


def fail(code: ExitCode, text: str) -> NoReturn:
    """End the command with this code, after one line to the person who gave it."""
    print(f"fedfstq: {text}", file=sys.stderr)  # noqa: T201  # this is a command's last word
    raise typer.Exit(int(code))


def write_text(path: Path, content: str) -> None:
    """Write a file, as it is and with the folders above it, or end the command."""
    write_bytes(path, content.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file with the folders above it, or end the command."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        fail(ExitCode.CONFIG, f"{path} cannot be written: {error.strerror}")
