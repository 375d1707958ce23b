"""Real processes that are killed, stay dead for a moment and come back, as systemd would do it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# [s] systemd's RestartSec in the units is seconds; a test that kills often waits less.
RESTART_AFTER_S = 0.2
# [s] The same for a process that ended by itself: what it says is passing needs a moment to pass.
TRY_AGAIN_AFTER_S = 1.0
# [s] What a process gets to end after SIGTERM.
STOP_TIMEOUT_S = 10.0

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Child:
    """One process by its name, over all its restarts.

    Attributes:
        codes: How each of its lives ended, as exit code or negative signal.
        restart_at: When it is started again; None while it lives, or where it is to stay dead.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes]
    codes: list[int] = field(default_factory=list)
    restart_at: float | None = None
    supervised: bool = True


class Supervisor:
    """Starts processes, and starts again what died; their logs go to one folder.

    Args:
        folder: Gets `<name>.log` of each process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: dict[str, Child] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def start(
        self, name: str, command: tuple[str, ...], *, environ: Mapping[str, str] | None = None
    ) -> None:
        """Start a process, or start it anew with another command or environment."""
        environment = dict(environ or {})
        process = self._spawn(name, command, environment)
        before = self.children.get(name)
        codes = before.codes if before else []
        self.children[name] = Child(name, command, environment, process, codes)

    def kill(self, name: str, *, stays_dead: bool = False) -> None:
        """Kill a process with SIGKILL; it is started again by `watch`, or by `start` only."""
        child = self.children[name]
        if child.process.poll() is None:
            child.process.kill()
        child.codes.append(child.process.wait())
        child.supervised = not stays_dead
        child.restart_at = None if stays_dead else time.monotonic() + RESTART_AFTER_S

    def alive(self, name: str) -> bool:
        """Tell whether a process runs at this moment."""
        child = self.children.get(name)
        return child is not None and child.process.poll() is None

    def watch(self) -> list[str]:
        """Start again what died and is due; return the names of what ended since the last call."""
        ended = []
        now = time.monotonic()
        for child in list(self.children.values()):
            if not child.supervised:
                continue
            if child.restart_at is not None:
                if now >= child.restart_at:
                    child.restart_at = None
                    child.process = self._spawn(child.name, child.command, child.environ)
                continue
            code = child.process.poll()
            if code is None:
                continue
            child.codes.append(code)
            ended.append(child.name)
            child.restart_at = now + (RESTART_AFTER_S if code < 0 else TRY_AGAIN_AFTER_S)
        return ended

    def stop(self) -> dict[str, int]:
        """Stop every process, the first started last; return how each ended that was alive."""
        codes: dict[str, int] = {}
        children = list(self.children.values())
        for group in (children[1:], children[:1]):
            living = [child for child in group if child.process.poll() is None]
            for child in living:
                child.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + STOP_TIMEOUT_S
            for child in living:
                try:
                    codes[child.name] = child.process.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    codes[child.name] = child.process.wait()
        self.children.clear()
        return codes

    def _spawn(
        self, name: str, command: tuple[str, ...], environ: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as output:
            return subprocess.Popen(  # noqa: S603  # this program's own commands, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ},
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # one libc call, no locks
            )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
